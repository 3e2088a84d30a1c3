"""Networks that agents share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def multilayer_perceptron(
    *sizes: int,
    zero_output: bool = False,
    activation: type[nn.Module] = nn.ReLU,
    normalise: bool = False,
    normalise_before: bool = False,
) -> nn.Sequential:
    """Makes linear layers with activations between them, optionally with a layer norm after or before each activation.

    Weights are Glorot-uniform and biases zero; with ``zero_output`` so are the last layer's weights.
    """
    layers: list[nn.Module] = []
    for size, following in zip(sizes[:-1], sizes[1:], strict=True):
        linear = nn.Linear(size, following)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        before, behind = ([nn.LayerNorm(following)] if asked else [] for asked in (normalise_before, normalise))
        layers += [linear, *before, activation(), *behind]
    if zero_output:
        nn.init.zeros_(linear.weight)
    return nn.Sequential(*layers[: layers.index(linear) + 1])


class EnsemblePerceptron(nn.Module):
    """Networks like `multilayer_perceptron`'s, all of the same sizes, that run as one: one batched product per layer.

    They map rows (B, input size), shared by all, or (members, B, input size) to (members, B, output size).
    """

    def __init__(
        self, count: int, *sizes: int, activation: type[nn.Module] = nn.ReLU, normalise_before: bool = False
    ) -> None:
        super().__init__()
        self.activation, self.normalise_before = activation(), normalise_before
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.norm_weights, self.norm_biases = nn.ParameterList(), nn.ParameterList()
        for size, following in itertools.pairwise(sizes):
            weight = torch.empty(count, size, following)
            for member in weight:
                nn.init.xavier_uniform_(member.t())
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(count, 1, following)))
        for hidden in sizes[1:-1] if normalise_before else ():
            self.norm_weights.append(nn.Parameter(torch.ones(count, 1, hidden)))
            self.norm_biases.append(nn.Parameter(torch.zeros(count, 1, hidden)))

    def forward(self, rows: Tensor, members: Tensor | None = None) -> Tensor:
        """``members``: indices of the members to run, in order; default all."""

        def of(parameter: Tensor) -> Tensor:
            return parameter if members is None else parameter[members]

        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            weight, bias = of(weight), of(bias)
            rows = torch.baddbmm(bias, rows.expand(len(weight), *rows.shape[-2:]), weight)
            if layer == len(self.weights) - 1:
                break
            if self.normalise_before:
                rows = functional.layer_norm(rows, rows.shape[-1:])
                rows = torch.addcmul(of(self.norm_biases[layer]), rows, of(self.norm_weights[layer]))
            rows = self.activation(rows)
        return rows


class FourierFeatures(nn.Module):
    """Appends to rows (..., n) the sines and cosines of their places, projected onto random directions.

    A place is ``size`` values of a row, from one of ``starts`` on. Each place gets ``count`` sines and ``count``
    cosines. All places share the directions, which are drawn once and belong to the module's state. Frequencies, in
    radians per unit, are normal; their standard deviations rise geometrically from the first of ``frequencies`` to the
    second.

    Without them a network first learns what varies slowly (Tancik et al. 2020, arXiv 2006.10739), and two nearby places
    with a wall between them look alike to it.
    """

    def __init__(self, starts: Iterable[int], size: int, count: int, frequencies: tuple[float, float]) -> None:
        super().__init__()
        self.starts, self.size, self.count = tuple(starts), size, count
        lowest, highest = (math.log10(frequency) for frequency in frequencies)
        self.register_buffer("directions", torch.randn(size, count) * torch.logspace(lowest, highest, count))

    @property
    def added(self) -> int:
        """The number of values appended to a row."""
        return 2 * self.count * len(self.starts)

    def forward(self, rows: Tensor) -> Tensor:
        angles = [rows[..., start : start + self.size] @ self.directions for start in self.starts]
        return torch.cat([rows, *(angle.sin() for angle in angles), *(angle.cos() for angle in angles)], dim=-1)


class ImageEncoder(nn.Module):
    """Maps images, uint8 (..., channels, height, width), to features (..., output_size).

    Values over 255 go through convolutions with kernels of 4, strides of 2 and ELU, in torch's initialisation.
    ``sizes``: the convolutions' channels. METRA's public code has 48, 96, 192 and 384, which make 1536 features of
    64 x 64 pixels. Raises ValueError for images that are too small.
    """

    def __init__(self, shape: tuple[int, int, int], sizes: Sequence[int]) -> None:
        super().__init__()
        channels, *extent = shape
        layers: list[nn.Module] = []
        for size in sizes:
            if min(extent) < 4:
                raise ValueError(
                    f"ImageEncoder: images of {shape[1]} x {shape[2]} pixels are too small for {len(sizes)} "
                    "convolutions; give larger ones, or fewer encoder_sizes."
                )
            layers += [nn.Conv2d(channels, size, kernel_size=4, stride=2), nn.ELU()]
            channels, extent = size, [(pixels - 4) // 2 + 1 for pixels in extent]
        self.layers = nn.Sequential(*layers)
        self.output_size = channels * extent[0] * extent[1]

    def forward(self, images: Tensor) -> Tensor:
        leading = images.shape[:-3]
        rows = images.reshape(-1, *images.shape[-3:]).float() / 255
        return self.layers(rows).reshape(*leading, self.output_size)


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, rows: Tensor) -> Tensor:
        return rows + self.network(rows)


def residual_perceptron(input_size: int, width: int, num_blocks: int, output_size: int) -> nn.Sequential:
    """Makes a linear layer and ReLU, then blocks x + f(x) whose f has two hidden layers, all of one width, and a last
    linear layer; initialised as in `multilayer_perceptron`."""
    entry, leave = multilayer_perceptron(input_size, width), multilayer_perceptron(width, output_size)
    blocks = (Residual(multilayer_perceptron(width, width, width, width)) for _ in range(num_blocks))
    return nn.Sequential(*entry, nn.ReLU(), *blocks, *leave)


class Standardise(nn.Module):
    """(value - mean) / scale per coordinate; mean 0 and scale 1 until `fit`. Not trained, but part of the state."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def forward(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) / self.scale

    @torch.no_grad()
    def fit(self, rows: Tensor) -> None:
        """Takes mean and standard deviation from rows (N, size); a constant coordinate keeps its scale."""
        scale, mean = torch.std_mean(rows.reshape(-1, rows.shape[-1]), dim=0, correction=0)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(scale > 1e-6, scale, 1.0))
