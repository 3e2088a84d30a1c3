"""Tensors that are not dense floats with memory: refused with one sentence or, for autograd's zeros, accepted."""

import pytest
import torch

import qmkernels as qm

HEAD = qm.nn.IQE(16, 8)


def calls(x, y):
    raw = torch.tensor(0.3)
    return {
        "qrl_critic": lambda: qm.losses.qrl_critic(HEAD, x, y, raw),
        "latent_dynamics": lambda: qm.losses.latent_dynamics(HEAD, x, y),
        "metra": lambda: qm.losses.metra(x, y, x, raw),
        "temporal_consistency": lambda: qm.losses.temporal_consistency(x, y),
        "contrastive": lambda: qm.losses.contrastive(HEAD, x, y),
        "iqe": lambda: qm.iqe(x, y, 8),
        "iqe_pairwise": lambda: qm.iqe_pairwise(x, y, 8),
        "mrn": lambda: qm.mrn(x, y),
        "pqe": lambda: qm.pqe(x, y, 8),
        "head": lambda: HEAD(x, y),
        "head.pairwise": lambda: HEAD.pairwise(x, y),
        "projecting head": lambda: qm.nn.MRN(16)(x, y),
        "neural norm": lambda: qm.nn.DeepNorm(16, 3, 5)(x, y),
    }


CALLS = tuple(calls(None, None))
KINDS = {
    "list": lambda dense: dense.tolist(),
    "sparse": lambda dense: dense.to_sparse(),
    "compressed": lambda dense: dense.to_sparse_csr(),
    "mkldnn": lambda dense: dense.to_mkldnn(),
    "nested": lambda dense: torch.nested.nested_tensor(list(dense.unsqueeze(1))),
    "float8": lambda dense: dense.to(torch.float8_e4m3fn),
    "integer": lambda dense: dense.long(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("both", [False, True])
def test_tensors_of_other_kinds_are_refused_with_the_arguments_name(call, kind, both):
    dense = torch.randn(4, 16)
    other = KINDS[kind](dense)
    with pytest.raises(TypeError, match=r"^\w+(\.pairwise)?: \w+ must be (a tensor|a dense tensor|float64, float32)"):
        calls(other if both else dense, other)[call]()


@pytest.mark.parametrize("call", CALLS)
def test_zeros_without_memory_give_what_zeros_give(call):
    shape = (1, 4, 16) if call == "temporal_consistency" else (4, 16)
    x, zeros = torch.randn(shape), torch._efficientzerotensor(shape)
    actual, expected = (calls(x, y)[call]() for y in (zeros, torch.zeros(shape)))
    if isinstance(actual, tuple):
        actual, expected = actual.loss, expected.loss
    if call not in ("projecting head", "neural norm"):  # their parameters are redrawn
        torch.testing.assert_close(actual, expected)
