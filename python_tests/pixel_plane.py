"""A point on a plane, seen in images: an environment for the tests, as ``--env pixel_plane:PixelPlane-v0``.

Measured on one core, seeds 0, 1 and 2: skills cover 203, 249 and 232 bins, random actions 108, 112 and 116, by

    PYTHONPATH=python_tests qmkernels train metra --env pixel_plane:PixelPlane-v0 --episode-steps 25 --steps 1500 \\
        --episodes-per-cycle 16 --prefill-episodes 40 --batch-size 64
"""

from __future__ import annotations

import gymnasium
import numpy

SIDE = 20.0


class Plane(gymnasium.Env):
    """A point that an action moves by up to 1 along x and y, from 0 to 20; observations are its position (x, y).

    It begins in the middle. Rendered it is a blob on black.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, pixels: int = 24, render_mode: str | None = None) -> None:
        self.pixels, self.render_mode = pixels, render_mode
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
        self.observation_space = gymnasium.spaces.Box(0.0, SIDE, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.here = SIDE / 2 + self.np_random.uniform(-0.5, 0.5, 2)
        return self.here.astype(numpy.float32), {}

    def step(self, action):
        self.here = (self.here + numpy.asarray(action)).clip(0, SIDE)
        return self.here.astype(numpy.float32), 0.0, False, False, {}

    def render(self) -> numpy.ndarray:
        """(pixels, pixels, 3) uint8."""
        centres = (numpy.arange(self.pixels) + 0.5) * SIDE / self.pixels
        x, y = numpy.exp(-((centres - self.here[:, None]) ** 2) / 4)
        return (numpy.multiply.outer(numpy.outer(y, x), [1.0, 0.7, 0.4]) * 255).astype(numpy.uint8)


def with_state(**arguments) -> gymnasium.Env:
    """Observations are a Dict of the image, as "observation", and of the position, as "state"."""
    return gymnasium.wrappers.AddRenderObservation(
        Plane(render_mode="rgb_array", **arguments), render_only=False, render_key="observation"
    )


def alone(**arguments) -> gymnasium.Env:
    """Observations are images and nothing else."""
    return gymnasium.wrappers.AddRenderObservation(Plane(render_mode="rgb_array", **arguments))


for name, entry in {"PixelPlane-v0": with_state, "PixelsAlone-v0": alone}.items():
    if name not in gymnasium.registry:
        gymnasium.register(name, entry, max_episode_steps=12)
