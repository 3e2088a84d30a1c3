"""Runs a case and compares its results: with the reference's within tolerances, with other runs' bit by bit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from fuzz_draws import Case, Draw
from torch import Tensor


@dataclass
class Results:
    names: tuple[str, ...]
    outputs: tuple[Tensor, ...]
    grads: list[Tensor | None]


def run(case: Case, upstreams: list[Tensor], draw: Draw | None) -> Results:
    """Returns the results of the current backend. The first run draws the upstream gradients, which others reuse."""
    leaves = [leaf if _is_parameter(leaf) else leaf.detach().requires_grad_() for leaf in case.inputs]
    outputs = case.call(*leaves, *case.constants)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    names = getattr(outputs, "_fields", tuple(map(str, range(len(outputs)))))
    from_here = [output for output in outputs if output.requires_grad]
    if draw is not None:
        upstreams.extend(draw.upstream(output) for output in from_here)
    grads = torch.autograd.grad(from_here, leaves, upstreams, allow_unused=True)
    return Results(names, tuple(output.detach() for output in outputs), list(grads))


def assert_same_bits(op: str, first: Results, other: Results, when: str) -> None:
    pairs = [*zip(first.outputs, other.outputs, strict=True)]
    if op != "nearest":  # torch sums the gradient of y[indices] in any order
        pairs += zip(first.grads, other.grads, strict=True)
    for a, b in pairs:
        assert (a is None) == (b is None), f"{op}, {when}: a gradient is missing"
        assert a is None or bool(_same(a, b).all()), f"{op}, {when}: other bits"


def _assert_near(
    what: str, actual: Tensor, expected: Tensor, units: float, least_scale: float | Tensor, tied: Tensor | None = None,
    where_finite: bool = False, without_overflow: bool = False,
) -> None:  # fmt: skip
    """``least_scale``: a lower bound of the scale, the largest of ``expected``, or the scale of each value.
    ``tied``: a mask (..., C, 1) of components whose sums are compared; the tensors are (..., C * K)."""
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, f"{what}: {actual.dtype} {actual.shape}"
    dtype = actual.dtype
    if not dtype.is_floating_point:
        assert torch.equal(actual, expected), f"{what} differs"
        return
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    actual, expected = actual.double(), expected.double()
    scale = least_scale if isinstance(least_scale, Tensor) else max(least_scale, _largest(expected))
    bound = torch.zeros_like(expected) + units * eps * scale
    if dtype not in (torch.float32, torch.float64):
        # Tied ends may cancel in a sum, but each is rounded, so the scale counts them on both sides.
        rounded = torch.maximum(actual.abs(), expected.abs()).nan_to_num(0, 0, 0).clamp(min=torch.finfo(dtype).tiny)
        bound += 2 * torch.finfo(dtype).eps * rounded
    if tied is not None:
        actual, expected, bound = (_summed_where(tied, values) for values in (actual, expected, bound))
    if where_finite:  # after the sums, because another of the tied ends may be the infinite one
        actual = torch.where(expected.isfinite(), actual, expected)
    if without_overflow:
        actual, expected = (_without_overflow(values, dtype) for values in (actual, expected))
    wrong = ~(_same(actual, expected) | ((actual - expected).abs() <= bound))
    if wrong.any():
        place = tuple(wrong.nonzero()[0].tolist())
        raise AssertionError(
            f"{what}{list(place)} is {actual[place].item():.9g}, the reference has {expected[place].item():.9g} "
            f"(allowed {bound[place].item():.3g}); {int(wrong.sum())} of {wrong.numel()} differ"
        )


def _summed_where(tied: Tensor, values: Tensor) -> Tensor:
    """Replaces each value of a ``tied`` component by the component's sum."""
    count = tied.shape[-2]
    values = values.unflatten(-1, (count, values.shape[-1] // max(count, 1)))
    return torch.where(tied, values.sum(dim=-1, keepdim=True), values).flatten(-2)


def _tied(input: Tensor, size: int, everywhere: bool) -> Tensor | None:
    """Returns which components of an input, (..., C, 1), have equal values or, ``everywhere``, may have equal
    differences. Random numbers tie too: of some thousand in float32, two are equal in one case of a hundred."""
    if input.dim() == 0 or input.shape[-1] % size:
        return None
    components = input.detach().unflatten(-1, (-1, size))
    meet = components.double().sort(dim=-1).values.diff(dim=-1) == 0
    return meet.any(dim=-1, keepdim=True) | everywhere


# Known, to be fixed: a NaN in a row of y gives some gradients of IQE 0 or those of numbers; far distances cancel in the
# matrix form of pairwise losses, whose sums of the largest numbers also overflow in another order.
HEADS_WITHOUT_NAN_GRADIENTS = ("IQE", "Simple", "<function")
INFINITE_NOT_COMPARED = ("contrastive", "linex", "tmd_critic", "metric_contrastive")


def compare(op: str, case: Case, draw: Draw, actual: Results, expected: Results, upstreams: list[Tensor]) -> None:
    if draw.content == "infinite" and op in INFINITE_NOT_COMPARED:
        return
    if case.check is not None:
        case.check(actual.outputs, expected.outputs)
    else:
        scale = max(_largest(output) for output in expected.outputs)
        for i, pair in enumerate(zip(actual.outputs, expected.outputs, strict=True)):
            if expected.names[i] == "accuracy" and not _accuracy_is_defined(case, draw):
                continue
            _assert_near(
                f"output {expected.names[i]}", *pair, case.tolerance[0], scale,
                without_overflow=draw.content == "infinite",
            )  # fmt: skip
    is_iqe = op.startswith("iqe") or str(case.settings.get("head")).startswith(HEADS_WITHOUT_NAN_GRADIENTS)
    if draw.content == "nan" and is_iqe:
        return
    scale = max((_largest(grad) for grad in upstreams), default=0.0)
    ties = draw.content in ("ties", "equal rows", "denormal", "infinite")  # infinities tie, as the largest number
    ties = ties or draw.dtype in (torch.bfloat16, torch.float16)
    # A projector's bias moves x and y alike: its gradient is 0 up to the rounding of terms as large as its weights'.
    pairs = zip(case.inputs, expected.grads, strict=True)
    of_parameters = max((_largest(grad) for leaf, grad in pairs if _is_parameter(leaf) and grad is not None), default=0)
    for i, (ours, theirs, leaf) in enumerate(zip(actual.grads, expected.grads, case.inputs, strict=True)):
        assert (ours is None) == (theirs is None), f"gradient {i} is {ours}, the reference has {theirs}"
        if ours is None:
            continue
        if draw.content in ("nan", "infinite", "denormal"):
            # 0 times NaN is NaN in one formula and 0 where a mask selects. What is defined is that a row with NaN has a
            # gradient with NaN. Squares of denormal numbers are 0.
            if draw.content == "nan" and op in OPS_OF_ROWS and leaf.dim() > 1:
                no_number = leaf.isnan().any(dim=-1) & theirs.isnan().any(dim=-1)
                assert ours.isnan().any(dim=-1)[no_number].all(), f"gradient {i} of a row with NaN is a number"
        least_scale = max(scale, of_parameters) if _is_parameter(leaf) else scale
        _assert_near(
            f"gradient {i}", ours, theirs, case.tolerance[1], least_scale if case.terms is None else scale * case.terms,
            tied=None if case.sum_over is None else _tied(leaf, case.sum_over, ties),
            where_finite=draw.content in ("nan", "infinite", "denormal"),
            without_overflow=draw.content == "infinite",
        )  # fmt: skip


OPS_OF_ROWS = ("iqe", "iqe_pairwise", "mrn", "mrn_pairwise", "euclidean_pairwise", "pqe", "pqe_pairwise")


def _accuracy_is_defined(case: Case, draw: Draw) -> bool:
    """Returns False where many logits tie for the largest up to rounding, as PQE's distances near 1 do, and for a NaN
    sigmoid loss, where the kernel counts rows whose maximum ignores NaN."""
    saturates = str(case.settings["head"]).startswith("PQE")
    return not saturates and not (draw.content == "nan" and case.settings.get("form") == "sigmoid")


def _without_overflow(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Makes all overflowing values equal: sums in double do not overflow where those in float do, and of two products
    one may."""
    far = torch.finfo(dtype).max / 1024
    return values.clamp(-far, far)


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, torch.nn.Parameter)


def _same(actual: Tensor, expected: Tensor) -> Tensor:
    """Returns where they are equal, infinities and NaN included."""
    return (actual == expected) | (actual.isnan() & expected.isnan())


def _largest(tensor: Tensor) -> float:
    finite = tensor[tensor.isfinite()]
    return finite.abs().max().item() if finite.numel() else 0.0
