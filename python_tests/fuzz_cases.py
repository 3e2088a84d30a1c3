"""The table of what can be drawn, and the case of a seed and number.

An op that neither fuzz_ops.py nor fuzz_losses.py draws is drawn from its rows of op_cases.py.
"""

from __future__ import annotations

from collections.abc import Callable

import fuzz_losses as losses
import fuzz_ops as ops
import op_cases
from fuzz_draws import TOLERANCE, Case, Draw


def row_of(op: str) -> Callable[[Draw], Case]:
    """Draws any of an op's rows of op_cases.py."""
    rows = [row for row in op_cases.CASES if row.op == op]

    def draw_row(draw: Draw) -> Case:
        row, size = draw.choice(rows), draw.choice((1, 2, 3, 5, 8, 16, 33))
        draw.content = "normal"
        tensors = row.make(draw.generator, draw.rows(100, least=2), size)
        tensors = [tensor.to(row.dtype_of(i, draw.dtype)) for i, tensor in enumerate(tensors)]
        tensors = [draw.layout(tensor) if tensor.dim() else tensor for tensor in tensors]
        places = [*row.with_gradient, *row.no_gradient]  # in the order in which the call gets them

        def call(*inputs):
            return row.at(size)(
                *(tensor for _, tensor in sorted(zip(places, inputs, strict=True), key=lambda pair: pair[0]))
            )

        return Case(
            call, [tensors[i] for i in row.with_gradient], {"row": row.name, "size": size}, TOLERANCE["loss"],
            constants=[tensors[i] for i in row.no_gradient],
        )  # fmt: skip

    return draw_row


OPS: dict[str, Callable[[Draw], Case]] = {
    op.__name__: op
    for op in (
        ops.iqe, ops.iqe_pairwise, ops.mrn, ops.mrn_pairwise, ops.euclidean_pairwise, ops.pqe, ops.pqe_pairwise,
        ops.poisson, ops.nearest, ops.fsq, losses.head, losses.contrastive, losses.linex, losses.tmd_critic,
        losses.metric_contrastive, losses.qrl_critic, losses.latent_dynamics, losses.metra, losses.temporal_consistency,
        losses.step_gap, losses.expectile_backup, losses.coulomb_repulsion,
    )
}  # fmt: skip
DRAWN_BY_LOSSES = {"pair_loss", "row_loss"}
DRAWN_BY_ROWS = sorted({row.op for row in op_cases.CASES} - set(OPS) - DRAWN_BY_LOSSES)
OPS |= {op: row_of(op) for op in DRAWN_BY_ROWS}


def make_case(seed: int, number: int, op: str | None = None) -> tuple[str, Draw, Case]:
    op = op or list(OPS)[number % len(OPS)]
    draw = Draw(seed, number)
    return op, draw, OPS[op](draw)


def describe(op: str, draw: Draw, case: Case) -> str:
    shapes = " ".join(f"{tuple(tensor.shape)}/{tensor.stride()}" for tensor in case.inputs[:4])
    return f"{op}: {shapes} {draw.dtype} {draw.content} scale {draw.scale} threads {draw.threads} {case.settings}"
