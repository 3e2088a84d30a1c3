"""Code written for torchqmet runs on our modules; each case in a fresh interpreter, because imports are tested."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# A stand-in for an installed torchqmet, which must be unreachable once ours is installed.
ORIGINAL = {
    "__init__.py": "from . import reductions\nclass QuasimetricBase: pass\nclass IQE(QuasimetricBase): pass\n",
    "reductions.py": "class Original: pass\n",
    "mrn.py": "class MRN: pass\n",
    "nothing.py": "",
}


# What public code that imports torchqmet does with it, and where it was seen in November 2026. x and y are (5, 2048).
PUBLIC_USES = {
    "quasimetric-learning/quasimetric-rl; lukasmolnar/, Hollownesses/ and ubermenzch/quasimetric-rl": """
        import torchqmet
        class Owner(torch.nn.Module):
            quasimetric_head: torchqmet.QuasimetricBase
        class L2(torchqmet.QuasimetricBase):
            def __init__(self, input_size):
                super().__init__(input_size, num_components=1, guaranteed_quasimetric=True,
                                 transforms=[], reduction='sum', discount=None)
            def compute_components(self, x, y):
                return (x - y).norm(p=2, dim=-1, keepdim=True)
        for head in (torchqmet.IQE(2048, 2048 // 64), L2(2048)):
            assert isinstance(head, torchqmet.QuasimetricBase) and head.input_size == 2048
            assert head(torch.stack([x, y], dim=-2), torch.stack([y, x], dim=-2)).shape == (5, 2)
    """,
    "fangyuan-ksgk/quasimetric-rl, SGI-2023/quasimetric-representation": """
        import torchqmet # a comment
        iqe = torchqmet.IQE(2048, 64)
        assert issubclass(torchqmet.IQE, torchqmet.QuasimetricBase) and iqe.num_components == 32
        f'{iqe.reduction} {iqe.input_size} {torchqmet.QuasimetricBase}'
        d = iqe(x.requires_grad_(), y)
        d.sum().backward()
    """,
    "ebronstein/quasimetric-rl": """
        import torchqmet
        class InnerProduct(torchqmet.QuasimetricBase):
            def __init__(self, input_size):
                super().__init__(input_size, num_components=1, guaranteed_quasimetric=False,
                                 transforms=[], reduction="sum", discount=None)
            def compute_components(self, x, y):
                return (x * y).sum(dim=-1, keepdim=True)
        torch.testing.assert_close(InnerProduct(2048)(x, y), (x * y).sum(dim=-1))
    """,
    "lorenzosteccanella/MinimumActionDistance": """
        import torchqmet
        assert torchqmet.WideNorm(2048, 8, 16, symmetric=False)(x, y).shape == (5,)
        assert torchqmet.IQE(2048, dim_per_component=16, reduction="maxmean")(x, y).shape == (5,)
    """,
    "jianda-chen/SCR": """
        from torchqmet import IQE, QuasimetricBase
        iqe = IQE(2048, dim_per_component=64, reduction='maxmean').to("cpu")
        assert len(list(iqe.parameters())) == 1 and iqe(x, y).unsqueeze(-1).shape == (5, 1)
    """,
    "a loss in a fork of open_clip": """
        import torchqmet
        d = torchqmet.IQE(input_size=x.size(dim=1), dim_per_component=16, reduction="sum").to(x.device)
        assert torch.outer(d(x, y), d(y, x)).shape == d(x[:, None], y).shape == (5, 5)
    """,
    "baselines in searches for puzzles' shortest solutions": """
        import torchqmet
        for head in (torchqmet.IQE(input_size=2048, dim_per_component=16), torchqmet.MRNFixed(2048),
                     torchqmet.MRNFixed(input_size=2048, sym_p=1)):
            assert head(x, y).shape == (5,)
    """,
    "a study of road networks": """
        from torchqmet.iqe import iqe
        from torchqmet import IQE, MRNFixed
        assert iqe(x.reshape(5, 1, 128, 16), y.reshape(5, 128, 16)).shape == (5, 5, 128)
    """,
    "a script that checks an environment": """
        import torchqmet
        assert getattr(torchqmet, '__version__', 'installed').startswith("0.1")
    """,
    "torchqmet's README": """
        import torchqmet
        for kind in (torchqmet.PQE, torchqmet.PQELH, torchqmet.PQEGG, torchqmet.MRN, torchqmet.MRNFixed):
            assert kind(128)(x[:, :128], y[:, :128]).shape == (5,)
        norms = torchqmet.DeepNorm(128, num_components=64, num_layers=3), torchqmet.WideNorm(
            128, num_components=64, output_component_size=32)
        assert all(norm(x[:, :128], y[:, :128]).shape == (5,) for norm in norms)
    """,
}


def run_fresh(code: str, folder: Path, *, with_original: bool = False) -> str:
    """Returns what ``code`` prints in a new interpreter, with torchqmet installed in ``folder`` or not at all."""
    if with_original:
        package = folder / "torchqmet"
        package.mkdir()
        for name, text in ORIGINAL.items():
            (package / name).write_text(text)
    paths = [str(folder), *(path for path in sys.path if path and not (Path(path) / "torchqmet").is_dir())]
    program = f"import sys\nsys.path[:] = {paths!r}\n" + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_public_code_does_with_torchqmet_works(tmp_path):
    snippets = {where: textwrap.dedent(code) for where, code in PUBLIC_USES.items()}
    code = f"""
        import traceback, warnings
        import torch
        import qmkernels as qm
        warnings.simplefilter("ignore")
        qm.compat.install_torchqmet()
        for where, snippet in {snippets!r}.items():
            names = dict(torch=torch, x=torch.randn(5, 2048), y=torch.randn(5, 2048))
            try:
                exec(snippet, names)
            except Exception:
                print(where, traceback.format_exc())
        print("done")
    """
    assert run_fresh(code, tmp_path) == "done"


@pytest.mark.parametrize("with_original", [False, True], ids=["not installed", "installed"])
def test_every_import_of_torchqmet_is_ours(tmp_path, with_original):
    code = """
        import torch
        import qmkernels as qm
        installed = qm.compat.install_torchqmet()
        import torchqmet
        import torchqmet.iqe, torchqmet.reductions, torchqmet.transforms, torchqmet.utils
        import torchqmet.reductions as renamed
        from torchqmet import IQE, QuasimetricBase, make_reduction
        from torchqmet.iqe import IQE as from_submodule
        from torchqmet.reductions import MaxMean, ReductionBase
        from torchqmet.transforms import ConcaveActivation, TransformBase
        from torchqmet.utils import DeepLinearNet, get_num_effective_parameters
        assert torchqmet is installed
        assert IQE is from_submodule is torchqmet.IQE is qm.nn.IQE
        assert QuasimetricBase is qm.nn.QuasimetricBase
        assert renamed is torchqmet.reductions and MaxMean is qm.nn.reductions.MaxMean
        assert not hasattr(renamed, "Original")
        assert get_num_effective_parameters(DeepLinearNet(5, 3)) == 15
        assert abs(torchqmet.utils.sigmoid_pow(torch.tensor(0.0), torch.tensor(2.0)) - 0.25) < 1e-6
        star = {}
        exec("from torchqmet import *", star)
        assert star["IQE"] is IQE
        print(torchqmet.__version__)
    """
    assert run_fresh(code, tmp_path, with_original=with_original) == "0.1.0+qmkernels"


def test_installing_again_changes_nothing(tmp_path):
    code = """
        import qmkernels as qm
        first = qm.compat.install_torchqmet()
        assert qm.compat.install_torchqmet() is first
        import torchqmet
        assert torchqmet is first
    """
    run_fresh(code, tmp_path)


def test_an_import_before_keeps_the_original_and_one_after_is_ours(tmp_path):
    code = """
        import torchqmet as before
        from torchqmet import IQE as IQEBefore
        import qmkernels as qm
        qm.compat.install_torchqmet()
        import torchqmet
        import torchqmet.reductions
        assert torchqmet is not before and before.IQE is IQEBefore
        assert torchqmet.IQE is qm.nn.IQE
        assert torchqmet.reductions is qm.nn.reductions
    """
    run_fresh(code, tmp_path, with_original=True)


def test_all_eight_heads_are_there_under_every_name_that_torchqmet_has_for_them(tmp_path):
    code = """
        import qmkernels as qm
        qm.compat.install_torchqmet()
        import torchqmet
        from torchqmet import PQE, PQELH, PQEGG, IQE, MRN, MRNFixed, DeepNorm, WideNorm
        import torchqmet.iqe, torchqmet.mrn, torchqmet.neural_norms, torchqmet.pqe
        import torchqmet.pqe.measures as measures, torchqmet.pqe.shapes as shapes
        from torchqmet.mrn import MRNProjector
        from torchqmet.neural_norms import ConstrainedLinear, MaxReLU, make_activation, max_relu
        from torchqmet.pqe import GaussianBasedMeasure, GaussianShape, HalfLineShape, LebesgueMeasure, MeasureBase
        for name in torchqmet.__all__:
            assert getattr(torchqmet, name) is getattr(qm.nn, name)
        assert torchqmet.pqe.PQEGG is PQEGG and torchqmet.mrn.MRNFixed is MRNFixed
        assert torchqmet.neural_norms.WideNorm is WideNorm and torchqmet.iqe.IQE is IQE
        assert measures.MeasureBase is MeasureBase and shapes.GaussianShape is GaussianShape
        assert isinstance(MRNFixed(4).sym_proj, MRNProjector)
        assert isinstance(PQEGG(4).measure, GaussianBasedMeasure)
        print(len(torchqmet.__all__))
    """
    assert run_fresh(code, tmp_path, with_original=True) == "8"


def test_the_special_functions_are_there_and_say_what_is_not(tmp_path):
    code = """
        import torch
        import qmkernels as qm
        qm.compat.install_torchqmet()
        from torchqmet.pqe import cdf_ops
        from torchqmet.pqe.cdf_ops import (
            chndtr, i0, i0e, i1, i1e, log_ndtr, ndtr, prob_two_poisson_gt, prob_two_poisson_le, prod_ndtr)
        a, b = torch.tensor([0.1, 2.0], dtype=torch.float64), torch.tensor([1.5, 0.3], dtype=torch.float64)
        le, gt = prob_two_poisson_le(a, b), prob_two_poisson_gt(a, b)
        torch.testing.assert_close(le + gt, torch.ones_like(le))
        torch.testing.assert_close(ndtr(a).log(), log_ndtr(a))
        torch.testing.assert_close(prod_ndtr(a), ndtr(a).prod())
        torch.testing.assert_close(i1e(a), i1(a) * torch.exp(-a))
        torch.testing.assert_close(i0e(a), i0(a) * torch.exp(-a))
        # The closed form without non-centrality.
        torch.testing.assert_close(chndtr(a, 2, torch.zeros_like(a)), 1 - torch.exp(-a / 2))
        try:
            cdf_ops.chndtr(a, 3, b)
        except NotImplementedError as error:
            print(error)
    """
    assert "df must be the number 2" in run_fresh(code, tmp_path)


@pytest.mark.parametrize("name", ["nothing", "pqe.nothing"])
def test_a_submodule_that_we_do_not_have_is_not_taken_from_an_installed_torchqmet(tmp_path, name):
    code = f"""
        import qmkernels as qm
        qm.compat.install_torchqmet()
        try:
            import torchqmet.{name}
        except ModuleNotFoundError as error:
            print(error)
    """
    assert run_fresh(code, tmp_path, with_original=True) == f"No module named 'torchqmet.{name}'"


def test_a_name_that_torchqmet_never_had_is_an_ordinary_error(tmp_path):
    code = """
        import qmkernels as qm
        torchqmet = qm.compat.install_torchqmet()
        try:
            torchqmet.Cosine
        except AttributeError as error:
            print(error)
    """
    assert run_fresh(code, tmp_path) == "module 'torchqmet' has no attribute 'Cosine'"


def test_the_function_iqe_takes_components_apart_already(tmp_path):
    code = """
        import torch
        import qmkernels as qm
        qm.compat.install_torchqmet()
        from torchqmet.iqe import iqe
        x, y = torch.randn(7, 1, 5, 3), torch.randn(4, 5, 3)
        torch.testing.assert_close(iqe(x, y), qm.iqe(x.flatten(-2), y.flatten(-2), 3, reduction="none"))
    """
    run_fresh(code, tmp_path)


def test_a_head_written_for_torchqmet_trains(tmp_path):
    code = """
        import torch
        import qmkernels as qm
        qm.compat.install_torchqmet()
        import torchqmet

        class L2(torchqmet.QuasimetricBase):
            def __init__(self, input_size: int) -> None:
                super().__init__(input_size, num_components=1, guaranteed_quasimetric=True,
                                 transforms=[], reduction="sum", discount=None)

            def compute_components(self, x, y):
                return (x - y).norm(p=2, dim=-1, keepdim=True)

        for head in (L2(6), torchqmet.IQE(6, 3)):
            x, y = torch.randn(5, 6, requires_grad=True), torch.randn(5, 6)
            assert isinstance(head, torchqmet.QuasimetricBase)
            assert head(x[:, None], y).shape == (5, 5)
            head(x, y).sum().backward()
            assert x.grad.abs().sum() > 0
    """
    run_fresh(code, tmp_path)


def test_a_critic_like_qrls_official_one_runs_unchanged(tmp_path):
    """Code of the same structure: a head made by name, a projector before it, both directions stacked."""
    code = """
        import torch
        import qmkernels
        qmkernels.compat.install_torchqmet()

        import torchqmet

        class Symmetric(torchqmet.QuasimetricBase):
            def __init__(self, input_size: int) -> None:
                super().__init__(input_size, num_components=1, guaranteed_quasimetric=True,
                                 transforms=[], reduction="sum", discount=None)

            def compute_components(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
                return (x - y).norm(p=2, dim=-1, keepdim=True)

        def head_of(specification: str) -> torchqmet.QuasimetricBase:
            known = dict(
                iqe=lambda *, dim, components: torchqmet.IQE(dim, dim // components),
                mrn=lambda *, dim: torchqmet.MRNFixed(dim),
                l2=lambda *, dim: Symmetric(dim),
            )
            return eval(specification, known, {})

        class Critic(torch.nn.Module):
            quasimetric_head: torchqmet.QuasimetricBase

            def __init__(self, specification: str) -> None:
                super().__init__()
                self.quasimetric_head = head_of(specification)
                self.projector = torch.nn.Linear(9, self.quasimetric_head.input_size)

            def forward(self, zx, zy, *, bidirectional: bool = False):
                px, py = self.projector(zx), self.projector(zy)
                if bidirectional:
                    px, py = torch.broadcast_tensors(px, py)
                    px, py = torch.stack([px, py], dim=-2), torch.stack([py, px], dim=-2)
                return self.quasimetric_head(px, py)

        for specification in ("iqe(dim=64,components=8)", "mrn(dim=64)", "l2(dim=64)"):
            torch.manual_seed(0)
            critic = Critic(specification)
            zx, zy = torch.randn(33, 9), torch.randn(33, 9)
            both = critic(zx, zy, bidirectional=True)
            assert both.shape == (33, 2)
            torch.testing.assert_close(both[:, 0], critic(zx, zy))
            torch.testing.assert_close(both[:, 1], critic(zy, zx))
            assert critic(zx[:, None], zy, bidirectional=True).shape == (33, 33, 2)
            torch.testing.assert_close(critic(zx, zy.roll(1, 0)), critic(zx[:, None], zy)[range(33), range(-1, 32)])
            both.square().mean().backward()
            assert all(torch.isfinite(parameter.grad).all() for parameter in critic.parameters())
    """
    run_fresh(code, tmp_path)


def test_a_whole_module_pickled_with_torchqmet_loads_as_ours(tmp_path):
    code = """
        import pickle, sys, types
        import torch
        import qmkernels as qm

        # Pickled under torchqmet's module names, as torchqmet's own classes are.
        sys.modules["torchqmet"] = types.ModuleType("torchqmet")
        for own, name in [(qm.nn.IQE, "torchqmet.iqe"), (qm.nn.reductions.MaxMean, "torchqmet.reductions")]:
            sys.modules[name] = types.ModuleType(name)
            setattr(sys.modules[name], own.__name__, own)
            own.__module__ = name
        head = qm.nn.IQE(12, 3)
        data = pickle.dumps(head)
        assert b"torchqmet.iqe" in data and b"torchqmet.reductions" in data
        qm.nn.IQE.__module__, qm.nn.reductions.MaxMean.__module__ = "qmkernels.nn.iqe", "qmkernels.nn.reductions"

        qm.compat.install_torchqmet()
        loaded = pickle.loads(data)
        x, y = torch.randn(5, 12), torch.randn(5, 12)
        assert type(loaded) is qm.nn.IQE
        torch.testing.assert_close(loaded(x, y), head(x, y))
    """
    run_fresh(code, tmp_path)


def test_the_docstrings_example_prints_what_it_says(tmp_path):
    code = """
        import doctest, importlib
        print(doctest.testmod(importlib.import_module("qmkernels.compat.torchqmet")))
    """
    assert run_fresh(code, tmp_path).startswith("TestResults(failed=0, attempted=4")
