"""Builds the API reference from the docstrings of the public modules, as HTML. A warning is an error.

    python .ci/docs.py [folder]

The folder is build/docs by default. Needs the installed package and pdoc.
"""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import pdoc
import pdoc.render

import qmkernels

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "nn",
    "nn.reductions",
    "nn.transforms",
    "losses",
    "agents",
    "data",
    "compat",
    "distributed",
)  # beside qmkernels


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "docs"
    pages = "|".join(re.escape(name) for name in PAGES)
    pdoc.render.configure(
        docformat="google", math=True, show_source=False, footer_text=f"qmkernels {qmkernels.__version__}"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc("qmkernels", rf"!qmkernels\.(?!({pages})$)", output_directory=folder)
    print(f"docs: {len(list(folder.rglob('*.html')))} pages in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
