"""Without a private name of torch everything still works, only slower; what a mode made does not outlive it."""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck

import qmkernels as qm
from qmkernels.ops import arguments, iqe, latent_dynamics, mrn, pqe, torch_internals

NAMES = (
    "_functorch_level", "_is_functorch_wrapped", "_is_legacy_batched", "_num_dispatch_modes", "_profiler",
    "_forward_ad", "_function_base",
)  # fmt: skip
OPS = {
    "iqe": (iqe._ROWS, lambda x, y, w: qm.iqe(x, y, 4, max_weight=w)),
    "iqe-pairwise": (iqe._PAIRS, lambda x, y, w: qm.iqe_pairwise(x, y, 4, max_weight=w)),
    "mrn": (mrn._ROWS, lambda x, y, w: w * qm.mrn(x, y, 2)),
    "pqe-pairwise": (pqe._PAIRS, lambda x, y, w: qm.pqe_pairwise(x, y, 4, weights=w * torch.ones_like(x[0, :3]))),
    "latent dynamics": (
        latent_dynamics.latent_dynamics,
        lambda x, y, w: w * qm.losses.latent_dynamics(qm.nn.IQE(12, 4, reduction="sum"), x, y).loss,
    ),
}


def leaves():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(5, 12, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2))
    return x, y + 0.4, torch.tensor(0.3, dtype=torch.float64, requires_grad=True)


@pytest.fixture(params=NAMES)
def missing(request, monkeypatch):
    assert getattr(torch_internals, request.param) is not None
    with monkeypatch.context() as patch:
        patch.setattr(torch_internals, request.param, None)
        for op, _ in OPS.values():
            op.__post_init__()
        yield request.param
    for op, _ in OPS.values():
        op.__post_init__()


@pytest.mark.parametrize("name", OPS)
def test_the_op_contract_holds_without_a_private_name(name, missing):
    call = OPS[name][1]
    assert gradcheck(call, leaves(), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(call, leaves())
    tensors = [tensor.detach() for tensor in leaves()]
    torch.testing.assert_close(call(*tensors), call(*leaves()).detach())
    batch = torch.stack([tensors[0], 2 * tensors[0]])
    looped = torch.stack([call(rows, *tensors[1:]) for rows in batch])
    torch.testing.assert_close(torch.vmap(lambda x: call(x, *tensors[1:]))(batch), looped)
    gradient = torch.func.grad(lambda *a: call(*a).sum(), argnums=(0, 1, 2))(*tensors)
    inputs = leaves()
    torch.testing.assert_close(gradient, torch.autograd.grad(call(*inputs).sum(), inputs))


def test_no_other_file_of_the_package_asks_torch_for_such_names():
    package = Path(qm.__file__).parent
    for path in package.rglob("*.py"):
        if path.name != "torch_internals.py":
            text = path.read_text()
            assert "torch._C" not in text and "_current_level" not in text and "_is_profiler_enabled" not in text, path


def test_a_number_is_not_cached_as_a_fake_tensor() -> None:
    like, value = torch.zeros(3), 0.8125  # a number that no other test caches
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert isinstance(arguments.constant(value, like), FakeTensor)
    assert type(arguments.constant(value, like)) is torch.Tensor
    assert arguments.constant(value, like) is arguments.constant(value, like)
