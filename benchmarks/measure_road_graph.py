"""How well each head fits a city's travel times: rows in benchmarks/results/road_graph/road_graph.csv, and the last
seed's city by the first head in road_graph.png beside it.

    python benchmarks/measure_road_graph.py

The city is a grid of streets, some of them one-way, with main roads that are three times as fast; driving takes time by
length, speed and a random delay. The truth is `qm.shortest_paths`. Every junction has an embedding of as many values
for all heads, fitted to the travel times of 80% of the ordered pairs by their mean relative error, at the better of two
learning rates; WideNorm, MRN and PQE also have parameters of their own. On the other 20%: the relative error. Of random
triples: the share that breaks the triangle inequality. For all junctions: whether `qm.nearest` finds the facility that
is reached first, and the one from which help arrives first, and how much longer the drive takes than the fastest.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from comparison import HERE, append_rows
from matplotlib.figure import Figure
from torch import Tensor, nn

import qmkernels as qm

SIDE, SIZE, STEPS, FACILITIES = 14, 64, 800, 8
LEARNING_RATES = (0.03, 0.1)
ONE_WAY_SHARE, MAIN_ROAD_EVERY, HELD_OUT_SHARE = 0.4, 6, 0.2
TRIPLES = 1_000_000
COLUMNS = (
    "date", "commit", "machine", "cores", "threads", "python", "torch", "qmkernels", "isa", "command",
    "junctions", "values_per_junction", "head", "guaranteed_quasimetric", "head_parameters", "seed", "steps",
    "learning_rate", "seconds",
    "relative_error", "relative_error_95", "train_relative_error", "triangle_violations", "nearest_to", "detour_to",
    "nearest_from", "detour_from",
)  # fmt: skip


class Euclidean(qm.nn.QuasimetricBase):
    """Symmetric: what a map without one-way streets would say."""

    def __init__(self, input_size: int) -> None:
        super().__init__(input_size, 1, guaranteed_quasimetric=True, transforms=[], reduction="sum")

    def compute_components(self, x: Tensor, y: Tensor) -> Tensor:
        return qm.mrn(x, y, asymmetric="none", reduction="none")


HEADS: dict[str, Callable[[int], qm.nn.QuasimetricBase]] = {
    "IQE": lambda size: qm.nn.IQE(size, dim_per_component=8),
    "IQE sum": lambda size: qm.nn.IQE(size, dim_per_component=8, reduction="sum"),
    "LatentMRN": lambda size: qm.nn.LatentMRN(size, 4, preset="tmd", eps=0.0),
    "MRN": lambda size: qm.nn.MRN(size, warn_if_not_quasimetric=False),
    "MRNFixed": lambda size: qm.nn.MRNFixed(size),
    "PQE": lambda size: qm.nn.PQE(size, dim_per_component=4),
    "WideNorm": lambda size: qm.nn.WideNorm(size, 4, 8),
    "Euclidean": Euclidean,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the city and the fit")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--side", type=int, default=SIDE, help="junctions along a side of the city")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "road_graph" / "road_graph.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        city = City(options.side, seed)
        for name in options.heads:
            fit = best_fit(city, name, options.steps)
            append_rows(options.out, COLUMNS, "cpu", [fit.row()])
            if name == options.heads[0]:
                figure(city, fit).savefig(options.out.with_suffix(".png"))
    return 0


class City:
    """Junctions, the travel times of single streets between them, and those of the fastest drives, in minutes."""

    def __init__(self, side: int, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.seed, self.streets = seed, self._streets(side)
        times = qm.shortest_paths(self.streets)
        middle = side * side // 2 + side // 2
        kept = (times[middle].isfinite() & times[:, middle].isfinite()).nonzero().squeeze(1)
        self.streets = self.streets[kept][:, kept]
        self.times = times[kept][:, kept]  # a street between them and others leads to nowhere, or from there
        self.places = torch.stack([kept % side, kept // side], dim=1)
        draws = torch.rand(self.times.shape, generator=self.generator)
        self.is_held_out = (draws < HELD_OUT_SHARE) & (self.times > 0)
        self.is_fitted = ~self.is_held_out & (self.times > 0)
        self.facilities = torch.randperm(len(kept), generator=self.generator)[:FACILITIES]

    def _streets(self, side: int) -> Tensor:
        minutes = torch.full((side * side, side * side), torch.inf)
        for row in range(side):
            for column in range(side):
                here = row * side + column
                for there, line in ((here + 1, row), (here + side, column)):
                    if (there == here + 1 and column + 1 == side) or there >= side * side:
                        continue
                    is_main = line % MAIN_ROAD_EVERY == 0
                    delays = 0.5 + torch.rand(2, generator=self.generator)
                    forth, back = (delays / 3 if is_main else delays).tolist()
                    one_way, turned = torch.rand(2, generator=self.generator).tolist()
                    both = is_main or one_way >= ONE_WAY_SHARE
                    if both or turned < 0.5:
                        minutes[here, there] = forth
                    if both or turned >= 0.5:
                        minutes[there, here] = back
        return minutes


class Fit(nn.Module):
    """A head and an embedding of every junction, fitted to a city's travel times."""

    def __init__(self, city: City, name: str, steps: int, learning_rate: float) -> None:
        super().__init__()
        torch.manual_seed(city.seed)
        self.city, self.name, self.steps, self.learning_rate = city, name, steps, learning_rate
        self.head = HEADS[name](SIZE)
        self.embedding = nn.Parameter(torch.randn(len(city.times), SIZE))
        with torch.no_grad():  # both as long on average
            predicted = self.head.pairwise(self.embedding, self.embedding)
        self.log_scale = nn.Parameter((city.times.mean() / predicted.mean()).log())
        begin = time.perf_counter()
        self._train()
        self.seconds = time.perf_counter() - begin
        with torch.no_grad():
            self.times = self.metric(self.embedding, self.embedding)
        self.errors = (self.times / city.times - 1).abs()
        self.train_error = self.errors[city.is_fitted].mean().item()

    def metric(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns the travel times between all of x (N, SIZE) and y (M, SIZE), in minutes, (N, M)."""
        return self.log_scale.exp() * self.head.pairwise(x, y)

    def _train(self) -> None:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        fitted = self.city.is_fitted
        true = self.city.times[fitted]
        for _ in range(self.steps):
            predicted = self.metric(self.embedding, self.embedding)[fitted]
            loss = (predicted / true - 1).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    def row(self) -> dict[str, object]:
        held_out = self.errors[self.city.is_held_out]
        to, detour_to = self.nearest(arrives=False)
        since, detour_from = self.nearest(arrives=True)
        return {
            "junctions": len(self.embedding), "values_per_junction": SIZE, "head": self.name, "seed": self.city.seed,
            "guaranteed_quasimetric": self.head.guaranteed_quasimetric, "steps": self.steps,
            "learning_rate": self.learning_rate,
            "head_parameters": sum(parameter.numel() for parameter in self.head.parameters()),
            "seconds": f"{self.seconds:.0f}",
            "relative_error": f"{held_out.mean():.4f}",
            "relative_error_95": f"{held_out.quantile(0.95):.4f}",
            "train_relative_error": f"{self.train_error:.4f}",
            "triangle_violations": f"{self.triangle_violations():.4f}",
            "nearest_to": f"{(to == self.city_nearest(arrives=False)).float().mean():.4f}",
            "detour_to": f"{detour_to:.4f}",
            "nearest_from": f"{(since == self.city_nearest(arrives=True)).float().mean():.4f}",
            "detour_from": f"{detour_from:.4f}",
        }  # fmt: skip

    def triangle_violations(self) -> float:
        """The share of random triples in which the way by the second junction is shorter, by more than rounding."""
        generator = torch.Generator().manual_seed(0)
        i, j, k = torch.randint(len(self.times), (3, TRIPLES), generator=generator)
        return (self.times[i, k] > (self.times[i, j] + self.times[j, k]) * (1 + 1e-4)).float().mean().item()

    @torch.no_grad()
    def nearest(self, arrives: bool) -> tuple[Tensor, float]:
        """Returns for each junction the facility that the head finds nearest, to it or with ``arrives`` from it, and
        how much longer the drive takes than that of the truly nearest, on average over all other junctions."""
        bank = self.embedding[self.city.facilities]
        metric = (lambda x, y: self.head(y, x)) if arrives else self.head
        found = qm.nearest(self.embedding, bank, 1, metric=metric).indices.squeeze(1)
        true = self.city.times[self.city.facilities].T if arrives else self.city.times[:, self.city.facilities]
        best, taken = true.min(dim=1).values, true.gather(1, found[:, None]).squeeze(1)
        is_elsewhere = best > 0
        return found, (taken[is_elsewhere] / best[is_elsewhere] - 1).mean().item()

    def city_nearest(self, arrives: bool) -> Tensor:
        true = self.city.times[self.city.facilities].T if arrives else self.city.times[:, self.city.facilities]
        return true.min(dim=1).indices


def best_fit(city: City, name: str, steps: int) -> Fit:
    fit = min((Fit(city, name, steps, rate) for rate in LEARNING_RATES), key=lambda fit: fit.train_error)
    print({name: value for name, value in fit.row().items() if name in ("head", *COLUMNS[-11:])}, flush=True)
    return fit


def figure(city: City, fit: Fit) -> Figure:
    """The city's streets; the junctions by their nearest facility as the head finds it, both ways, wrong ones crossed;
    and all travel times, learned and true."""
    drawn = Figure(figsize=(16, 5), dpi=110, layout="constrained")
    *maps, times = drawn.subplots(1, 3)
    x, y = city.places.T.tolist()
    for axes, arrives in zip(maps, (False, True), strict=True):
        for i, j in city.streets.isfinite().nonzero().tolist():
            is_one_way = bool(city.streets[j, i].isinf())
            axes.annotate(
                "", (x[j], y[j]), (x[i], y[i]),
                arrowprops={"arrowstyle": "->" if is_one_way else "-", "lw": 0.6 / city.streets[i, j].item(),
                            "color": "0.6", "shrinkA": 0, "shrinkB": 2 if is_one_way else 0},
            )  # fmt: skip
        found, detour = fit.nearest(arrives)
        is_wrong = found != fit.city_nearest(arrives)
        axes.scatter(x, y, c=found, s=18, cmap="tab20", zorder=3)
        axes.scatter(*city.places[is_wrong].T.tolist(), marker="x", c="black", s=30, zorder=4)
        axes.scatter(*city.places[city.facilities].T.tolist(), marker="*", c=range(FACILITIES), cmap="tab20", s=160,
                     edgecolors="black", zorder=5)  # fmt: skip
        way = "from which help arrives first" if arrives else "reached first"
        axes.set_title(
            f"the facility {way}, by {fit.name}\ncrosses: another is true ({is_wrong.float().mean():.1%}), drives "
            f"{detour:.2%} longer on average", fontsize=10,
        )  # fmt: skip
        axes.set_axis_off()
    held_out = city.is_held_out
    times.plot(city.times[held_out], fit.times[held_out], ",", alpha=0.3, rasterized=True)
    times.axline((0, 0), slope=1, color="black", lw=0.8)
    times.set(xlabel="true travel time (minutes)", ylabel=f"learned by {fit.name} (minutes)", title="pairs held out")
    return drawn


if __name__ == "__main__":
    sys.exit(main())
