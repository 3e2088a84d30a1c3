"""The module IQE: torchqmet's interface, and the same numbers whether fused or composed."""

from __future__ import annotations

import copy
import importlib
import io
import os
import pickle
import warnings

import pytest
import torch
from torch import nn

import qmkernels as qm
from qmkernels.definitions import iqe as reference
from qmkernels.nn import reductions, transforms

FUSED = ("sum", "mean", "max", "maxmean", "maxmean_ogbench")
ALL_REDUCTIONS = (*FUSED, "deep_linear_net_weighted_sum")
SIZES = [(7, 1), (33, 3), (40, 8), (123, 123)]

GOLDEN_REPR = {
    "maxmean": """\
IQE(
  guaranteed_quasimetric=True
  input_size=128, num_components=8, discount=None
  (transforms): Sequential()
  (reduction): MaxMean(input_num_components=8)
)""",
    "everything": """\
IQE(
  guaranteed_quasimetric=True
  input_size=24, num_components=6, discount=0.95
  (transforms): Sequential(
    (0): ConcaveActivation(
      input_num_components=6, output_num_components=6
      num_units_per_input=5
    )
  )
  (reduction): DeepLinearNetWeightedSum(
    input_num_components=6, discount=0.95
    (beta_net): DeepLinearNet(
      bias=True, non_negative=False
      (mats): ParameterList(
          (0): Parameter containing: [torch.float32 of size 6x64]
          (1): Parameter containing: [torch.float32 of size 64x64]
          (2): Parameter containing: [torch.float32 of size 64x64]
          (3): Parameter containing: [torch.float32 of size 64x1]
      )
    )
  )
)""",
}


def points(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Composed(qm.nn.IQE):
    """An IQE that must be composed, because it computes its own components in plain PyTorch."""

    def compute_components(self, x, y):
        return reference.components(x, y, self.latent_2d_shape[1])


def heads(reduction: str, size: int, dim_per_component: int, **arguments) -> tuple[qm.nn.IQE, qm.nn.IQE]:
    """Makes the module and its composed twin in float64, with the same parameters away from their initial values."""
    torch.manual_seed(0)
    head = qm.nn.IQE(size, dim_per_component, reduction=reduction, **arguments).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1)
    twin = Composed(size, dim_per_component, reduction=reduction, **arguments).double()
    twin.load_state_dict(head.state_dict())
    return head, twin


def results(head: nn.Module, distance, x, y) -> list[torch.Tensor]:
    """Returns the distances and the gradients of x, y and the parameters, each distance with its own weight."""
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    out = distance(x, y)
    weights = torch.arange(out.numel(), dtype=out.dtype).cos().view_as(out)
    return [out, *torch.autograd.grad(out, [x, y, *head.parameters()], weights)]


def test_the_repr_is_torchqmets():
    assert repr(qm.nn.IQE(128)) == GOLDEN_REPR["maxmean"]
    head = qm.nn.IQE(24, 4, transforms=["concave_activation"], reduction="deep_linear_net_weighted_sum", discount=0.95)
    assert repr(head) == GOLDEN_REPR["everything"]


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        ({}, {"reduction.raw_alpha": ()}),
        ({"reduction": "maxmean_ogbench"}, {"reduction.raw_alpha": ()}),
        ({"reduction": "sum"}, {}),
        (
            {"transforms": ["concave_activation"], "reduction": "mean"},
            {
                "transforms.0.bs_first_constant": (8, 1),
                "transforms.0.raw_bs_after_first": (8, 4),
                "transforms.0.raw_ms": (8, 5),
            },
        ),
        (
            {"reduction": "deep_linear_net_weighted_sum"},
            {
                "reduction.alpha_net.mats.0": (1, 64),
                "reduction.alpha_net.mats.1": (64, 64),
                "reduction.alpha_net.mats.2": (64, 64),
                "reduction.alpha_net.mats.3": (64, 8),
                "reduction.alpha_net.bias": (1, 8),
            },
        ),
        (
            {"reduction": "deep_linear_net_weighted_sum", "discount": 0.9},
            {
                "reduction.beta_net.mats.0": (8, 64),
                "reduction.beta_net.mats.1": (64, 64),
                "reduction.beta_net.mats.2": (64, 64),
                "reduction.beta_net.mats.3": (64, 1),
                "reduction.beta_net.bias": (8, 1),
            },
        ),
    ],
)
def test_the_state_dict_has_torchqmets_keys_and_shapes(arguments, keys):
    state = qm.nn.IQE(128, **arguments).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == keys


