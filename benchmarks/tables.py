"""Writes the tables of the README and its pages from benchmarks/results/, between ``<!-- results:NAME -->`` and
``<!-- /results -->``; with ``--check`` writes nothing and exits 1 if a page is not what would be written.

    python benchmarks/tables.py [--check]
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

import agent_tables
import budget_table
import gpu
import jax_table
import road_graph_table
import speed_tables

ROOT = Path(__file__).resolve().parent.parent

# By page, the blocks that it must have, each with the function that makes its text from the folder of results.
PAGES: dict[str, dict[str, Callable[[Path], str]]] = {
    "README.md": {
        "figure": speed_tables.figure,
        "headline": speed_tables.headline,
        "agents_headline": agent_tables.headline,
    },
    "benchmarks/README.md": {
        "batch_sizes": speed_tables.batch_sizes,
        "iqe": speed_tables.iqe,
        "ops": speed_tables.ops,
        "training_step": speed_tables.training_step,
        "overhead": speed_tables.overhead,
        "road_graph": road_graph_table.table,
        "gpu": gpu.proof,
        "gpu_budget": budget_table.budget,
    },
    "qmkernels/jax/README.md": {"jax": jax_table.table},
    "qmkernels/agents/README.md": {"agents": agent_tables.every_experiment},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is stale")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the pages and of benchmarks/results")
    options = parser.parse_args()
    results, stale = options.root / "benchmarks" / "results", []
    for name, makers in PAGES.items():
        page = options.root / name
        if not page.exists():
            print(f"{page} does not exist.", file=sys.stderr)
            return 1
        before = page.read_text()
        try:
            after = with_blocks(before, {block: make(results) for block, make in makers.items()})
        except ValueError as error:
            print(f"{page}: {error}", file=sys.stderr)
            return 1
        if after != before:
            stale.append(name)
            if not options.check:
                page.write_text(after)
    if options.check and stale:
        print(f"Not what benchmarks/tables.py makes of the results: {', '.join(stale)}. Run it.", file=sys.stderr)
        return 1
    return 0


def with_blocks(text: str, blocks: dict[str, str]) -> str:
    """``text`` with each named block's content replaced. ValueError: a block is missing, or there twice."""
    for name, content in blocks.items():
        pattern = re.compile(rf"(<!-- results:{name} -->\n).*?(<!-- /results -->)", re.DOTALL)
        text, count = pattern.subn(lambda match, content=content: match[1] + content + match[2], text)
        if count != 1:
            raise ValueError(f"needs one block <!-- results:{name} -->, has {count}.")
    return text


if __name__ == "__main__":
    sys.exit(main())
