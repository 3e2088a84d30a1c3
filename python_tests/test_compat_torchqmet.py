"""Code written for torchqmet runs on our modules; each case in a fresh interpreter, as imports are what is tested."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

MISSING = ("PQE", "PQELH", "PQEGG", "MRN", "MRNFixed", "DeepNorm", "WideNorm")

# A stand-in for an installed torchqmet, which must be out of reach once ours is installed.
ORIGINAL = {
    "__init__.py": "from . import reductions\nclass QuasimetricBase: pass\nclass IQE(QuasimetricBase): pass\n",
    "reductions.py": "class Original: pass\n",
    "mrn.py": "class MRN: pass\n",
}


def run_fresh(code: str, folder: Path, *, with_original: bool = False) -> str:
    """What ``code`` prints in a new interpreter, where torchqmet is installed in ``folder`` or not at all."""
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


@pytest.mark.parametrize("with_original", [False, True], ids=["not installed", "installed"])
def test_every_import_of_torchqmet_is_ours(tmp_path, with_original):
    code = """
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
        star = {}
        exec("from torchqmet import *", star)
        assert star["IQE"] is IQE
        print(torchqmet.__version__)
    """
    assert run_fresh(code, tmp_path, with_original=with_original) == "0.1.0+qmkernels"


def test_installing_again_changes_nothing(tmp_path):
    code = """
        import sys
        import qmkernels as qm
        first = qm.compat.install_torchqmet()
        finders = list(sys.meta_path)
        assert qm.compat.install_torchqmet() is first
        assert sys.meta_path == finders
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


@pytest.mark.parametrize("name", MISSING)
def test_a_class_that_is_not_there_yet_says_so_when_asked_for(tmp_path, name):
    code = f"""
        import qmkernels as qm
        qm.compat.install_torchqmet()
        import torchqmet
        assert not hasattr(torchqmet, {name!r})
        try:
            torchqmet.{name}
        except AttributeError as error:
            print(error)
        try:
            from torchqmet import IQE, {name}
        except ImportError as error:
            print(error)
    """
    sentence = (
        f"torchqmet.{name} is not in this version of qmkernels, which stands in for torchqmet and has: "
        f"QuasimetricBase, IQE."
    )
    assert run_fresh(code, tmp_path).splitlines() == [sentence, sentence]


@pytest.mark.parametrize("name", ["mrn", "pqe", "pqe.measures", "neural_norms"])
def test_a_submodule_that_is_not_there_yet_is_not_taken_from_an_installed_torchqmet(tmp_path, name):
    code = f"""
        import qmkernels as qm
        qm.compat.install_torchqmet()
        try:
            import torchqmet.{name}
        except ImportError as error:
            print(error)
    """
    printed = run_fresh(code, tmp_path, with_original=True)
    assert printed.startswith(f"torchqmet.{name.split('.')[0]} is not in this version of qmkernels")


def test_a_name_that_torchqmet_never_had_is_an_ordinary_error(tmp_path):
    code = """
        import qmkernels as qm
        torchqmet = qm.compat.install_torchqmet()
        try:
            torchqmet.Cosine
        except AttributeError as error:
            print(error)
    """
    assert run_fresh(code, tmp_path) == "module 'torchqmet' (qmkernels in its place) has no attribute 'Cosine'"


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
