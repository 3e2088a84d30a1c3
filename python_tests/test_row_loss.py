"""The losses over rows, step_gap and expectile_backup: against plain formulas, fused on every backend and composed."""

import pytest
import torch
from torch.nn import functional

import qmkernels as qm
from qmkernels.ops import row_loss as op

ROWS, DIM = 7, 24

HEADS = {
    "iqe maxmean": lambda: qm.nn.IQE(DIM, 8),
    "iqe sum": lambda: qm.nn.IQE(DIM, 3, reduction="sum"),
    "iqe max": lambda: qm.nn.IQE(DIM, 4, reduction="max"),
    "latent mrn": lambda: qm.nn.LatentMRN(DIM, 3),
    "latent mrn, to - from": lambda: qm.nn.LatentMRN(DIM, 3, to_minus_from=True),
    "mrn with projections": lambda: qm.nn.MRNFixed(DIM, proj_hidden_size=5, proj_output_size=6),
    "not fused": lambda: qm.nn.PQELH(DIM, 4, reduction="mean"),
}
FORMS = {
    "smooth_l1": (lambda d, n: functional.smooth_l1_loss(d, n, reduction="none", beta=0.7), {"beta": 0.7}),
    "l1": (lambda d, n: (d - n).abs(), {"form": "smooth_l1", "beta": 0}),
    "squared": (lambda d, n: (d - n) ** 2, {}),
    "relative": (lambda d, n: (d / n - 1) ** 2, {}),
    "upper": (lambda d, n: (d - n).clamp(min=0) ** 2, {}),
    "apart": (lambda d, n: (n - d).clamp(min=0), {}),
    "apart squared": (lambda d, n: (n - d).clamp(min=0) ** 2, {"form": "apart", "power": 2}),
    "apart to 1.5": (lambda d, n: (n - d).clamp(min=0) ** 1.5, {"form": "apart", "power": 1.5}),
}


@pytest.fixture
def calls(monkeypatch):
    """The names of the fused ops that were called."""
    names = []
    for name, fused in op.row_loss.items():
        monkeypatch.setitem(op.row_loss, name, lambda *a, name=name, fused=fused: (names.append(name), fused(*a))[1])
    return names


def head_of(name, dtype=torch.float64):
    torch.manual_seed(0)
    return HEADS[name]().to(dtype)


def points(count, *rows, dtype=torch.float64):
    generator = torch.Generator().manual_seed(count)
    return [torch.randn(*rows, DIM, generator=generator, dtype=dtype).requires_grad_() for _ in range(count)]


def around(distance):
    """Makes a number above 0 per row, below and above its distance."""
    return distance.detach() * torch.linspace(0.3, 1.9, distance.numel(), dtype=distance.dtype).view(distance.shape)


def gradients(loss, head, *leaves):
    return torch.autograd.grad(loss, [*leaves, *head.parameters()])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", HEADS)
def test_step_gap_and_its_gradients_are_those_of_its_formula(name, form, backend, calls):
    head, (x, y) = head_of(name), points(2, ROWS)
    formula, options = FORMS[form]
    distance = head(x, y)
    steps, weight = around(distance), torch.linspace(0.2, 2, ROWS, dtype=torch.float64)
    mask = torch.arange(ROWS) != 2
    result = qm.losses.step_gap(head, x, y, steps, weight=weight, mask=mask, **{"form": form, **options})
    assert calls == [] if name == "not fused" else len(calls) == 1
    plain = (formula(distance, steps) * weight)[mask].mean()
    torch.testing.assert_close(result.loss, plain)
    diagnostics = distance[mask].mean(), steps[mask].mean(), (distance < steps)[mask].double().mean()
    torch.testing.assert_close(result[1:], tuple(value.detach() for value in diagnostics))
    torch.testing.assert_close(gradients(result.loss, head, x, y), gradients(plain, head, x, y))


