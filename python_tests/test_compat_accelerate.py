"""accelerate(module) turns torchqmet's heads inside live modules into ours and keeps everything else."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import qmkernels as qm

# A package laid out like torchqmet, for machines without it: module names, class names, attributes and submodules.
STAND_IN = {
    "__init__.py": """
        from torch import nn
        from .reductions import make_reduction
        class QuasimetricBase(nn.Module):
            def __init__(self, input_size, num_components, *, guaranteed_quasimetric, transforms, reduction,
                         discount=None):
                super().__init__()
                self.input_size, self.num_components, self.discount = input_size, num_components, discount
                self.guaranteed_quasimetric = guaranteed_quasimetric
                self.transforms = nn.Sequential()
                self.reduction = make_reduction(reduction, num_components, discount)
            def forward(self, x, y):
                return self.reduction(self.compute_components(x, y))
        from .iqe import IQE
        from .mrn import MRNFixed
    """,
    "reductions.py": """
        import torch
        from torch import nn
        class ReductionBase(nn.Module):
            def __init__(self, input_num_components, discount=None):
                super().__init__()
                self.input_num_components, self.discount = input_num_components, discount
        class Sum(ReductionBase):
            def forward(self, d):
                return d.sum(-1)
        class MaxMean(ReductionBase):
            def __init__(self, *arguments):
                super().__init__(*arguments)
                self.raw_alpha = nn.Parameter(torch.tensor(-1.0))
            def forward(self, d):
                return torch.lerp(d.mean(-1), d.amax(-1), self.raw_alpha.sigmoid())
        def make_reduction(kind, *arguments):
            return {"sum": Sum, "maxmean": MaxMean}[kind](*arguments)
    """,
    "iqe.py": """
        import torch
        from . import QuasimetricBase
        class IQE(QuasimetricBase):
            def __init__(self, input_size, dim_per_component=16):
                count = input_size // dim_per_component
                super().__init__(input_size, count, guaranteed_quasimetric=True, transforms=(), reduction="maxmean")
                self.latent_2d_shape = torch.Size([count, dim_per_component])
            def compute_components(self, x, y):
                x, y = (z.unflatten(-1, self.latent_2d_shape) for z in torch.broadcast_tensors(x, y))
                order = x.argsort(-1)
                x, y = x.gather(-1, order), y.gather(-1, order)
                reached = torch.cummax(torch.maximum(x, y), -1).values
                before = torch.cat([x[..., :1], reached[..., :-1]], -1)
                return (reached - torch.maximum(before, x)).clamp(min=0).sum(-1)
    """,
    "mrn.py": """
        import torch
        from torch import nn
        from . import QuasimetricBase
        class MRNProjector(nn.Sequential):
            def __init__(self, input_size, hidden_size, output_size):
                super().__init__(nn.Linear(input_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, output_size))
        class MRN(QuasimetricBase):
            def __init__(self, input_size, sym_p=2, proj_hidden_size=176, proj_output_size=16):
                super().__init__(input_size, 2, guaranteed_quasimetric=sym_p <= 1, transforms=(), reduction="sum")
                self.sym_p = sym_p
                self.sym_proj = MRNProjector(input_size, proj_hidden_size, proj_output_size)
                self.asym_proj = MRNProjector(input_size, proj_hidden_size, proj_output_size)
            def compute_components(self, x, y):
                symmetric = (self.sym_proj(x) - self.sym_proj(y)).square().mean(-1) ** (self.sym_p / 2)
                asymmetric = (self.asym_proj(x) - self.asym_proj(y)).amax(-1).relu()
                return torch.stack([symmetric, asymmetric], -1)
        class MRNFixed(MRN):
            def __init__(self, input_size, sym_p=1, proj_hidden_size=176, proj_output_size=16):
                super().__init__(input_size, sym_p, proj_hidden_size, proj_output_size)
    """,
}


def write_stand_in(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, text in STAND_IN.items():
        lines = [line.removeprefix("        ") for line in text.splitlines()]
        (folder / name).write_text("\n".join(lines))


@pytest.fixture(params=["stand-in", "checkout"])
def torchqmet(request, tmp_path, monkeypatch):
    """torchqmet, freshly imported, and removed afterwards."""
    folder = tmp_path
    if request.param == "stand-in":
        write_stand_in(tmp_path / "torchqmet")
    else:
        folder = os.environ.get("QMKERNELS_TORCHQMET")
        if not folder:
            pytest.skip("QMKERNELS_TORCHQMET names no checkout of torchqmet")
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "torchqmet"}
    monkeypatch.syspath_prepend(str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield importlib.import_module("torchqmet")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchqmet"]:
        del sys.modules[name]
    sys.modules.update(before)


def model_of(head: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"encoder": nn.Linear(5, 12), "heads": nn.ModuleList([head])})


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "arguments"), [("IQE", (12, 3)), ("MRNFixed", (12, 1, 7, 4))])
def test_a_nested_head_becomes_ours_with_the_same_tensors(torchqmet, name, arguments):
    model = model_of(getattr(torchqmet, name)(*arguments))
    before = dict(model.named_parameters())
    x, y = points(9, 12), points(9, 12, seed=1)
    expected = model["heads"][0](x, y)
    keys = list(model.state_dict())
    assert qm.compat.accelerate(model) is model
    head = model["heads"][0]
    assert type(head) is getattr(qm.nn, name)
    assert not any(type(part).__module__.startswith("torchqmet") for part in model.modules())
    assert list(model.state_dict()) == keys
    after = dict(model.named_parameters())
    assert after.keys() == before.keys() and all(after[key] is before[key] for key in after)
    torch.testing.assert_close(head(x, y), expected)
    torch.testing.assert_close(head.pairwise(x, y).diagonal(), expected)


@pytest.mark.parametrize("name", ["IQE", "MRNFixed"])
def test_a_head_as_the_root_is_returned_as_ours(torchqmet, name):
    head = getattr(torchqmet, name)(16)
    ours = qm.compat.accelerate(head)
    assert type(ours) is getattr(qm.nn, name)
    assert repr(ours) == repr(getattr(qm.nn, name)(16))
    assert type(pickle.loads(pickle.dumps(ours))) is type(ours)


def test_optimizers_hooks_and_flags_keep_working(torchqmet):
    model = model_of(torchqmet.MRNFixed(12, 1, 7, 4)).eval()
    head = model["heads"][0]
    head.sym_proj[0].weight.requires_grad_(False)
    optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=0.1)
    calls = []
    handle = head.register_forward_hook(lambda *arguments: calls.append("head"))
    qm.compat.accelerate(model)
    head = model["heads"][0]
    assert not head.training and not head.sym_proj.training
    assert not head.sym_proj[0].weight.requires_grad
    x, y = points(9, 12), points(9, 12, seed=1)
    layers = [head.sym_proj[0], head.sym_proj[2], head.asym_proj[0], head.asym_proj[2]]
    before = [layer.weight.clone() for layer in layers]
    head(x, y).sum().backward()
    optimizer.step()
    changed = [not torch.equal(old, layer.weight) for old, layer in zip(before, layers, strict=True)]
    assert changed == [False, True, True, True]
    handle.remove()
    head(x, y)
    assert calls == ["head"]


def test_a_shared_head_stays_shared(torchqmet):
    head = torchqmet.IQE(12, 3)
    model = nn.ModuleList([nn.Sequential(head), head])
    qm.compat.accelerate(model)
    assert model[0][0] is model[1] and type(model[1]) is qm.nn.IQE
    assert len(list(model.parameters())) == 1


def test_a_users_subclass_is_left_alone_with_one_warning(torchqmet):
    class MyIQE(torchqmet.IQE):
        pass

    class Own(torchqmet.QuasimetricBase):
        def __init__(self):
            super().__init__(
                12, num_components=1, guaranteed_quasimetric=True, transforms=[], reduction="sum", discount=None
            )

        def compute_components(self, x, y):
            return (x - y).norm(dim=-1, keepdim=True)

    model = nn.ModuleList([MyIQE(12, 3), MyIQE(12, 3), Own(), torchqmet.IQE(12, 3)])
    with pytest.warns(UserWarning, match=r"left alone.*MyIQE, .*Own\.") as caught:
        qm.compat.accelerate(model)
    assert len(caught) == 1
    assert [type(part) for part in model] == [MyIQE, MyIQE, Own, qm.nn.IQE]
    assert type(model[2].reduction).__module__ == "torchqmet.reductions"
    assert caught[0].filename == __file__


def test_a_copy_of_torchqmet_inside_another_package_is_turned_too(tmp_path, monkeypatch):
    write_stand_in(tmp_path / "package_with_a_copy" / "torchqmet")
    monkeypatch.syspath_prepend(str(tmp_path))
    copy = importlib.import_module("package_with_a_copy.torchqmet")

    class MyIQE(copy.IQE):
        pass

    head = copy.IQE(12, 3)
    x, y = points(9, 12), points(9, 12, seed=1)
    expected = head(x, y)
    model = nn.ModuleList([head, MyIQE(12, 3)])
    with pytest.warns(UserWarning, match="left alone.*MyIQE"):
        qm.compat.accelerate(model)
    assert type(head) is qm.nn.IQE and type(head.reduction) is qm.nn.reductions.MaxMean
    torch.testing.assert_close(head(x, y), expected)


@pytest.mark.parametrize(
    "module", [nn.Linear(3, 3), qm.nn.IQE(12, 3), nn.Sequential(qm.nn.MRNFixed(12))], ids=["none", "ours", "inside"]
)
def test_without_a_head_of_torchqmet_nothing_changes(module):
    kinds = [type(part) for part in module.modules()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert qm.compat.accelerate(qm.compat.accelerate(module)) is module
    assert [type(part) for part in module.modules()] == kinds


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("torchqmet", ["checkout"], indirect=True)
@pytest.mark.parametrize("arguments", [{}, {"transforms": ["concave_activation"], "discount": 0.9}])
@pytest.mark.parametrize("name", ["PQE", "PQELH", "PQEGG", "IQE", "MRN", "MRNFixed", "DeepNorm", "WideNorm"])
def test_every_class_of_torchqmet_is_swapped_whole(torchqmet, name, arguments):
    sizes = {"IQE": (12, 3), "DeepNorm": (12, 4), "WideNorm": (12, 4)}.get(name, (12,))
    head = getattr(torchqmet, name)(*sizes, **arguments)
    x, y = points(9, 12), points(9, 12, seed=1)
    expected = None if name == "PQEGG" else head(x, y)  # which compiles its functions at first use
    qm.compat.accelerate(head)
    assert not any(type(part).__module__.startswith("torchqmet") for part in head.modules())
    distance = head(x, y)
    assert torch.isfinite(distance).all()
    if expected is not None:
        torch.testing.assert_close(distance, expected, rtol=1e-4, atol=1e-5)
