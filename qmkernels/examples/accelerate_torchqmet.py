"""A model that holds torchqmet's heads, accelerated in place; parameters and optimizer stay as they are.

    python -m qmkernels.examples.accelerate_torchqmet

With torchqmet installed, or QMKERNELS_TORCHQMET=<checkout of torchqmet>, the model begins with the original head.
Without, `install_torchqmet` makes ``import torchqmet`` give the heads of this package, and nothing is left to replace.
"""

import os
import sys
import time
import warnings

import torch

import qmkernels as qm

warnings.filterwarnings("ignore", category=DeprecationWarning)  # torchqmet uses torch.jit.script
sys.path.extend(path for path in [os.environ.get("QMKERNELS_TORCHQMET")] if path)
try:
    import torchqmet
except ImportError:
    torchqmet = qm.compat.install_torchqmet()


class Critic(torch.nn.Module):
    """Code that knows torchqmet alone."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Linear(8, 512)
        self.head = torchqmet.IQE(512, dim_per_component=8)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x), self.encoder(y))


def fastest_ms(critic: Critic, x: torch.Tensor, y: torch.Tensor) -> float:
    """Of five forward and backward passes."""
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        critic(x, y).mean().backward()
        times.append(1e3 * (time.perf_counter() - begin))
    return min(times)


def main() -> None:
    torch.manual_seed(0)
    critic, x, y = Critic(), torch.randn(256, 8), torch.randn(256, 8)
    optimizer = torch.optim.Adam(critic.parameters())
    owner, distance, time_ms = type(critic.head), critic(x, y), fastest_ms(critic, x, y)

    qm.compat.accelerate(critic)  # the one line

    print(f"{owner.__module__}.{owner.__name__}: {time_ms:.2f} ms for forward and backward")
    print(f"{type(critic.head).__module__}.IQE: {fastest_ms(critic, x, y):.2f} ms")
    torch.testing.assert_close(critic(x, y), distance)
    optimizer.step()
    assert isinstance(critic.head, qm.nn.IQE) and not torch.equal(critic(x, y), distance)
    print("the same distances, and the optimizer made before keeps working")


if __name__ == "__main__":
    main()
