"""Keeps what pytest --benchmark-json writes small enough to store per commit, and free of the host's name."""

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(output_json):
    output_json["machine_info"].pop("node", None)
    for benchmark in output_json["benchmarks"]:
        benchmark["stats"].pop("data", None)  # the times of single rounds
        benchmark["options"] = {}
        contender = (benchmark["params"] or {}).get("contender")
        benchmark["params"] = {"contender": contender}  # the name has the others