@pytest.mark.parametrize(("reduction", "initial"), [("maxmean", -1.0), ("maxmean_ogbench", 0.0)])
def test_raw_alpha_starts_at_the_published_value(reduction, initial):
    assert qm.nn.IQE(16, reduction=reduction).reduction.raw_alpha.item() == initial


def test_a_state_dict_from_torchqmet_loads():
    head = qm.nn.IQE(48, 16)
    head.load_state_dict({"reduction.raw_alpha": torch.tensor(0.25)})
    x, y = points(3, 48, dtype=torch.float32), points(3, 48, seed=1, dtype=torch.float32)
    expected = reference.iqe(x, y, 16, reduction="maxmean", max_weight=torch.tensor(0.25).sigmoid())
    torch.testing.assert_close(head(x, y), expected)


def test_the_attributes_are_torchqmets_and_no_others():
    head = qm.nn.IQE(128, discount=0.5)
    attributes = {name: value for name, value in vars(head).items() if name not in vars(nn.Module())}
    assert attributes == {
        "input_size": 128,
        "num_components": 8,
        "discount": 0.5,
        "guaranteed_quasimetric": True,
        "latent_2d_shape": torch.Size([8, 16]),
    }, "a module pickled with torchqmet has these attributes and must run"
    assert isinstance(head.transforms, nn.Sequential)
    assert isinstance(head.reduction, reductions.MaxMean)


def test_warn_if_not_quasimetric_is_accepted_and_nothing_is_warned():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qm.nn.IQE(32, 8, warn_if_not_quasimetric=True)
        qm.nn.IQE(32, 8, warn_if_not_quasimetric=False)


