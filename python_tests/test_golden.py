"""Every head against golden/heads.json: distances and gradients of the published formulas in 50 digits."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path

import pytest
import torch

import qmkernels as qm
from qmkernels.arguments.mrn import PRESETS

FOLDER = Path(__file__).with_name("golden")
GOLDEN = json.loads((FOLDER / "heads.json").read_text())
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}


def load_generator():
    spec = importlib.util.spec_from_file_location("golden_generate", FOLDER / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = load_generator()
CASES = generate.cases()


def head_of(case, dtype):
    """Makes the head of a case, with the generator's parameters."""
    class_name, arguments, _, _, shapes = CASES[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        head = getattr(qm.nn, class_name)(**arguments).to(dtype)
    parameters = dict(head.named_parameters())
    assert {name: tuple(value.shape) for name, value in parameters.items()} == shapes
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(torch.tensor(generate.parameter(case, name, shapes[name]), dtype=dtype).view(shapes[name]))
    return head


def inputs_of(case, dtype):
    size = CASES[case][1]["input_size"]
    for name in ("x", "y"):
        values = generate.numbers(f"{case}/{name}", generate.ROWS * size)
        yield torch.tensor(values, dtype=dtype).view(generate.ROWS, size).requires_grad_()


def error_of(ours, golden):
    return (ours.double() - torch.tensor(golden, dtype=torch.float64).view(ours.shape)).abs().max().item()


@pytest.mark.parametrize("form", ["elementwise", "pairwise"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
@pytest.mark.parametrize("case", GOLDEN)
def test_distances_and_gradients_are_those_of_the_formula(case, dtype, form):
    head = head_of(case, dtype)
    x, y = inputs_of(case, dtype)
    distance = head(x, y) if form == "elementwise" else head.pairwise(x, y).diagonal()
    assert error_of(distance, GOLDEN[case]["distance"]) <= TOLERANCE[dtype] * max(GOLDEN[case]["distance"])
    (distance * torch.arange(1, generate.ROWS + 1)).sum().backward()
    tensors = {"x": x, "y": y, **dict(head.named_parameters())}
    # Some gradients are sums that cancel, so the error is relative to the largest of all.
    largest = max(abs(value) for values in GOLDEN[case]["gradient"].values() for value in values)
    for name, golden in GOLDEN[case]["gradient"].items():
        gradient = tensors[name].grad
        if is_constrained(head, name):
            # Negative entries were set to 0, where the formula, which rectifies them, has no gradient.
            gradient = gradient * (tensors[name] > 0)
        assert error_of(gradient, golden) <= TOLERANCE[dtype] * largest, name


def is_constrained(head, name):
    layer = head.get_submodule(name.rpartition(".")[0])
    return getattr(layer, "weight_constraint_", None) is not None


def test_all_classes_presets_and_conventions_are_there():
    classes = {CASES[case][0] for case in GOLDEN}
    assert classes == {"IQE", "MRN", "MRNFixed", "LatentMRN", "PQE", "PQELH", "PQEGG", "DeepNorm", "WideNorm"}
    presets = {CASES[case][1]["preset"] for case in GOLDEN if CASES[case][0] == "LatentMRN"}
    assert presets == set(PRESETS)
    assert {"IQE maxmean", "IQE maxmean_ogbench"} < set(GOLDEN)


@pytest.mark.parametrize("case", ["IQE maxmean", "LatentMRN tmd", "MRNFixed", "PQELH sum", "WideNorm symmetric"])
def test_the_generator_gives_the_committed_numbers(case):
    assert json.loads(json.dumps(generate.compute(case))) == GOLDEN[case]
