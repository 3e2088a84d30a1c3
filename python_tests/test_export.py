"""torch.export takes every head, for any number of rows, and the saved program gives the same numbers elsewhere."""

import io
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

import qmkernels as qm
from qmkernels.ops.torch_internals import _is_exporting

HEADS = {
    "IQE": lambda: qm.nn.IQE(12, 4),
    "MRN": lambda: qm.nn.MRN(12, warn_if_not_quasimetric=False),
    "MRNFixed": lambda: qm.nn.MRNFixed(12),
    "LatentMRN": lambda: qm.nn.LatentMRN(12, 4),
    "PQE": lambda: qm.nn.PQE(12, 4),
    "PQELH": lambda: qm.nn.PQELH(12, discount=0.9),
    "PQEGG": lambda: qm.nn.PQEGG(12),
    "DeepNorm": lambda: qm.nn.DeepNorm(12, num_components=4, num_layers=2),
    "WideNorm": lambda: qm.nn.WideNorm(12, num_components=4),
    "WideNorm-asymmetric": lambda: qm.nn.WideNorm(12, num_components=4, symmetric=False),
}


class BothForms(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor, y: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(x, y), self.head.pairwise(x, bank)


def exported(name: str) -> tuple[nn.Module, io.BytesIO]:
    torch.manual_seed(0)
    module = BothForms(HEADS[name]())
    with torch.no_grad():
        for parameter in module.parameters():  # also those that a constraint has to put back
            parameter.add_(0.3 * torch.randn_like(parameter))
    rows, columns = torch.export.Dim("rows"), torch.export.Dim("columns")
    program = torch.export.export(
        module, (torch.randn(5, 12), torch.randn(5, 12), torch.randn(7, 12)),
        dynamic_shapes=({0: rows}, {0: rows}, {0: columns}),
    )  # fmt: skip
    saved = io.BytesIO()
    torch.export.save(program, saved)
    return module, io.BytesIO(saved.getvalue())


@pytest.mark.skipif(_is_exporting is None, reason="torch.export leaves no trace of itself before torch 2.7")
@pytest.mark.parametrize("name", HEADS)
def test_a_program_that_was_saved_and_loaded_gives_the_heads_numbers_for_other_sizes(name):
    module, saved = exported(name)
    loaded = torch.export.load(saved).module()
    for rows, columns in ((9, 4), (30, 50)):
        inputs = torch.randn(rows, 12), torch.randn(rows, 12), torch.randn(columns, 12)
        with torch.no_grad():
            torch.testing.assert_close(loaded(*inputs), module(*inputs))


def test_a_program_runs_where_only_qmkernels_was_imported(tmp_path):
    module, saved = exported("IQE")
    (tmp_path / "head.pt2").write_bytes(saved.read())
    code = """
        import sys, torch
        sys.path[:] = {paths!r}
        import qmkernels
        x, y, bank = (torch.linspace(-1, 1, rows * 12).sin().reshape(rows, 12) for rows in (3, 3, 2))
        print([part.detach().sum().item() for part in torch.export.load("head.pt2").module()(x, y, bank)])
    """
    program = "\n".join(line.strip() for line in code.format(paths=sys.path).splitlines())
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=200)
    assert done.returncode == 0, done.stderr
    x, y, bank = (torch.linspace(-1, 1, rows * 12).sin().reshape(rows, 12) for rows in (3, 3, 2))
    assert eval(done.stdout) == [part.detach().sum().item() for part in module(x, y, bank)]


@pytest.mark.parametrize("wrapped", [False, True], ids=["a head", "a module with a head"])
def test_torchscript_is_refused_with_the_name_of_what_to_use(wrapped):
    head = qm.nn.IQE(12, 4)
    with pytest.raises(RuntimeError, match=r"IQE: TorchScript cannot .* torch\.export\.export"):
        torch.jit.script(nn.Sequential(nn.Linear(12, 12), head) if wrapped else head)
