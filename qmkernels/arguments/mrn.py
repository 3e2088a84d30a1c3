"""Settings of MRN and its published forms; the formulas are in definitions/mrn.py."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .checks import check_choice, check_count

ASYMMETRIC = ("first", "second", "none")
SQUARES = ("sum", "mean")
EPS_FORMS = ("add", "max", "difference")
REDUCTIONS = ("none", "sum", "mean")


class MrnSettings(NamedTuple):
    """Settings of MRN, plain numbers and strings, in the order in which ops and backends take them.

    num_components  C.
    asymmetric      the half of a component that is the asymmetric part; "none": the whole component is symmetric.
    squares         "sum" or "mean" of the squared differences of the symmetric part.
    exponent        p: the symmetric part is (squares) ** (p / 2); 1 is a Euclidean norm.
    eps, eps_form   "add": squares + eps; "max": at least eps; "difference": eps is added to every difference.
    reduction       of components: "none", "sum" or "mean".
    scale           factor of the distance.
    """

    num_components: int = 1
    asymmetric: str = "first"
    squares: str = "sum"
    exponent: float = 1.0
    eps: float = 0.0
    eps_form: str = "add"
    reduction: str = "sum"
    scale: float = 1.0


# The published forms. One component of TMD's `mrn_distance`, in JAX, is one component here.
PRESETS: dict[str, MrnSettings] = {
    # torchqmet's MRN and MRNFixed, after their projections: the two outputs side by side, the symmetric one first.
    "torchqmet": MrnSettings(asymmetric="second", squares="mean", exponent=2.0),
    "torchqmet_fixed": MrnSettings(asymmetric="second", squares="mean"),
    "ogbench": MrnSettings(asymmetric="second", eps=1e-12, eps_form="max"),
    "tmd": MrnSettings(num_components=8, eps=1e-6, reduction="mean"),
    # Divided by sqrt(D), which `resolved_settings` does.
    "mqe": MrnSettings(num_components=8, eps=1e-8, eps_form="difference", reduction="mean"),
    "etd": MrnSettings(eps=1e-8),
    # A group of its two networks' outputs is a component: the asymmetric network's part, then the symmetric one's.
    "x_jepa": MrnSettings(num_components=8, reduction="mean"),
}


def resolved_settings(op: str, size: int, preset: str | None, explicit: dict[str, Any]) -> MrnSettings:
    """Combines a preset with explicit settings, None for those left to it, for embeddings of ``size`` values."""
    settings = MrnSettings()
    if preset is not None:
        check_choice(op, "preset", preset, tuple(PRESETS))
        settings = PRESETS[preset]
        if preset == "mqe" and explicit.get("scale") is None:
            explicit = {**explicit, "scale": 1.0 / math.sqrt(size)}
    # Not by _replace, which torch.compile of torch 2.6 does not trace.
    chosen = [explicit.get(name) for name in MrnSettings._fields]
    settings = MrnSettings(*[old if new is None else new for new, old in zip(chosen, settings, strict=True)])

    check_count(op, "num_components", settings.num_components, divides=size)
    check_choice(op, "asymmetric", settings.asymmetric, ASYMMETRIC)
    check_choice(op, "squares", settings.squares, SQUARES)
    check_choice(op, "eps_form", settings.eps_form, EPS_FORMS)
    check_choice(op, "reduction", settings.reduction, REDUCTIONS)
    if not settings.exponent > 0:
        raise ValueError(f"{op}: exponent must be positive, got {settings.exponent}.")
    if not settings.eps >= 0:
        raise ValueError(f"{op}: eps must be at least 0, got {settings.eps}.")
    count, asymmetric, squares, exponent, eps, eps_form, reduction, scale = settings
    return MrnSettings(count, asymmetric, squares, float(exponent), float(eps), eps_form, reduction, float(scale))
