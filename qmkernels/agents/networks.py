"""Networks that agents share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def multilayer_perceptron(
    *sizes: int, zero_output: bool = False, activation: type[nn.Module] = nn.ReLU, normalise: bool = False
) -> nn.Sequential:
    """Linear layers with an activation between, where asked for with a layer norm behind it; Glorot-uniform weights,
    zero biases; an output of zeros where asked for."""
    layers: list[nn.Module] = []
    for size, following in zip(sizes[:-1], sizes[1:], strict=True):
        linear = nn.Linear(size, following)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, activation(), *([nn.LayerNorm(following)] if normalise else [])]
    if zero_output:
        nn.init.zeros_(linear.weight)
    return nn.Sequential(*layers[: layers.index(linear) + 1])


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, rows: Tensor) -> Tensor:
        return rows + self.network(rows)


def residual_perceptron(input_size: int, width: int, num_blocks: int, output_size: int) -> nn.Sequential:
    """A linear layer and ReLU, blocks x + f(x) with f of two hidden layers, all of one width, and a linear layer;
    initialised as `multilayer_perceptron`."""
    entry, leave = multilayer_perceptron(input_size, width), multilayer_perceptron(width, output_size)
    blocks = (Residual(multilayer_perceptron(width, width, width, width)) for _ in range(num_blocks))
    return nn.Sequential(*entry, nn.ReLU(), *blocks, *leave)


class Standardise(nn.Module):
    """(value - mean) / scale of each coordinate, 0 and 1 until `fit`. Not trained, but part of the state."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def forward(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) / self.scale

    @torch.no_grad()
    def fit(self, rows: Tensor) -> None:
        """Mean and standard deviation of rows (N, size); what does not vary keeps its scale."""
        scale, mean = torch.std_mean(rows.reshape(-1, rows.shape[-1]), dim=0, correction=0)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(scale > 1e-6, scale, 1.0))
