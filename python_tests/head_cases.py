"""A table of every head in every form, and how to make it: test_heads.py and the tests on a GPU run over it."""

from __future__ import annotations

import torch
from torch import nn

import qmkernels as qm

SIZE = 12
CONCAVE = ["concave_activation"]

# Class, positional arguments after the input size, and keywords, keyed by the name that the test reports.
HEADS = {
    "IQE": ("IQE", (3,), {}),
    "IQE concave": ("IQE", (3,), {"transforms": CONCAVE}),
    "MRN": ("MRN", (2, 7, 4), {"warn_if_not_quasimetric": False}),
    "MRN power": ("MRN", (0.7, 7, 4), {"reduction": "mean"}),
    "MRNFixed": ("MRNFixed", (1, 7, 4), {}),
    "MRNFixed discount": ("MRNFixed", (1, 7, 4), {"discount": 0.9}),
    "MRNFixed concave": ("MRNFixed", (1, 7, 4), {"transforms": CONCAVE, "reduction": "maxmean"}),
    "LatentMRN": ("LatentMRN", (3,), {"preset": None, "reduction": "sum"}),
    "LatentMRN tmd": ("LatentMRN", (2,), {"preset": "tmd", "discount": 0.9}),
    "LatentMRN maxmean": ("LatentMRN", (3,), {"eps": 0, "reduction": "maxmean"}),
    "PQE": ("PQE", (3,), {}),
    "PQELH": ("PQELH", (3,), {"reduction": "mean"}),
    "PQELH discount": ("PQELH", (3,), {"discount": 0.9}),
    "PQELH concave": ("PQELH", (3,), {"transforms": CONCAVE, "reduction": "max"}),
    "PQE gaussian half-line": ("PQE", (3, "gaussian", "halfline"), {}),
    "PQEGG": ("PQEGG", (3,), {}),
    "PQEGG concave": ("PQEGG", (3,), {"transforms": CONCAVE, "reduction": "sum"}),
    "PQEGG discount": ("PQEGG", (3,), {"discount": 0.9}),
    "DeepNorm": ("DeepNorm", (4,), {}),
    "DeepNorm plain": ("DeepNorm", (4, 2), {"transforms": [], "reduction": "sum"}),
    "DeepNorm symmetric": ("DeepNorm", (4,), {"symmetric": True}),
    "DeepNorm maxrelu": ("DeepNorm", (4, 3, "maxrelu", "relu"), {}),
    "Simple": ("Simple", (), {}),
    "Simple concave": ("Simple", (), {"transforms": CONCAVE, "reduction": "maxmean"}),
    "WideNorm": ("WideNorm", (4, 3), {}),
    "WideNorm plain": ("WideNorm", (4, 3), {"transforms": [], "reduction": "sum"}),
    "WideNorm symmetric": ("WideNorm", (4, 3, True), {}),
}


class Euclidean(qm.nn.QuasimetricBase):
    """A user's own head."""

    def __init__(self, input_size):
        super().__init__(input_size, num_components=1, guaranteed_quasimetric=True, transforms=[], reduction="sum")

    def compute_components(self, x, y):
        return (x - y).norm(dim=-1, keepdim=True)


def make(name: str, package=qm.nn, seed: int = 0) -> nn.Module:
    if name == "own":
        return Euclidean(SIZE)
    class_name, arguments, keywords = HEADS[name]
    torch.manual_seed(seed)
    return getattr(package, class_name)(SIZE, *arguments, **keywords)
