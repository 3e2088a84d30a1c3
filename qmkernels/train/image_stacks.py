"""Images as observations: several one after another in the channels, which come first."""

from __future__ import annotations

import gymnasium
import numpy


def with_stacks(environment: gymnasium.Env, count: int) -> gymnasium.Env:
    """The environment with the images of the newest ``count`` steps as "observation" of its Dict.

    uint8 (count * channels, height, width), the newest last; before an episode's first step stands its first image.
    The environment's images have their channels last or first, whichever of both is the shorter side. Whatever else is
    in the Dict is that of the newest step.
    """
    spaces, wrappers = gymnasium.spaces, gymnasium.wrappers
    shape = environment.observation_space["observation"].shape
    channels, *extent = (shape[-1], *shape[:-1]) if shape[-1] < shape[0] else shape

    def arranged(stacked: dict[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
        images = stacked["observation"]
        if shape[-1] < shape[0]:
            images = numpy.moveaxis(images, -1, 1)
        newest = {name: value[-1] for name, value in stacked.items()}
        return newest | {"observation": images.reshape(count * channels, *extent)}

    image = spaces.Box(0, 255, (count * channels, *extent), numpy.uint8)
    space = spaces.Dict({**environment.observation_space.spaces, "observation": image})
    return wrappers.TransformObservation(wrappers.FrameStackObservation(environment, count), arranged, space)
