"""The measurement on a city's travel times: the city is directed and connected, and a head learns it."""

import csv
import importlib
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib", reason="the measurement draws a picture: qmkernels[agents]")
BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def roads(monkeypatch):
    if not BENCHMARKS.exists():
        pytest.skip("not run from a checkout: benchmarks is not there")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("measure_road_graph")


def test_a_city_has_one_way_streets_and_a_way_from_every_junction_to_every_other(roads):
    city = roads.City(8, seed=0)
    is_street = city.streets.isfinite()
    assert (is_street & ~is_street.T).sum() > 20
    assert city.times.isfinite().all() and (city.times - city.times.T).abs().max() > 0.5
    assert ((city.places[:, None] - city.places).abs().sum(dim=-1)[is_street] == 1).all()
    assert (city.times[is_street] <= city.streets[is_street]).all()


def test_a_head_learns_the_travel_times_and_the_results_are_stored(roads, monkeypatch, tmp_path):
    city = roads.City(6, seed=0)
    assert roads.best_fit(city, "IQE", 60).train_error < 0.5 * roads.best_fit(city, "IQE", 1).train_error
    out = tmp_path / "roads" / "rows.csv"
    options = ["--side", "6", "--steps", "2", "--heads", "IQE", "MRN", "--out", str(out)]
    threads = torch.get_num_threads()
    monkeypatch.setattr("sys.argv", ["measure_road_graph.py", *options])
    assert roads.main() == 0
    torch.set_num_threads(threads)
    rows = list(csv.DictReader(out.open()))
    assert [row["head"] for row in rows] == ["IQE", "MRN"]
    assert float(rows[0]["triangle_violations"]) == 0 and rows[0]["guaranteed_quasimetric"] == "True"
    assert out.with_suffix(".png").stat().st_size > 10_000