@pytest.mark.parametrize("huber_delta", [None, 0.4])
@pytest.mark.parametrize("cost", ["steps", "discounted"])
@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("name", ["iqe maxmean", "latent mrn", "not fused"])
def test_expectile_backup_is_its_formula(name, discount, cost, huber_delta, backend):
    head, teacher, (x, goal, following) = head_of(name), HEADS[name]().double(), points(3, ROWS)
    steps, reached = torch.tensor([1, 2, 3, 0, 5, 1, 2]), torch.arange(ROWS) == 3
    known, target_goal = torch.linspace(0, 1, ROWS), points(4, ROWS)[3]
    result = qm.losses.expectile_backup(
        head, x, goal, following, steps=steps, reached=reached, distance=known, discount=discount, cost=cost,
        expectile=0.8, huber_delta=huber_delta, target_head=teacher, target_goal=target_goal,
    )  # fmt: skip
    kept, after = discount ** steps.double(), teacher(following, target_goal)
    costs = steps if cost == "steps" or discount == 1 else (1 - kept) / (1 - discount)
    target = torch.where(reached, known.double(), costs + kept * after).detach()
    difference = target - head(x, goal)
    sizes = difference**2
    if huber_delta:
        linear = huber_delta * (difference.abs() - huber_delta / 2)
        sizes = torch.where(difference.abs() <= huber_delta, difference**2 / 2, linear)
    plain = ((0.8 - (difference > 0).double()).abs() * sizes).mean()
    torch.testing.assert_close(result.loss, plain)
    torch.testing.assert_close(result.target, target.mean())
    torch.testing.assert_close(result.below, (difference > 0).double().mean())
    torch.testing.assert_close(gradients(result.loss, head, x, goal), gradients(plain, head, x, goal))
    assert not any(value.requires_grad for value in result[1:])
    again = qm.losses.expectile_backup(head, x, goal, following, steps=2)
    assert torch.autograd.grad(again.loss, following, allow_unused=True) == (None,)


