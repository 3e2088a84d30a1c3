"""Checks of settings and sizes; errors say what was wanted, what came and what to do."""

from __future__ import annotations

from collections.abc import Sequence


def check_count(op: str, name: str, count: int, divides: int) -> None:
    """Raises unless ``count`` is a positive int that divides the last size."""
    if type(count) is int and count > 0 and divides % count == 0:
        return
    if isinstance(count, bool) or not (isinstance(count, int) or type(count).__name__ == "SymInt"):  # torch's
        raise TypeError(f"{op}: {name} must be an int, got {type(count).__name__}.")
    if count < 1:
        raise ValueError(f"{op}: {name} must be at least 1, got {count}.")
    if divides % count != 0:
        raise ValueError(f"{op}: the last size must be a multiple of {name}, got {divides} and {count}.")


def check_choice(op: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{op}: {name} must be one of {', '.join(choices)}, got {value!r}.")


def wrong_dtype(op: str, name: str, dtype: object, conversion: str) -> TypeError:
    """Returns the error for an array that is not of a float dtype; ``conversion`` makes it one."""
    return TypeError(
        f"{op}: {name} must be float64, float32, bfloat16 or float16, got {dtype}; convert it first, for example "
        f"{name}.{conversion}."
    )


def different_dtypes(op: str, **dtypes: object) -> TypeError:
    (first, of_first), (second, of_second) = dtypes.items()
    return TypeError(
        f"{op}: {first} and {second} must have the same dtype, got {first} {of_first} and {second} {of_second}; "
        "convert one."
    )


def check_embedding_sizes(op: str, x: Sequence[int], y: Sequence[int]) -> None:
    """Raises ValueError unless the sizes of two arrays end with the same one, at least 1."""
    for name, sizes in (("x", x), ("y", y)):
        if len(sizes) == 0:
            raise ValueError(f"{op}: {name} must have shape (..., D), got a 0-d tensor.")
    if x[-1] != y[-1]:
        raise ValueError(f"{op}: x and y must have the same last size, got x {tuple(x)} and y {tuple(y)}.")
    if x[-1] == 0:
        raise ValueError(f"{op}: x and y must have at least one value in the last dimension, got {tuple(x)}.")


def check_pairwise_sizes(op: str, x: Sequence[int], y: Sequence[int]) -> None:
    """Raises ValueError unless both are sizes of rows, (*b, N, D)."""
    if len(x) < 2 or len(y) < 2:
        raise ValueError(f"{op}: x and y must be (*b, N, D) and (*b, M, D), got {tuple(x)} and {tuple(y)}.")


def check_metric(op: str, metric: object) -> None:
    """Raises unless ``metric`` can be called and, if it is a head, returns distances."""
    if not callable(metric):
        raise TypeError(f"{op}: metric must be a head or a function of x and y, got {type(metric).__name__}.")
    if getattr(metric, "discount", None) is not None:
        raise ValueError(
            f"{op}: metric must return distances, got a head with discount={metric.discount}, whose values fall "
            "with distance; make it without."
        )