@pytest.mark.parametrize("discount", [None, 0.9])
@pytest.mark.parametrize(("size", "dim_per_component"), SIZES)
@pytest.mark.parametrize("reduction", ALL_REDUCTIONS)
def test_values_and_gradients_are_those_of_the_composition(reduction, size, dim_per_component, discount):
    head, twin = heads(reduction, size, dim_per_component, discount=discount)
    x, y = points(3, 5, size), points(5, size, seed=1)
    for ours, expected in zip(results(head, head, x, y), results(twin, twin, x, y), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("discount", [None, 0.9])
@pytest.mark.parametrize("reduction", ALL_REDUCTIONS)
def test_pairwise_values_and_gradients_are_those_of_the_composition(reduction, discount):
    head, twin = heads(reduction, 33, 3, discount=discount)
    x, y = points(2, 7, 33), points(2, 5, 33, seed=1)
    broadcast = results(twin, lambda x, y: twin(x[:, :, None], y[:, None]), x, y)
    assert broadcast[0].shape == (2, 7, 5)
    for pairwise in (results(head, head.pairwise, x, y), results(twin, twin.pairwise, x, y)):
        for ours, expected in zip(pairwise, broadcast, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reduction", ALL_REDUCTIONS)
def test_transforms_are_applied_before_the_reduction(reduction):
    head, twin = heads(reduction, 33, 3, transforms=["concave_activation", "concave_activation"])
    x, y = points(7, 33), points(7, 33, seed=1)
    by_hand = head.reduction(head.transforms[1](head.transforms[0](reference.components(x, y, 3))))
    torch.testing.assert_close(head(x, y), by_hand)
    torch.testing.assert_close(head.pairwise(x, y).diagonal(), by_hand)
    for ours, expected in zip(results(head, head, x, y), results(twin, twin, x, y), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reduction", FUSED)
def test_the_discounted_distance_is_the_discount_to_the_power_of_the_distance(reduction):
    head, _ = heads(reduction, 33, 3)
    discounted = qm.nn.IQE(33, 3, reduction=reduction, discount=0.8).double()
    discounted.load_state_dict(head.state_dict())
    x, y = points(7, 33), points(7, 33, seed=1)
    torch.testing.assert_close(discounted(x, y), 0.8 ** head(x, y))


def test_the_two_maxmeans_give_their_weight_to_opposite_sides():
    lengths = torch.tensor([[1.0, 2.0, 6.0]])
    torchqmet, ogbench = (reductions.make_reduction(name, 3) for name in ("maxmean", "maxmean_ogbench"))
    weight = torch.tensor(1.5).sigmoid()
    with torch.no_grad():
        torchqmet.raw_alpha.fill_(1.5)
        ogbench.raw_alpha.fill_(1.5)
    torch.testing.assert_close(torchqmet(lengths), (1 - weight) * 3.0 + weight * lengths.amax(-1))
    torch.testing.assert_close(ogbench(lengths), weight * 3.0 + (1 - weight) * lengths.amax(-1))


def test_the_weighted_sum_with_a_discount_is_a_product_of_powers():
    torch.manual_seed(0)
    reduction = reductions.make_reduction("deep_linear_net_weighted_sum", 7, 0.9).double()
    lengths = points(5, 7).abs()
    bases = reduction.beta_net.collapse().squeeze(1).sigmoid()
    torch.testing.assert_close(reduction(lengths), (bases**lengths).prod(-1))
    torch.testing.assert_close(0.9 ** reduction.reduce_distance(lengths), reduction(lengths))


@pytest.mark.parametrize("num_components", [1, 7, 123])
def test_the_weighted_sum_with_a_discount_starts_between_a_half_and_three_quarters(num_components):
    for seed in range(5):
        torch.manual_seed(seed)
        reduction = reductions.make_reduction("deep_linear_net_weighted_sum", num_components, 0.9)
        start = reduction(torch.full((num_components,), 0.5)).item()
        assert 0.5 - 1e-4 <= start <= 0.75 + 1e-4


def test_the_weighted_sum_has_finite_gradients_where_a_discount_is_numerically_zero():
    reduction = reductions.make_reduction("deep_linear_net_weighted_sum", 3, 0.9)
    with torch.no_grad():
        reduction.beta_net.bias.fill_(-200.0)
    lengths = torch.tensor([0.0, 0.5, 2.0], requires_grad=True)
    gradients = torch.autograd.grad(reduction(lengths), [lengths, *reduction.parameters()])
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_a_reduction_without_a_distance_of_its_own_needs_a_discount():
    class Power(reductions.ReductionBase):
        def reduce_discounted_distance(self, d):
            return self.discount ** d.sum(-1)

    torch.testing.assert_close(Power(3, 0.5).reduce_distance(torch.ones(3)), torch.tensor(3.0))
    with pytest.raises(RuntimeError, match="needs discount="):
        Power(3)(torch.ones(3))


def test_a_subclass_of_a_fused_reduction_is_asked_for_its_own_reduction():
    class Doubled(reductions.Sum):
        def reduce_distance(self, d):
            return 2 * super().reduce_distance(d)

    head = qm.nn.IQE(33, 3, reduction="sum")
    x, y = points(7, 33), points(7, 33, seed=1)
    expected = 2 * head(x, y)
    head.reduction = Doubled(11)
    torch.testing.assert_close(head(x, y), expected)
    torch.testing.assert_close(head.pairwise(x, y).diagonal(), expected)


def test_a_subclass_with_its_own_forward_keeps_it_in_pairwise():
    class Shifted(qm.nn.IQE):
        def forward(self, x, y):
            return super().forward(x, y) + 1

    head = Shifted(33, 3)
    x = points(7, 33)
    torch.testing.assert_close(head.pairwise(x, x).diagonal(), torch.ones(7, dtype=torch.float64))


def test_a_subclass_of_the_base_class_needs_only_its_components():
    class Euclidean(qm.nn.QuasimetricBase):
        def __init__(self, input_size):
            super().__init__(
                input_size, num_components=1, guaranteed_quasimetric=True, transforms=[], reduction="sum", discount=None
            )

        def compute_components(self, x, y):
            return (x - y).norm(dim=-1, keepdim=True)

    head = Euclidean(33)
    x, y = points(2, 7, 33), points(2, 5, 33, seed=1)
    torch.testing.assert_close(head.pairwise(x, y), torch.cdist(x, y))
    torch.testing.assert_close(head(x[:, 0], y[:, 0]), (x[:, 0] - y[:, 0]).norm(dim=-1))


def test_the_base_class_cannot_be_used_without_components():
    with pytest.raises(TypeError, match="abstract"):
        qm.nn.QuasimetricBase(4, 2, guaranteed_quasimetric=True, transforms=[], reduction="sum")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ALL_REDUCTIONS)
def test_half_inputs_are_computed_in_and_returned_as_float32(reduction, dtype):
    head = qm.nn.IQE(40, 8, reduction=reduction)
    x, y = points(7, 40, dtype=dtype).requires_grad_(), points(7, 40, seed=1, dtype=dtype)
    out = head(x, y)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, head(x.float(), y.float()))
    out.sum().backward()
    assert x.grad.dtype == dtype


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: qm.nn.IQE(100, 16), "input_size must be a multiple of dim_per_component, got input_size=100"),
        (lambda: qm.nn.IQE(16, 0), "dim_per_component must be at least 1, got 0"),
        (lambda: qm.nn.IQE(0, 4), "input_size must be at least 1, got 0"),
        (lambda: qm.nn.IQE(16, reduction="median"), "reduction must be one of 'sum', .* got 'median'"),
        (lambda: qm.nn.IQE(16, transforms=["square"]), "transform must be one of 'concave_activation', got 'square'"),
        (lambda: qm.nn.IQE(16, discount=1.5), r"discount must be in \(0, 1\] or None, got 1.5"),
        (lambda: transforms.ConcaveActivation(4, 0), "num_units_per_input must be at least 1, got 0"),
    ],
)
def test_bad_constructor_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_one_transform_given_as_a_bare_string_is_a_type_error():
    with pytest.raises(TypeError, match=r"pass \['concave_activation'\]"):
        qm.nn.IQE(16, transforms="concave_activation")