@pytest.mark.parametrize("name", ["iqe maxmean", "latent mrn", "mrn with projections"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_loss_equals_the_composed_one_in_half_and_under_autocast(name, dtype, monkeypatch):
    head, (x, y) = head_of(name, torch.float32), points(2, ROWS, dtype=dtype)
    results = []
    for fused in (head.fused_rows, lambda x, y: None):
        monkeypatch.setattr(head, "fused_rows", fused)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.float32):
            result = qm.losses.step_gap(head, x, y, 2.0)
        results.append((*result, *gradients(result.loss, head, x, y)))
    torch.testing.assert_close(*results)


def test_a_tau_above_one_half_follows_the_nearest_targets():
    distance = torch.zeros(1, requires_grad=True)
    targets = torch.arange(1.0, 11.0)

    def head(x, y):
        return distance.expand(10)

    fits = []
    for expectile in (0.95, 0.5, 0.05):
        optimizer = torch.optim.SGD([distance], lr=0.5)
        for _ in range(60):
            optimizer.zero_grad()
            qm.losses.expectile_backup(
                head, *torch.zeros(3, 10, 1), reached=torch.ones(10, dtype=torch.bool), distance=targets,
                expectile=expectile,
            ).loss.backward()  # fmt: skip
            optimizer.step()
        fits.append(distance.item())
    assert fits[0] < 3 < fits[1] < 8 < fits[2]
    assert fits[1] == pytest.approx(5.5, abs=1e-3)


@pytest.mark.parametrize("name", ["iqe maxmean", "latent mrn", "not fused"])
def test_leading_dimensions_are_more_rows_and_numbers_per_row_broadcast(name, backend):
    head, (x, y) = head_of(name), points(2, 2, 3, 5)
    steps, weight, mask = torch.arange(1, 6), torch.rand(3, 5).double(), torch.rand(2, 3, 5) > 0.4
    result = qm.losses.step_gap(head, x, y, steps, weight=weight, mask=mask)
    flat = [value.expand(2, 3, 5).flatten() for value in (steps, weight, mask)]
    rows = [value.detach().flatten(0, 2).requires_grad_() for value in (x, y)]
    expected = qm.losses.step_gap(head, *rows, flat[0], weight=flat[1], mask=flat[2])
    torch.testing.assert_close(result, expected)
    for actual, grad in zip(gradients(result.loss, head, x, y), gradients(expected.loss, head, *rows), strict=True):
        torch.testing.assert_close(actual.flatten(), grad.flatten())
    one = qm.losses.step_gap(head, x, y, 2)
    torch.testing.assert_close(one, qm.losses.step_gap(head, x, y, torch.full((2, 3, 5), 2.0)))


@pytest.mark.parametrize("name", ["iqe maxmean", "latent mrn", "not fused"])
def test_without_a_row_left_loss_and_gradients_are_zero(name, backend):
    head, (x, y) = head_of(name), points(2, ROWS)
    result = qm.losses.step_gap(head, x, y, torch.full((ROWS,), -1), mask=torch.zeros(ROWS, dtype=torch.bool))
    assert not any(result)
    assert not any(grad.any() for grad in gradients(result.loss, head, x, y))


@pytest.mark.parametrize("name", ["iqe maxmean", "latent mrn"])
def test_a_masked_row_does_not_matter_whatever_it_holds(name, backend):
    head, (x, y) = head_of(name), points(2, ROWS)
    mask, steps = torch.arange(ROWS) != 2, torch.ones(ROWS)
    clean = qm.losses.step_gap(head, x, y, steps, form="relative", mask=mask)
    expected = gradients(clean.loss, head, x, y)
    with torch.no_grad():
        x[2], steps[2] = torch.nan, 0
    result = qm.losses.step_gap(head, x, y, steps, form="relative", mask=mask, weight=torch.where(mask, 1.0, torch.nan))
    torch.testing.assert_close(result, clean)
    for actual, grad in zip(gradients(result.loss, head, x, y)[:2], expected[:2], strict=True):
        torch.testing.assert_close(actual[mask], grad[mask])


@pytest.mark.parametrize("name", ["iqe maxmean", "latent mrn", "not fused"])
@pytest.mark.parametrize(
    "place, form", [("x", "smooth_l1"), ("steps", "squared"), ("steps", "upper"), ("negative", "upper"),
                    ("negative", "apart"), ("zero", "relative")],
)  # fmt: skip
def test_nan_and_steps_that_no_form_takes_give_nan_and_other_rows_keep_their_gradients(name, place, form, backend):
    head, (x, y), steps = head_of(name), points(2, ROWS), torch.full((ROWS,), 1.5)
    expected = gradients(qm.losses.step_gap(head, x, y, steps, form=form).loss, head, x, y)
    with torch.no_grad():
        (x[3] if place == "x" else steps)[3] = {"negative": -1.0, "zero": 0.0}.get(place, torch.nan)
    result = qm.losses.step_gap(head, x, y, steps, form=form)
    assert result.loss.isnan()
    others = torch.arange(ROWS) != 3
    for actual, grad in zip(gradients(result.loss, head, x, y)[:2], expected[:2], strict=True):
        torch.testing.assert_close(actual[others], grad[others])


def test_steps_of_zero_count_only_where_the_goal_is_reached(backend):
    head, (x, goal, following), steps = head_of("iqe sum"), points(3, ROWS), torch.zeros(ROWS)
    reached = torch.ones(ROWS, dtype=torch.bool)
    assert qm.losses.expectile_backup(
        head, x, goal, following, steps=steps, reached=reached, distance=0.0
    ).loss.isfinite()
    reached[1] = False
    assert qm.losses.expectile_backup(head, x, goal, following, steps=steps, reached=reached, distance=0.0).loss.isnan()


def test_a_reached_row_without_a_distance_gives_nan_and_other_rows_keep_their_gradients(backend):
    head, (x, goal, following), known = head_of("iqe sum"), points(3, ROWS), torch.arange(ROWS) < 3
    x, distance = x.requires_grad_(), torch.where(known, 2.0, torch.nan).double()
    assert qm.losses.expectile_backup(head, x, goal, following, reached=known, distance=distance).loss.isfinite()
    reached = torch.arange(ROWS) < 4
    loss = qm.losses.expectile_backup(head, x, goal, following, reached=reached, distance=distance).loss
    (grad,) = torch.autograd.grad(loss, x)
    assert loss.isnan() and grad[3].isnan().any() and grad[torch.arange(ROWS) != 3].isfinite().all()


def test_steps_and_weights_have_gradients():
    head, (x, y) = head_of("iqe sum"), points(2, ROWS)
    steps, weight = (torch.linspace(0.5, 3, ROWS, dtype=torch.float64).requires_grad_() for _ in range(2))
    loss = qm.losses.step_gap(head, x, y, steps, form="squared", weight=weight).loss
    distance = head(x, y)
    grads = torch.autograd.grad(loss, [steps, weight])
    torch.testing.assert_close(grads[0], 2 * weight * (steps - distance) / ROWS)
    torch.testing.assert_close(grads[1], (steps - distance) ** 2 / ROWS)


def test_float32_sums_over_many_rows_keep_their_digits():
    head = qm.nn.IQE(8, 8, reduction="sum")
    x, y = torch.randn(2, 300_000, 8, generator=torch.Generator().manual_seed(0))
    result, exact = (qm.losses.step_gap(head, *sides, 3.0) for sides in ((x, y), (x.double(), y.double())))
    for actual, expected in zip(result, exact, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=0)


def _gap(**changed):
    x, y = points(2, ROWS)
    arguments = {"head": head_of("iqe sum"), "x": x, "y": y, "steps": 2.0, **changed}
    return qm.losses.step_gap(**arguments)


def _backup(**changed):
    x, goal, following = points(3, ROWS)
    arguments = {"head": head_of("iqe sum"), "x": x, "goal": goal, "next": following, **changed}
    return qm.losses.expectile_backup(**arguments)


FLAGS = torch.ones(ROWS, dtype=torch.bool)


@pytest.mark.parametrize(
    "loss, changed, error, message",
    [
        (_gap, {"steps": 0, "form": "relative"}, ValueError, "steps must be above 0"),
        (_gap, {"steps": -1}, ValueError, "steps must be at least 0"),
        (_gap, {"steps": float("nan")}, ValueError, "steps must be at least 0"),
        (_gap, {"steps": None}, TypeError, "steps must be a number or a tensor"),
        (_gap, {"steps": torch.ones(ROWS + 1)}, ValueError, "steps must be a number or one per row"),
        (_gap, {"steps": torch.ones(ROWS, device="meta")}, RuntimeError, "steps must be on cpu"),
        (_gap, {"form": "cubic"}, ValueError, "form must be one of"),
        (_gap, {"beta": -1}, ValueError, "beta must be at least 0"),
        (_gap, {"form": "apart", "power": 0.5}, ValueError, "power must be at least 1"),
        (_gap, {"weight": torch.ones(ROWS, 1)}, ValueError, "weight must be a number or one per row"),
        (_gap, {"weight": FLAGS}, TypeError, "weight must be float64, float32"),
        (_gap, {"mask": torch.ones(ROWS)}, TypeError, "mask must be a bool tensor"),
        (_gap, {"mask": FLAGS[:2]}, ValueError, "mask must be a number or one per row"),
        (_gap, {"y": torch.zeros(1, DIM).double()}, ValueError, "must have the same shape"),
        (_gap, {"head": qm.nn.IQE(DIM, 8, discount=0.9)}, ValueError, "head must return distances"),
        (_gap, {"head": None}, TypeError, "head must be a module or function"),
        (_backup, {"steps": 0}, ValueError, "steps must be above 0"),
        (_backup, {"steps": torch.ones(2, ROWS)}, ValueError, "steps must be a number or one per row"),
        (_backup, {"reached": FLAGS}, ValueError, "reached and distance must be given together"),
        (_backup, {"distance": 1.0}, ValueError, "reached and distance must be given together"),
        (_backup, {"reached": FLAGS, "distance": -1.0}, ValueError, "distance must be at least 0"),
        (_backup, {"reached": FLAGS.double(), "distance": 1.0}, TypeError, "reached must be a bool tensor"),
        (_backup, {"next": torch.zeros(2, DIM).double()}, ValueError, "must have the same shape"),
        (_backup, {"goal": torch.zeros(1, DIM).double()}, ValueError, "must have the same shape"),
        (
            _backup, dict.fromkeys(("next", "target_goal"), torch.zeros(2, DIM).double()), ValueError,
            "next must have a row for each of x",
        ),
        (_backup, {"discount": 1.1}, ValueError, "discount must be in"),
        (_backup, {"expectile": 1.0}, ValueError, "expectile must be in"),
        (_backup, {"huber_delta": 0}, ValueError, "huber_delta must be above 0"),
        (_backup, {"cost": "free"}, ValueError, "cost must be one of"),
        (_backup, {"target_head": 3}, TypeError, "head must be a module or function"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(loss, changed, error, message):
    with pytest.raises(error, match=message):
        loss(**changed)
