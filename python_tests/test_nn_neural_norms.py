"""The modules DeepNorm and WideNorm: weights that stay in their range, linear layers once per row, and warnings."""

from __future__ import annotations

import warnings

import pytest
import torch

import qmkernels as qm
from qmkernels.nn.neural_norms import ConstrainedLinear, MaxReLU, make_activation


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_weight_is_constrained_in_place_once_for_each_change():
    calls = []

    def constraint_(weight):
        calls.append(weight)
        torch.relu_(weight)

    layer = ConstrainedLinear(5, 3, False, constraint_)
    weight = layer.weight
    assert (weight < 0).any()
    for _ in range(2):
        layer(torch.ones(5))
    assert len(calls) == 1 and layer.weight is weight and (weight >= 0).all()
    with torch.no_grad():
        weight -= 1
    layer(torch.ones(5))
    assert len(calls) == 2 and (weight >= 0).all()


@pytest.mark.parametrize("head", [qm.nn.DeepNorm(6, 4), qm.nn.WideNorm(6, 4, 3)], ids=["DeepNorm", "WideNorm"])
def test_a_compiled_head_puts_its_weights_back_too(head):
    torch._dynamo.reset()
    compiled = torch.compile(head.pairwise, fullgraph=True, backend="aot_eager")
    x, y = points(5, 6).float(), points(9, 6, seed=1).float()
    constrained = [layer for layer in head.modules() if getattr(layer, "weight_constraint_", None) is not None]
    for shift in (0.0, 0.1):
        with torch.no_grad():
            for layer in constrained:
                layer.weight -= shift
        assert all((layer.weight < 0).any() for layer in constrained)
        distances = compiled(x, y)
        assert all((layer.weight >= 0).all() for layer in constrained)
        torch.testing.assert_close(distances, head.pairwise(x, y))


def test_optimizer_steps_between_calls_keep_weights_in_their_range():
    head = qm.nn.WideNorm(6, 4, 3)
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    x, y = points(33, 6).float(), points(33, 6, seed=1).float()
    for _ in range(3):
        optimizer.zero_grad()
        head.pairwise(x, y).mean().backward()
        optimizer.step()
    head(x, y)
    assert (head.w.weight >= 0).all()


@pytest.mark.parametrize(
    ("head", "layer"),
    [(qm.nn.DeepNorm(6, 4), "u0"), (qm.nn.DeepNorm(6, 4), "us_after_first.1"), (qm.nn.WideNorm(6, 4, 3, True), "w")],
    ids=["DeepNorm first", "DeepNorm skip", "WideNorm symmetric"],
)
def test_linear_layers_see_rows_once_and_not_pairs(head, layer):
    rows = []
    head.get_submodule(layer).register_forward_hook(lambda module, inputs, out: rows.append(inputs[0].numel() // 6))
    x, y = torch.zeros(33, 6), torch.zeros(12, 6)
    head.pairwise(x, y)
    head(x[:, None], y)
    assert rows == [45, 45]
    head(x, x)
    assert rows == [45, 45, 33]


@pytest.mark.parametrize("head", [qm.nn.DeepNorm(6, 4), qm.nn.WideNorm(6, 4, 3, True)], ids=["DeepNorm", "WideNorm"])
def test_equal_rows_are_at_zero_elementwise_and_at_rounding_in_pairs(head):
    x = 100 + points(33, 6).float()
    assert (head(x, x.clone()) == 0).all()
    assert (head.pairwise(x, x.clone()).diagonal().abs() <= 1e-4).all()


def test_max_relu_takes_features_in_pairs():
    activation = MaxReLU(4)
    with torch.no_grad():
        activation.raw_weights.copy_(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    weights = torch.nn.functional.softplus(activation.raw_weights.detach())
    out = activation(torch.tensor([1.0, -2.0, 3.0, 4.0]))
    expected = [1.0, 4.0, weights[0, 0] / 2, (3 * weights[1, 0] + 4 * weights[1, 1]) / 2]
    torch.testing.assert_close(out, torch.tensor(expected))
    assert repr(activation) == "MaxReLU(num_features=4)"


def test_a_last_activation_that_can_be_negative_warns():
    with pytest.warns(UserWarning, match="DeepNorm with 'maxrelu' as its last activation may not be a quasimetric"):
        assert not qm.nn.DeepNorm(6, 4, activation="maxrelu").guaranteed_quasimetric
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert qm.nn.DeepNorm(6, 4, activation="maxrelu", final_activation="relu").guaranteed_quasimetric
        qm.nn.DeepNorm(6, 4, activation="maxrelu", warn_if_not_quasimetric=False)
        # A single layer has only the first activation.
        head = qm.nn.DeepNorm(6, 4, 1, "maxrelu", "relu", warn_if_not_quasimetric=False)
    assert not head.guaranteed_quasimetric


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: qm.nn.DeepNorm(6, 4, 0), "DeepNorm: num_layers must be at least 1, got 0"),
        (
            lambda: qm.nn.DeepNorm(6, 3, activation="maxrelu", final_activation="relu"),
            "must be even and positive, got 3",
        ),
        (lambda: qm.nn.DeepNorm(6, 4, final_activation="gelu", warn_if_not_quasimetric=False), "got 'gelu'"),
        (lambda: qm.nn.WideNorm(6, 4, 0), "WideNorm: output_component_size must be at least 1, got 0"),
        (lambda: make_activation("tanh", 4), "activation must be 'relu' or 'maxrelu', got 'tanh'"),
    ],
)
def test_bad_constructor_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_subclass_with_its_own_norm_keeps_it_in_pairs():
    class Doubled(qm.nn.DeepNorm):
        def norm(self, x):
            return 2 * super().norm(x)

    torch.manual_seed(0)
    head = Doubled(6, 4, transforms=[], reduction="sum").double()
    plain = qm.nn.DeepNorm(6, 4, transforms=[], reduction="sum").double()
    plain.load_state_dict(head.state_dict())
    x, y = points(9, 6), points(9, 6, seed=1)
    torch.testing.assert_close(head.pairwise(x, y), 2 * plain.pairwise(x, y))
    torch.testing.assert_close(head(x, y), 2 * plain(x, y))