@pytest.mark.parametrize("head", [qm.nn.IQE(33, 3), Composed(33, 3)], ids=["fused", "composed"])
def test_inputs_of_another_size_are_named(head):
    with pytest.raises(ValueError, match=r"last size input_size=33, got x \(7, 33\) and y \(7, 1\)"):
        head(torch.zeros(7, 33), torch.zeros(7, 1))
    with pytest.raises(ValueError, match=r"got x \(7, 32\) and y \(7, 33\)"):
        head.pairwise(torch.zeros(7, 32), torch.zeros(7, 33))
    with pytest.raises(ValueError, match=r"pairwise: x must be \(..., N, 33\)"):
        head.pairwise(torch.zeros(33), torch.zeros(7, 33))


@pytest.mark.parametrize("rows", [0, 1])
def test_empty_and_single_batches_keep_their_shape(rows):
    head = qm.nn.IQE(33, 3)
    x = torch.zeros(rows, 33)
    assert head(x, x).shape == (rows,)
    assert head.pairwise(x, torch.zeros(5, 33)).shape == (rows, 5)


@pytest.mark.parametrize("reduction", ALL_REDUCTIONS)
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda head: pickle.loads(pickle.dumps(head))], ids=["copy", "pickle"]
)
def test_copies_and_pickles_compute_the_same(copied, reduction):
    head = qm.nn.IQE(33, 3, reduction=reduction, transforms=["concave_activation"], discount=0.9)
    x, y = points(7, 33, dtype=torch.float32), points(7, 33, seed=1, dtype=torch.float32)
    other = copied(head)
    assert repr(other) == repr(head)
    torch.testing.assert_close(other(x, y), head(x, y), rtol=0, atol=0)


