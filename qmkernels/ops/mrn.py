"""MRN for users: checks, broadcasting, autograd. Copy this op to add a distance (csrc/README.md)."""

from __future__ import annotations

from torch import Tensor

from ..arguments.mrn import MrnSettings, resolved_settings
from ..backends import dispatch
from ..definitions import mrn as definition
from ..definitions.dtypes import in_compute_dtype
from ..definitions.mrn import Parts
from . import arguments, broadcasting
from .autograd import Op, every_pair_gradient, every_pair_plain
from .registration import Kernel, schema_of

# --- The ops registered with torch, and their derivatives.

_SETTINGS = f"{schema_of(MrnSettings)}, str backend"
_FORWARD = f"(Tensor x, Tensor y, {_SETTINGS}) -> Tensor"
_BACKWARD = f"(Tensor grad_out, Tensor x, Tensor y, {_SETTINGS}) -> (Tensor, Tensor)"


def _gradient(grad_out: Tensor, x: Tensor, y: Tensor, *settings) -> tuple[Tensor, Tensor]:
    grad_x = definition.gradient(grad_out, x, y, MrnSettings(*settings))
    return grad_x, -grad_x


def _plain(x: Tensor, y: Tensor, *settings) -> Tensor:
    return definition.mrn(x, y, MrnSettings(*settings))


_ROWS = Op(
    "Mrn",
    Kernel("mrn", f"mrn_forward{_FORWARD}", definition.mrn_forward_outputs),
    Kernel("mrn", f"mrn_backward{_BACKWARD}", definition.mrn_backward_outputs),
    gradient=_gradient,
    plain=_plain,
)
_PAIRS = Op(
    "MrnPairwise",
    Kernel("mrn", f"mrn_pairwise_forward{_FORWARD}", definition.mrn_pairwise_forward_outputs),
    Kernel("mrn", f"mrn_pairwise_backward{_BACKWARD}", definition.mrn_backward_outputs),
    gradient=every_pair_gradient(_gradient),
    plain=every_pair_plain(_plain),
    pairwise=True,
)
FORMS = broadcasting.DistanceForms(_ROWS, _PAIRS, rows_take_half=True)
# The same with the differences y - x.
TO_MINUS_FROM = FORMS.backwards()


def forms(to_minus_from: bool) -> broadcasting.DistanceForms:
    return TO_MINUS_FROM if to_minus_from else FORMS


# --- The public functions.


