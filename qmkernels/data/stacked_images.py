"""Images of transitions, each stored once and stacked on request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
import torch


class StackedImages:
    """Keeps the newest ``capacity`` images of an environment, and returns the stacks that transitions begin and end
    with.

    An episode of T transitions takes T + 1 images, whatever ``num_stacked``. All take ``capacity`` * channels * height
    * width bytes, which the system allocates as they are filled, and 16 bytes per transition.

    Args:
        capacity: the largest number of images, and of transitions.
        shape: of a stack, (num_stacked * channels, height, width).
        num_stacked: images in a stack, the newest last. An episode's first image is repeated before the first step, as
            in gymnasium's FrameStackObservation.
    """

    def __init__(self, capacity: int, shape: tuple[int, int, int], num_stacked: int) -> None:
        channels, rest = divmod(shape[0], num_stacked)
        if rest:
            raise ValueError(f"StackedImages: {num_stacked} images cannot have {shape[0]} channels in all.")
        if capacity <= num_stacked:
            raise ValueError(
                f"StackedImages: a transition between stacks of {num_stacked} needs {num_stacked + 1} images, got a "
                f"capacity of {capacity}."
            )
        self.shape, self.num_stacked, self.num_added, self._begin = tuple(shape), num_stacked, 0, 0
        self.images = numpy.zeros((capacity, channels, *shape[1:]), numpy.uint8)
        self._newest, self._first = numpy.zeros(capacity, numpy.int64), numpy.zeros(capacity, numpy.int64)

    def add(self, place: int, stack: numpy.ndarray, next_stack: numpy.ndarray, is_first: bool) -> None:
        """Stores a transition's images at a place, in order of time; ``is_first``: it begins an episode."""
        if is_first:
            self._begin = self.num_added
            self._append(stack)
        self._newest[place], self._first[place] = self.num_added - 1, self._begin
        self._append(next_stack)

    def has(self, place: int) -> bool:
        """Returns whether all images of the transition are still stored."""
        oldest = max(self._newest[place] - self.num_stacked + 1, self._first[place])
        return bool(oldest >= self.num_added - len(self.images))

    def stacks(self, places: numpy.ndarray, later: int) -> numpy.ndarray:
        """Returns the stacks, uint8 (..., num_stacked * channels, height, width), with which the transitions at places
        (...) begin, or end if ``later`` is 1."""
        numbers = self._newest[places][..., None] + numpy.arange(later + 1 - self.num_stacked, later + 1)
        numbers = numpy.maximum(numbers, self._first[places][..., None])
        return self.images[numbers % len(self.images)].reshape(*numpy.shape(places), *self.shape)

    def state_dict(self) -> dict[str, Any]:
        """Returns all contents as tensors and numbers."""
        filled = {name: torch.from_numpy(array[: self.num_added].copy()) for name, array in self._arrays().items()}
        return {**filled, "num_added": self.num_added, "begin": self._begin}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, array in self._arrays().items():
            array[: len(state[name])] = state[name].numpy()
        self.num_added, self._begin = state["num_added"], state["begin"]

    def _arrays(self) -> dict[str, numpy.ndarray]:
        return {"images": self.images, "newest": self._newest, "first": self._first}

    def _append(self, stack: numpy.ndarray) -> None:
        channels = self.images.shape[1]
        self.images[self.num_added % len(self.images)] = stack[-channels:]
        self.num_added += 1


@dataclass(frozen=True)
class Stacks:
    """The stacks with which transitions begin, or end if ``later`` is 1, indexed like an array of them."""

    images: StackedImages
    later: int

    def __getitem__(self, places: numpy.ndarray) -> numpy.ndarray:
        return self.images.stacks(places, self.later)
