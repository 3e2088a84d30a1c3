"""Progress bars of the commands: on stderr, and none where that is no terminal."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager
from typing import Any


class NoBar(AbstractContextManager):
    """Stands in for tqdm's bar where tqdm is not installed."""

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, n: int = 1) -> None:
        pass

    def clear(self) -> None:
        pass

    def set_description_str(self, desc: str) -> None:
        pass


def progress(total: int | None, unit: str, description: str | None = None, *, shown: bool = True, **others: Any) -> Any:
    """A bar that ``update`` moves on, as a context; ``others`` are tqdm's arguments."""
    if importlib.util.find_spec("tqdm") is None:
        return NoBar()
    from tqdm import tqdm

    return tqdm(
        total=total, unit=unit, desc=description, mininterval=0.5, dynamic_ncols=True,
        disable=None if shown else True, **others,
    )  # fmt: skip