def mrn(
    x: Tensor,
    y: Tensor,
    num_components: int | None = None,
    *,
    preset: str | None = None,
    asymmetric: str | None = None,
    squares: str | None = None,
    exponent: float | None = None,
    eps: float | None = None,
    eps_form: str | None = None,
    reduction: str | None = None,
    scale: float | None = None,
    to_minus_from: bool = False,
    bidirectional: bool = False,
    backend: str | None = None,
) -> broadcasting.Distances:
    r"""Metric residual network: the distance from ``x`` to ``y``, a symmetric plus an asymmetric part.

    With the last dimension split into C = ``num_components`` components, each with an asymmetric half A and a symmetric
    half B,

    .. math:: d_c(x, y) = \max_{j \in A} \mathrm{relu}(x_{cj} - y_{cj})
              + \Big(\sum_{i \in B} (x_{ci} - y_{ci})^2\Big)^{p/2}

    and d reduces the components. Note the sign, x - y, unlike IQE. It is a quasimetric for p <= 1 and eps = 0; with
    eps > 0, as published, d(x, x) is a small constant instead of 0.

    Args:
        x: from, ``(..., D)``; float32, float64, bfloat16 or float16.
        y: to, of x's dtype and device; leading dimensions broadcast. If they form a matrix of pairs, as in
            ``mrn(x[:, None], y)``, the pairwise kernel runs and nothing of size N x M x D exists.
        num_components: C, which divides D. Default 1.
        preset: published settings; explicit settings override the preset's:

            ==================  ==  ==========  =======  =====================  =========  ==========
            name                C   asymmetric  squares  eps                    exponent   reduction
            ==================  ==  ==========  =======  =====================  =========  ==========
            "torchqmet"         1   second      mean     0                      2          sum
            "torchqmet_fixed"   1   second      mean     0                      1          sum
            "ogbench"           1   second      sum      max(squares, 1e-12)    1          sum
            "tmd"               8   first       sum      squares + 1e-6         1          mean
            "mqe"               8   first       sum      differences + 1e-8     1          mean/sqrt(D)
            "etd"               1   first       sum      squares + 1e-8         1          sum
            "x_jepa"            8   first       sum      0                      1          mean
            ==================  ==  ==========  =======  =====================  =========  ==========

            TD-JEPA's head is "ogbench" behind its projection.

        asymmetric: which half of a component is asymmetric: "first" (S // 2 of S values), "second" (the rest) or
            "none", so that all of it is symmetric. Default "first".
        squares: "sum" or "mean" of the squared differences. Default "sum".
        exponent: p. Default 1, a Euclidean norm; 2 is the published MRN, which is not a quasimetric.
        eps: at least 0. Default 0.
        eps_form: where eps sits: "add" to the squares, "max" with the squares, or added to every "difference".
        reduction: of components, "sum", "mean" or "none". Default "sum".
        scale: factor of the distance. Default 1.
        to_minus_from: whether the differences are y - x, for heads whose residual is relu(to - from): the distance that
            is otherwise from y to x. Default False.
        bidirectional: returns both directions, a named tuple (x_to_y, y_to_x).
        backend: "cuda", "triton", "cpu", "reference" or "auto"; None: what `use_backend` says.

    Returns:
        Distances ``(...)``, in the units of x and y; for reduction "none" components ``(..., C)``. float32 for half
        inputs, which are computed in float32, else x's dtype.

    The gradient is finite everywhere; a symmetric part of 0 has gradient 0. Of equal largest differences, one gets the
    gradient of the asymmetric part.

    NaN in a component gives NaN only in its row; infinities give what the formula gives.

    Raises:
        ValueError: sizes that do not fit, an unknown name, or a setting out of range.
        TypeError: tensors that are not float or differ in dtype.
        RuntimeError: different devices, or a backend that cannot run here.

    Source: Liu et al. 2022, arXiv 2208.08133. Presets: torchqmet; the value network of OGBench (arXiv 2410.20092); the
    agents of TMD (arXiv 2509.20478) and CMD (arXiv 2406.17098), of MQE (arXiv 2511.07730), of ETD (arXiv 2501.15418);
    the MetricResidualNetwork of https://github.com/lucidrains/x-jepa.

    Example:
        >>> x, y = torch.tensor([3.0, 0.0, 3.0, 4.0]), torch.tensor([1.0, 5.0, 0.0, 0.0])
        >>> qm.mrn(x, y)
        tensor(7.)
        >>> qm.mrn(x, y, bidirectional=True)
        BothWays(x_to_y=tensor(7.), y_to_x=tensor(10.))
    """
    settings = dict(
        num_components=num_components, asymmetric=asymmetric, squares=squares, exponent=exponent, eps=eps,
        eps_form=eps_form, reduction=reduction, scale=scale,
    )  # fmt: skip
    arguments.check_embeddings("mrn", x, y)
    settings = resolved_settings("mrn", x.shape[-1], preset, settings)
    backend = dispatch.requested(backend)
    return broadcasting.elementwise("mrn", forms(to_minus_from), x, y, (), settings, backend, bidirectional)


