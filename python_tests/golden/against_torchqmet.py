"""Prints how far our heads are from torchqmet's, in float64, as a row of qmkernels/compat/README.md per class.

    QMKERNELS_TORCHQMET=<checkout> python python_tests/golden/against_torchqmet.py

Random inputs and parameters, 64 rows elementwise and all their pairs; differences are relative to the largest value of
the distances, and of all gradients. torchqmet's special functions, which need an extension compiled at first use, are
replaced by ours, so that only the rest of PQE-GG is compared; golden/heads.json has that head from the formulas.
"""

from __future__ import annotations

import os
import sys
import warnings

import torch

import qmkernels as qm

SIZE = 32
CLASSES = {
    "IQE": (8,),
    "MRN": (),
    "MRNFixed": (),
    "PQE": (),
    "PQELH": (),
    "PQEGG": (),
    "DeepNorm": (16,),
    "WideNorm": (16,),
}


def relative_difference(ours, theirs):
    largest = max(tensor.abs().max() for tensor in theirs)
    return max((a - b).abs().max() for a, b in zip(ours, theirs, strict=True)).div(largest).item()


def results(head, distance, x, y):
    out = distance(x, y)
    weights = torch.arange(out.numel(), dtype=out.dtype).cos().view_as(out)
    return [out], torch.autograd.grad(out, [x, y, *head.parameters()], weights)


def main() -> None:
    sys.path.insert(0, os.environ["QMKERNELS_TORCHQMET"])
    warnings.simplefilter("ignore")
    import torchqmet
    from torchqmet.pqe import cdf_ops

    cdf_ops.ndtr = lambda x: 0.5 * torch.special.erfc(-x / 2**0.5)
    cdf_ops.prob_two_poisson_le = qm.poisson_le
    for name, arguments in CLASSES.items():
        torch.manual_seed(0)
        ours = getattr(qm.nn, name)(SIZE, *arguments).double()
        theirs = getattr(torchqmet, name)(SIZE, *arguments).double()
        theirs.load_state_dict(ours.state_dict())
        x, y = (torch.randn(64, SIZE, dtype=torch.float64, requires_grad=True) for _ in range(2))
        largest = [0.0, 0.0]
        for our_form, their_form in (
            (ours, theirs),
            (ours.pairwise, lambda x, y, head=theirs: head(x.unsqueeze(-2), y.unsqueeze(-3))),
        ):
            pairs = zip(results(ours, our_form, x, y), results(theirs, their_form, x, y), strict=True)
            largest = [max(known, relative_difference(*pair)) for known, pair in zip(largest, pairs, strict=True)]
        print(f"| `{name}` | {largest[0]:.1e} | {largest[1]:.1e} |")


if __name__ == "__main__":
    main()
