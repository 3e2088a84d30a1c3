"""Builds the API reference from the docstrings of the public modules, as HTML. A warning is an error.

    python .ci/docs.py [folder]

The folder is build/docs by default. Needs the installed package and pdoc.
"""

from __future__ import annotations

import inspect
import re
import sys
import typing
import warnings
from pathlib import Path
from types import ModuleType

import pdoc
import pdoc.docstrings
import pdoc.render
from torch import nn

import qmkernels
from qmkernels.ops.broadcasting import BothWays

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("nn", "nn.reductions", "nn.transforms", "losses", "agents", "data", "compat", "distributed")


def is_named_tuple(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, tuple) and hasattr(value, "_fields")


def add_results(module: ModuleType) -> None:
    """Documents the named tuples that a module's functions return beside the functions."""
    for function in filter(inspect.isfunction, [getattr(module, name) for name in module.__all__]):
        result = typing.get_type_hints(function)["return"]
        if is_named_tuple(result) and result.__name__ not in module.__all__:
            setattr(module, result.__name__, result)
            module.__all__.append(result.__name__)


def resolve_fields(module: ModuleType) -> None:
    """Makes types of the fields of named tuples, which pdoc cannot look up."""
    for result in filter(is_named_tuple, [getattr(module, name) for name in module.__all__]):
        result.__new__.__annotations__ = typing.get_type_hints(result)


# What Python and torch say of the methods that they bring.
INHERITED = re.compile(
    "|".join(
        [
            *(re.escape(inspect.cleandoc(method.__doc__)) for method in (nn.Module.__init__, nn.Module.extra_repr)),
            r"Create new instance of .*",
            r"Alias for field number \d+",
        ]
    )
)
ERROR = r"[A-Z]\w+Error"


def one_per_item(section: re.Match[str]) -> str:
    """A Raises section with an item for each exception."""
    errors = re.split(rf"\s+(?={ERROR}(?:, {ERROR})*:)", " ".join(section[1].split()))
    return "Raises:\n" + "".join(f"    {error}\n" for error in errors)


def listed(section: re.Match[str]) -> str:
    """What is named below a sentence that ends with a colon, as a list."""
    items = re.sub(r"(?m)^    (\w[\w, ]*:)", r"- **\1**", section[2])
    return f"{section[1]}\n\n{items}\n"


def as_pdoc_reads_it(docstring: str) -> str:
    """Markdown and Google's sections in place of the rest of reStructuredText; a warning for what looks like a tag."""
    if INHERITED.fullmatch(docstring):
        return ""
    docstring = re.sub(r"(?m)^ *::$", "", docstring)
    docstring = re.sub(r"(?m)^(?! *\.\. )(.*)::$", r"\1:", docstring)
    docstring = re.sub(r"(?m)^( *)\.\. math:: (.+)", r"\1.. math::\n\1    \2", docstring)
    docstring = re.sub(r"(?m)^Args of all quasimetrics \(.*\):$", "Keyword Args:", docstring)
    docstring = re.sub(r"(?m)^Raises:\n((?:    .*\n?)+)", one_per_item, docstring)
    docstring = re.sub(r"(?m)^(.* .*:)\n((?:    \w.*\n?(?:     .*\n?)*)+)", listed, docstring)
    text = re.sub(r"(?m)`[^`]*`|^ *>>> .*|^    .*", "", docstring)
    if tag := re.search(r"<\w.*", text):
        warnings.warn(f"a browser takes this for a tag: {tag[0]}", stacklevel=2)
    return docstring


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "docs"
    qmkernels.BothWays = BothWays
    qmkernels.__all__.append("BothWays")
    for module in (qmkernels, qmkernels.losses, qmkernels.data):
        add_results(module)
        resolve_fields(module)
    convert = pdoc.docstrings.convert
    pdoc.docstrings.convert = lambda docstring, *others: convert(as_pdoc_reads_it(docstring), *others)
    pages = "|".join(map(re.escape, PAGES))
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