def mrn_pairwise(
    x: Tensor,
    y: Tensor,
    num_components: int | None = None,
    *,
    preset: str | None = None,
    asymmetric: str | None = None,
    squares: str | None = None,
    exponent: float | None = None,
    eps: float | None = None,
    eps_form: str | None = None,
    reduction: str | None = None,
    scale: float | None = None,
    to_minus_from: bool = False,
    bidirectional: bool = False,
    backend: str | None = None,
) -> broadcasting.Distances:
    """Computes `mrn` from every row of ``x`` to every row of ``y``, as ``torch.cdist`` pairs them.

    ``out[..., i, j] = mrn(x[..., i, :], y[..., j, :])``. Memory beyond inputs and output is of the inputs' size, and
    backward keeps only the inputs. Deterministic, forward and backward.

    Args:
        x: from, ``(*b, N, D)``.
        y: to, ``(*b, M, D)``; the batch dimensions, an ensemble for example, broadcast.
        num_components, preset, asymmetric, squares, exponent, eps, eps_form, reduction, scale, to_minus_from, backend:
            as for `mrn`.
        bidirectional: returns both directions: ``y_to_x[..., i, j] = mrn(y[..., j, :], x[..., i, :])``.

    Returns:
        ``(*b, N, M)``, or for reduction "none" ``(*b, N, M, C)``; dtype as for `mrn`.

    Gradients, NaN, infinities and errors are as for `mrn`; also a ValueError for tensors of fewer than two dimensions.

    Source: as for `mrn`.

    Example:
        >>> x, y = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, 2.0]])
        >>> qm.mrn_pairwise(x, y)
        tensor([[2.],
                [1.]])
    """
    settings = dict(
        num_components=num_components, asymmetric=asymmetric, squares=squares, exponent=exponent, eps=eps,
        eps_form=eps_form, reduction=reduction, scale=scale,
    )  # fmt: skip
    arguments.check_embeddings("mrn_pairwise", x, y)
    settings = resolved_settings("mrn_pairwise", x.shape[-1], preset, settings)
    backend = dispatch.requested(backend)
    return broadcasting.pairwise("mrn_pairwise", forms(to_minus_from), x, y, (), settings, backend, bidirectional)


def euclidean_pairwise(x: Tensor, y: Tensor, *, backend: str | None = None) -> Tensor:
    """Computes the Euclidean distance from every row of ``x`` to every row of ``y``: the MRN without asymmetric part.

    ``out[..., i, j] = ||x[..., i, :] - y[..., j, :]||``. It squares the differences themselves, so d(x, x) is exactly 0
    and near rows lose no digits; ``torch.cdist`` uses a matrix product for all but small inputs.

    Args:
        x: ``(*b, N, D)``; float32, float64, bfloat16 or float16.
        y: ``(*b, M, D)``, of x's dtype and device; the batch dimensions broadcast.
        backend: as for `mrn`.

    Returns:
        ``(*b, N, M)``; float32 for half inputs, else x's dtype.

    The gradient is finite everywhere, and 0 where the distance is 0. Memory, NaN, infinities and errors are as for
    `mrn_pairwise`.

    Example:
        >>> qm.euclidean_pairwise(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 0.0]]))
        tensor([[0.],
                [5.]])
    """
    arguments.check_embeddings("euclidean_pairwise", x, y)
    settings = MrnSettings(asymmetric="none")
    return broadcasting.pairwise("euclidean_pairwise", FORMS, x, y, (), settings, dispatch.requested(backend))


def parts(x: Tensor, y: Tensor, settings: MrnSettings, to_minus_from: bool = False) -> Parts:
    """Computes the two parts of `mrn` with resolved settings, for heads, in plain PyTorch."""
    x, y = in_compute_dtype(x), in_compute_dtype(y)
    return definition.parts(y, x, settings) if to_minus_from else definition.parts(x, y, settings)


def with_settings(x: Tensor, y: Tensor, settings: MrnSettings, to_minus_from: bool = False) -> Tensor:
    """Computes `mrn` with resolved settings, for heads."""
    return broadcasting.elementwise("mrn", forms(to_minus_from), x, y, (), settings, dispatch.requested(None))