def test_a_whole_module_survives_torch_save():
    head, buffer = qm.nn.IQE(33, 3), io.BytesIO()
    torch.save(head, buffer)
    buffer.seek(0)
    assert repr(torch.load(buffer, weights_only=False)) == repr(head)


@pytest.mark.parametrize(
    "arguments", [{}, {"transforms": ["concave_activation"], "discount": 0.9}], ids=["fused", "composed"]
)
@pytest.mark.parametrize("form", ["elementwise", "pairwise"])
@pytest.mark.parametrize("reduction", ["maxmean", "maxmean_ogbench", "deep_linear_net_weighted_sum"])
def test_torch_compile_traces_the_module_whole(reduction, form, arguments):
    torch._dynamo.reset()
    head = qm.nn.IQE(24, 3, reduction=reduction, **arguments)
    distance = head if form == "elementwise" else head.pairwise
    compiled = torch.compile(distance, fullgraph=True, backend="aot_eager")
    x, y = points(5, 24, dtype=torch.float32), points(5, 24, seed=1, dtype=torch.float32)
    for ours, expected in zip(results(head, compiled, x, y), results(head, distance, x, y), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("discount", [None, 0.95])
@pytest.mark.parametrize("transform_names", [(), ("concave_activation",)], ids=["plain", "concave"])
@pytest.mark.parametrize("reduction", [name for name in ALL_REDUCTIONS if name != "maxmean_ogbench"])
def test_the_same_seed_gives_torchqmets_parameters_and_numbers(reduction, transform_names, discount, monkeypatch):
    checkout = os.environ.get("QMKERNELS_TORCHQMET")
    if not checkout:
        pytest.skip("QMKERNELS_TORCHQMET names no checkout of torchqmet")
    monkeypatch.syspath_prepend(checkout)
    original = importlib.import_module("torchqmet")
    assert original.IQE is not qm.nn.IQE, "the stand-in of qmkernels.compat must not be installed in this process"
    arguments = {"reduction": reduction, "transforms": transform_names, "discount": discount}
    torch.manual_seed(3)
    theirs = original.IQE(40, 8, **arguments)
    torch.manual_seed(3)
    ours = qm.nn.IQE(40, 8, **arguments)
    assert repr(ours) == repr(theirs)
    for (key, value), (their_key, their_value) in zip(
        ours.state_dict().items(), theirs.state_dict().items(), strict=True
    ):
        assert key == their_key
        torch.testing.assert_close(value, their_value)
    x, y = points(7, 40, dtype=torch.float32), points(7, 40, seed=1, dtype=torch.float32)
    for our_value, their_value in zip(results(ours, ours, x, y), results(theirs, theirs, x, y), strict=True):
        torch.testing.assert_close(our_value, their_value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["rows", "pairs"])
def test_mads_simple_distance_is_the_iqe_of_single_values_the_other_way(form):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(37, 123, generator=generator, dtype=torch.float64).requires_grad_() for _ in "xy")
    head = qm.nn.Simple(123)
    assert not head.state_dict() and not list(head.parameters())
    if form == "rows":
        above, found, reversed_iqe = (x - y).relu(), head(x, y), qm.iqe(y, x, 1, max_weight=0.9)
    else:
        above = (x[:, None] - y).relu()
        found, reversed_iqe = head.pairwise(x, y), qm.iqe_pairwise(y, x, 1, max_weight=0.9).mT
    expected = 0.9 * above.amax(dim=-1) + 0.1 * above.mean(dim=-1)
    weights = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    for one in (found, reversed_iqe):
        torch.testing.assert_close(one, expected)
        torch.testing.assert_close(
            torch.autograd.grad(one, [x, y], weights), torch.autograd.grad(expected, [x, y], weights, retain_graph=True)
        )
