"""The eikonal loss, and the derivatives of derivatives it needs, through an encoder and against plain PyTorch."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

import qmkernels as qm
from qmkernels.definitions import iqe, mrn

ROWS, STATE, DIM, SIZE = 7, 5, 24, 6


def points(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def encoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(STATE, 33), nn.GELU(), nn.Linear(33, DIM)).double()


def plain(kind):
    if kind == "iqe":
        return lambda x, y: iqe.components(x, y, SIZE).sum(dim=-1)
    return lambda x, y: mrn.mrn(x, y, mrn.MrnSettings(num_components=4))


def ours(kind):
    return qm.nn.IQE(DIM, SIZE, reduction="sum") if kind == "iqe" else qm.nn.LatentMRN(DIM, 4, preset=None)


def distance_of(head, network):
    return lambda state, goal: 4 * head(network(state), network(goal))


def gradients(loss, network):
    return torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True)


kinds = pytest.mark.parametrize("kind", ["iqe", "mrn"])


@kinds
@pytest.mark.parametrize("is_directed", [False, True], ids=["norm", "direction"])
@pytest.mark.parametrize("how", ["eager", "torch.func"])
def test_the_loss_and_its_gradient_are_those_of_the_formula(kind, is_directed, how):
    network, (state, goal, direction) = encoder(), points(3, ROWS, STATE)
    direction = 9 * direction if is_directed else None
    leaf = state.clone().requires_grad_()
    distance = distance_of(plain(kind), network)(leaf, goal)
    (slope,) = torch.autograd.grad(distance.sum(), leaf, create_graph=True)
    slope = (slope * direction).sum(-1) if is_directed else slope.square().sum(-1).sqrt()
    expected = (slope - 1).relu().square().mean()
    parameters = dict(network.named_parameters())

    def loss(parameters):
        encoded = partial(functional_call, network, parameters)
        return qm.losses.eikonal(distance_of(ours(kind), encoded), state, goal, direction=direction)

    if how == "torch.func":
        found = tuple(grad(lambda parameters: loss(parameters).loss)(parameters).values())
    else:
        result = loss(parameters)
        torch.testing.assert_close(result.loss, expected)
        torch.testing.assert_close(result.slope, slope.mean().detach())
        torch.testing.assert_close(result.steep, (slope > 1).double().mean())
        torch.testing.assert_close(result.distance, distance.mean().detach())
        found = gradients(result.loss, network)
    assert expected > 0
    torch.testing.assert_close(found, gradients(expected, network))


@kinds
def test_a_compiled_loss_has_the_same_gradients(kind):
    network, head, (state, goal) = encoder(), ours(kind), points(2, ROWS, STATE)

    def loss(state, goal):
        return qm.losses.eikonal(distance_of(head, network), state, goal).loss

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(compiled(state, goal), network), gradients(loss(state, goal), network))


@kinds
def test_gradients_of_forward_mode_and_of_mapped_gradients_pass_through_the_encoder(kind):
    network, (state, goal, direction) = encoder(), points(3, ROWS, STATE)

    def of_parameters(head):
        def loss(parameters):
            distance = distance_of(head, partial(functional_call, network, parameters))
            _, along = jvp(lambda state: distance(state, goal), (state,), (direction,))
            slopes = vmap(grad(distance))(state, goal)  # one row at a time
            return along.square().mean() + (slopes.norm(dim=-1) - 1).relu().square().mean()

        return grad(loss)(dict(network.named_parameters()))

    torch.testing.assert_close(of_parameters(ours(kind)), of_parameters(plain(kind)))


def test_members_images_and_batch_norm_are_states_and_encoders_like_others():
    head = qm.nn.IQE(DIM, SIZE)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, DIM), nn.BatchNorm1d(DIM)).double()
    images = points(2, ROWS, 3, 4, 4)
    untouched = copy.deepcopy(network.state_dict())
    result = qm.losses.eikonal(distance_of(head, network), *images)
    assert result.loss > 0 and (network[2].running_mean != untouched["2.running_mean"]).any()
    assert all(torch.isfinite(gradient).all() for gradient in gradients(result.loss, network))
    members = points(2, 3, ROWS, DIM)
    together = qm.losses.eikonal(lambda x, y: 30 * head(x, y), *members)
    alone = [qm.losses.eikonal(lambda x, y: 30 * head(x, y), *pair).loss for pair in members.unbind(1)]
    torch.testing.assert_close(together.loss, torch.stack(alone).mean())


def test_a_flat_distance_has_no_gradient_and_no_grad_records_none():
    leaf = points(ROWS, DIM).requires_grad_()
    result = qm.losses.eikonal(qm.nn.IQE(DIM, SIZE), leaf, leaf.detach())
    assert result.loss == 0 and (torch.autograd.grad(result.loss, leaf, materialize_grads=True)[0] == 0).all()
    with torch.no_grad():
        assert not qm.losses.eikonal(lambda x, y: 30 * qm.iqe(x, y, SIZE), leaf, leaf.roll(1, 0)).loss.requires_grad
    assert leaf.grad is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1, "state", "goal"), TypeError, "distance_of must be a function of state and goal, got int"),
        ((lambda s, g: s, "state", "goal"), ValueError, r"one distance per row of the state \(7, 5\).*got \(7, 5\)"),
        ((lambda s, g: s[:3].sum(-1), "state", "goal"), ValueError, r"one distance per row .*got \(3,\)"),
        ((lambda s, g: s[:0].sum(-1), "none", "none"), ValueError, r"at least one, got \(0,\)"),
        ((lambda s, g: s.sum(-1), "state", "goal", "short"), ValueError, r"state's shape, got \(7, 4\) and \(7, 5\)"),
        ((lambda s, g: s.sum(-1), "state", "goal", "single"), TypeError, "state's dtype, got torch.float32"),
        ((lambda s, g: s.sum(-1), "whole", "goal"), TypeError, "state must be float64.* got torch.int64"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    tensors = {
        "state": points(ROWS, STATE), "goal": points(ROWS, STATE), "short": points(ROWS, STATE - 1),
        "single": points(ROWS, STATE).float(), "none": points(0, STATE), "whole": torch.ones(ROWS, STATE).long(),
    }  # fmt: skip
    function, state, goal, *direction = arguments
    direction = tensors.get(direction[0]) if direction else None
    with pytest.raises(error, match=f"eikonal: .*{message}"):
        qm.losses.eikonal(function, tensors[state], tensors[goal], direction=direction)
