"""The project's rules: imports point one way, every op has its files, no instruction set leaks into another."""

import ast
import re
from pathlib import Path

import pytest

from qmkernels.backends import dispatch
from qmkernels.train.experiments import METHODS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "qmkernels"

# What each folder and module may import from the package; `qmkernels/__init__.py` imports them when they are used.
ARITHMETIC = {"arguments", "definitions", "backends", "ops"}
LAYERS = {
    "compiled": set(),
    "torch_ops": {"ops"},
    "arguments": set(),  # nor torch or JAX
    "definitions": {"arguments"},
    "backends": {"arguments", "definitions", "compiled"},
    "ops": {"arguments", "definitions", "backends"},
    "jax": {"arguments", "compiled"},  # and never torch
    "nn": ARITHMETIC,
    "distributed": {"arguments", "definitions", "ops"},
    "losses": {*ARITHMETIC, "nn", "distributed"},
    "compat": {*ARITHMETIC, "nn"},
    "integrations": {*ARITHMETIC, "nn", "losses"},  # beside agents, which do without other libraries
    "agents": {*ARITHMETIC, "nn", "losses"},
    "data": set(),
    "options": set(),
    "progress": set(),
    "measurement": set(),
    "train": {"backends", "nn", "agents", "data", "options", "progress"},
    "demo": {"backends", "nn", "losses", "options", "progress"},
    "info": {"backends", "options"},
    "bench": {"definitions", "backends", "nn", "compat", "info", "measurement", "options", "progress"},
    "cli": {"info", "bench", "demo", "train", "options"},
    "examples": {"integrations"},  # public names alone: `import qmkernels`, and what that leaves out
}


def imported_layers(path):
    """Yields the folders and modules of qmkernels that a file imports, by relative or absolute imports."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = list(parts[: -node.level]) + (node.module or "").split(".")
            names = [base] if node.module else [[*base[:-1], alias.name] for alias in node.names]
            yield from (name[0] for name in names if name and name[0])
        elif isinstance(node, ast.ImportFrom) and node.module == "qmkernels":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qmkernels."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("qmkernels."))


def test_every_folder_and_module_has_its_layer():
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert names - {"__init__"} == set(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_one_way(layer):
    folder = PACKAGE / layer
    for path in folder.rglob("*.py") if folder.is_dir() else [folder.with_suffix(".py")]:
        wrong = set(imported_layers(path)) - LAYERS[layer] - {layer}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("backend", sorted(path.name for path in (PACKAGE / "backends").iterdir() if path.is_dir()))
def test_a_backend_imports_no_other(backend):
    others = {path.name for path in (PACKAGE / "backends").iterdir() if path.is_dir()} - {backend}
    for path in (PACKAGE / "backends" / backend).glob("*.py"):
        imported = re.findall(r"^from (?:\.\.|qmkernels\.backends\.)(\w+)", path.read_text(), re.MULTILINE)
        assert not others & set(imported), path


def test_the_python_and_the_native_side_list_the_same_ops():
    listed = re.search(r"set\(QMK_OPS ([^)]*)\)", (ROOT / "csrc" / "ops.cmake").read_text())[1].split()
    assert sorted(listed) == sorted(dispatch.OPS)


@pytest.mark.parametrize("op", dispatch.OPS)
@pytest.mark.parametrize(
    "path",
    [
        "csrc/math/{}.h", "csrc/cpu/{}.cpp", "csrc/cuda/{}.cu", "csrc/ops/{}.h", "qmkernels/definitions/{}.py",
        "qmkernels/backends/reference/{}.py", "qmkernels/backends/native/{}.py", "qmkernels/backends/triton/{}.py",
        "qmkernels/ops/{}.py", "csrc/tests/test_{}.cpp", "python_tests/test_{}.py", "benchmarks/bench_{}.py",
    ],
)  # fmt: skip
def test_an_op_has_a_file_of_its_name_in_every_layer(op, path):
    assert (ROOT / path.format(op)).is_file()


def words_of_code(path):
    """Yields the names, attributes and strings of a file, without its docstrings and comments."""
    tree = ast.parse(path.read_text())
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) not in documentation:
            value = getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "value", None)
            names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else [value]
            yield from (word for name in names if isinstance(name, str) for word in re.split(r"\W+|_", name.lower()))


def test_the_training_frame_names_no_method():
    assert METHODS.keys() == {path.stem for path in (PACKAGE / "train" / "experiments").glob("[!_]*.py")}
    for path in (PACKAGE / "train").glob("*.py"):
        assert not set(METHODS) & set(words_of_code(path)), path
    assert "qrl" in set(words_of_code(PACKAGE / "train" / "experiments" / "qrl.py"))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_one_short_agent_and_one_short_experiment(method):
    for folder, most in (("agents", 300), ("train/experiments", 150)):
        path = PACKAGE / folder / f"{method}.py"
        assert len(path.read_text().splitlines()) <= most, path
    assert (ROOT / "python_tests" / f"test_agent_{method}.py").is_file()


def test_only_native_touches_addresses():
    for path in PACKAGE.rglob("*.py"):
        if path.name != "core.py":
            assert "data_ptr" not in path.read_text(), path


def test_the_core_includes_no_torch_header():
    for path in (ROOT / "csrc").rglob("*"):
        if path.suffix in (".h", ".cuh", ".cpp", ".cu"):
            assert not re.search(r"#include\s*[<\"](torch|ATen|c10)/", path.read_text()), path


def test_one_loop_alone_runs_on_several_threads():
    files = [path for path in (ROOT / "csrc").rglob("*.[hc]*") if "#pragma omp" in path.read_text()]
    assert files == [ROOT / "csrc" / "cpu" / "parallel.h"]


# In the recipe `foo` stands for an op: each path exists for the distance or the loss that one copies.
COPIED = ("mrn", "metra")


def test_the_files_that_the_recipe_for_an_op_names_exist():
    recipe = (ROOT / "csrc" / "README.md").read_text()
    paths = re.findall(r"`((?:qmkernels|csrc|python_tests|benchmarks)/[\w./]*)`", recipe)
    assert len(paths) > 25
    missing = [path for path in paths if not any((ROOT / path.replace("foo", op)).exists() for op in COPIED)]
    assert not missing, missing


def test_an_op_touches_few_shared_files():
    """Outside an op's own files, only the list of ops, the exports and the tables of test cases name it."""
    exports = {"qmkernels/losses/__init__.py", "qmkernels/jax/losses/__init__.py"}
    shared = {"csrc/ops.cmake", *exports, "python_tests/op_cases.py", "python_tests/test_jax_kernel_call.py"}
    named = set()
    for folder, suffixes in (("csrc", ".h .cuh .cpp .cu .cmake"), ("qmkernels", ".py"), ("python_tests", ".py")):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in suffixes.split() and "metra" not in path.name:
                code = re.sub(r'//.*|""".*?"""', "", path.read_text(), flags=re.DOTALL if path.suffix == ".py" else 0)
                if re.search(
                    r"\bmetra(_forward|_backward|_kernels)\b|MetraSettings|\bimport metra\b|metra\.metra", code
                ):
                    named.add(path.relative_to(ROOT).as_posix())
    assert named <= shared, named - shared
