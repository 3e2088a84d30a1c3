"""The tables and the figure in the README and its pages come from the stored results."""

from __future__ import annotations

import csv
import json
import sys

import pytest

agent_tables = pytest.importorskip("agent_tables", reason="not run from a checkout: benchmarks/ is not there")
import figure  # noqa: E402
import jax_table  # noqa: E402
import speed_tables  # noqa: E402
import tables  # noqa: E402

RUN = {"date": "2020-01-02T00:00:00Z", "commit": "abc", "machine": "a CPU", "cores": "2", "threads": "1"}
RUN |= {"isa": "avx2", "torch": "2", "python": "3", "peak_mib": "5.00", "max_error": "1e-7", "note": ""}
IQE = {**RUN, "form": "pairwise", "columns": "128", "size": "512", "dim_per_component": "8", "floor_ms": "0.05"}
IQE |= {"rows": "128", "direction": "forward+backward", "command": "python measure_iqe.py --only '128x128' --threads 1"}


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    return folder


def store(results, measured, rows):
    with (results / f"{measured}_cpu.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def store_iqe(results):
    """Stores every IQE case of the README's table, and an older run of the first."""
    rows = [{**IQE, "date": "2020-01-01T00:00:00Z", "contender": "ours", "median_ms": "77"}]
    for size in ({}, {"rows": "1024", "columns": "1024"}, {"form": "elementwise", "rows": "256", "columns": ""}):
        rows += [
            {**IQE, **size, "contender": "ours", "median_ms": "0.1"},
            {**IQE, **size, "contender": "torchqmet", "median_ms": "250"},
            {**IQE, **size, "contender": "sort", "note": "skipped: needs about 20 GiB; 4 are the most"},
            {**IQE, **size, "contender": "unrolled compiled", "median_ms": "3"},
        ]
    store(results, "iqe", rows)


def test_the_tables_come_from_the_last_run_and_check_finds_a_stale_page(tmp_path, results, monkeypatch, capsys):
    store_iqe(results)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tables.py", "--root", str(tmp_path), *arguments])
        return tables.main()

    assert run() == 1 and "does not exist" in capsys.readouterr().err
    for name, blocks in tables.PAGES.items():
        page = tmp_path / name
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("".join(f"<!-- results:{block} -->\nold\n<!-- /results -->\n" for block in blocks) + "after\n")
    assert run("--check") == 1 and "benchmarks/README.md" in capsys.readouterr().err
    assert run() == 0
    assert run("--check") == 0
    readme, page = (tmp_path / "README.md").read_text(), (tmp_path / "benchmarks" / "README.md").read_text()
    ours, theirs, compiled = "0.1 ms, 5 MiB", "250 ms (2500x), 5 MiB", "3 ms (30x), 5 MiB"
    assert f"| `IQE`, all 128 x 128 pairs, D=512 | {ours} | {theirs} | {compiled} |" in readme
    assert "| 0.1 ms | 250 ms (2500x) | not run: needs 20 GiB | 3 ms (30x), unrolled compiled |" in page
    assert "at commit abc on a CPU, 2 cores, 1 thread, avx2" in page and "`python measure_iqe.py --threads 1`" in page
    assert "77" not in page and page.endswith("after\n")
    (tmp_path / "README.md").write_text("no blocks")
    assert run() == 1 and "<!-- results:figure -->" in capsys.readouterr().err


def test_cases_of_the_readmes_table_without_results_are_named(results):
    store(results, "iqe", [{**IQE, "contender": "ours", "median_ms": "1"}])
    with pytest.raises(ValueError, match="'elementwise \\(256, 512\\), K=8' is among the results of iqe"):
        speed_tables.headline(results)


def test_the_figure_is_drawn_even_if_a_contender_did_not_run(results, monkeypatch):
    rows = []
    for form, batch in (("elementwise", 64), ("elementwise", 128), ("pairwise", 64), ("pairwise", 128)):
        case = {**IQE, "form": form, "rows": batch, "columns": batch if form == "pairwise" else ""}
        rows += [{**case, "contender": name, "median_ms": "2"} for name in ("ours", "unrolled compiled")]
        rows.append({**case, "contender": "torchqmet", "median_ms": "9" if batch == 64 else ""})
    store(results, "batch_sizes", rows)
    monkeypatch.setattr(sys, "argv", ["figure.py", "--results", str(results)])
    assert figure.main() == 0
    assert (results / "batch_sizes.png").stat().st_size > 10_000
    assert speed_tables.figure(results).endswith("(benchmarks/results/batch_sizes.png)\n")
    assert "| pairwise 128 x 128, D=512, K=8 | 2 ms, 5 MiB | not run |" in speed_tables.batch_sizes(results)


def test_the_table_of_training_steps_compares_ours_with_the_ceiling(results):
    run = {**RUN, "case": "batch 7", "command": "?"}
    store(
        results,
        "training_step",
        [
            {**run, "contender": "ours", "median_ms": "20", "times_ours": "1"},
            {**run, "contender": "ceiling", "median_ms": "17", "times_ours": "0.93"},
            {**run, "contender": "torchqmet"},
        ],
    )
    text = speed_tables.training_step(results)
    assert "| batch 7 | 20 ms (5.00 MiB) | 17 ms (0.93x, 5.00 MiB) | not run | 93% |" in text


def test_the_table_of_jax_compares_ours_with_plain_and_public_code(results):
    run = {**RUN, "jax": "0.10", "case": "iqe, forward", "command": "c"}
    others = [{**run, "contender": "jax.numpy", "median_ms": "40"}, {**run, "contender": "public", "note": "skipped"}]
    store(results, "jax", [{**run, "contender": "ours", "median_ms": "2"}, *others])
    text = jax_table.table(results)
    assert "| iqe, forward | 2 ms, 5 MiB | 40 ms (20x), 5 MiB | not run |" in text and "JAX 0.10, Python" in text


def test_the_table_of_overheads_has_the_last_run_of_every_commit(results):
    run = {**RUN, "command": "c", "case": "iqe"}
    runs = [{**run, "commit": commit, "times_empty": times} for commit, times in (("a", "3"), ("a", "2"), ("b", "1.5"))]
    store(results, "overhead", runs)
    text = speed_tables.overhead(results)
    assert "| call | a | b |" in text and "| iqe | 2 | 1.5 |" in text and "at commits a, b on" in text


def test_the_table_of_agents_gives_mean_and_deviation_per_measure_and_way_to_act(results):
    for name in ("some", "other"):
        (results / "agents" / name).mkdir(parents=True)
    versions = dict.fromkeys(("gymnasium-robotics", "mujoco", "torch"), "1.2")
    settings = {"evaluate_with": ["actor", "mppi"], "offline": True, "collect_steps": 300, "action_repeat": 5}
    for seed, success in ((0, 0.5), (1, 0.75)):
        run = {
            "command": f"qmkernels train qrl --env Some-v0 --seed {seed}", "commit": "abc", "machine": "a CPU",
            "final": {"success": success, "success_mppi": 1.0}, "random": {"success": 0.25}, "step": 4000,
            "environment_steps": 0, "seconds": 90, "settings": {**settings, "seed": seed}, "versions": versions,
        }  # fmt: skip
        (results / "agents" / "some" / f"seed_{seed}.json").write_text(json.dumps(run))
        run["settings"].pop("evaluate_with")
        run |= {"command": f"qmkernels train metra --env A-v0 --steps 5 --seed {seed}", "random": {}}
        run["final"] = {"coverage": 100.0 + 20 * seed, "coverage_random": 7.0}
        (results / "agents" / "other" / f"seed_{seed}.json").write_text(json.dumps(run))
    text = agent_tables.every_experiment(results)
    success = "actor 0.62 ± 0.18; mppi 1.00 ± 0.00 (0.25)"
    assert "| Reaching goals | method and options | success, environment's starts and goals | updates |" in text
    assert f"| Some-v0 | `qrl` | {success} | 4,000 | 1,500 | 1.5 | 0, 1 | abc |" in text
    assert "| A-v0 | `metra --steps 5` | 110 ± 14 (7.00) | 4,000 | 1,500 | 1.5 | 0, 1 | abc |" in text
    assert text.count("one thread on a CPU") == 1
    (results / "agents" / "other" / "seed_1.json").unlink()
    assert "| A-v0 | `metra --steps 5` | 100, one seed (7.00) |" in agent_tables.every_experiment(results)
