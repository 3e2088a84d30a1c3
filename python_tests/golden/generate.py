"""Golden values of the heads: distances and gradients from the published formulas, in 50 decimal digits.

Written only for this purpose, with mpmath and lists of numbers; it imports nothing from qmkernels or torchqmet.
Gradients are central differences with a step of 1e-20, whose error is far below float64's. Inputs and parameters come
from an integer generator, so that they are the same everywhere. Run it to write ``heads.json`` again:

    python python_tests/golden/generate.py
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

from mpmath import mp, mpf

mp.dps = 50
STEP = mpf(10) ** -20
ROWS = 3
TARGET = Path(__file__).with_name("heads.json")

Vector = list
Matrix = list


def numbers(name: str, count: int, low: float = -1.0, high: float = 1.0) -> list[float]:
    """Returns ``count`` numbers in [low, high) that depend only on ``name``: 32-bit congruential, exact in float64."""
    state, values = zlib.crc32(name.encode()), []
    for _ in range(count):
        state = (1664525 * state + 1013904223) % 2**32
        values.append(low + (high - low) * state / 2**32)
    return values


def parameter(case: str, name: str, shape: tuple[int, ...]) -> list[float]:
    """Returns the flat values of a case's parameter ``name``; factors of deep linear nets are small."""
    count = 1
    for size in shape:
        count *= size
    if ".mats." in name:
        bound = (3.0 / shape[-1]) ** 0.5
        return numbers(f"{case}/{name}", count, -bound, bound)
    if name == "w.weight" or name.startswith("ws_after_first"):  # whose negative entries count as 0
        return numbers(f"{case}/{name}", count, -0.25, 1.0)
    return numbers(f"{case}/{name}", count)


def rows(count: int, flat: list) -> Matrix:
    """A flat list as ``count`` lists of equal length."""
    size = len(flat) // count
    return [flat[i * size : (i + 1) * size] for i in range(count)]


def product(a: Matrix, b: Matrix) -> Matrix:
    columns = list(zip(*b, strict=True))
    return [[mp.fdot(row, column) for column in columns] for row in a]


def apply(matrix: Matrix, x: Vector) -> Vector:
    return [mp.fdot(row, x) for row in matrix]


def relu(x: mpf) -> mpf:
    return max(x, mpf(0))


def sigmoid(x: mpf) -> mpf:
    return 1 / (1 + mp.exp(-x))


def softplus(x: mpf) -> mpf:
    return mp.log(1 + mp.exp(x))


# --- Components. Each takes x and y of one pair and the parameters by name, flat.


def iqe(x: Vector, y: Vector, parameters: dict, *, dim_per_component: int) -> Vector:
    """arXiv 2211.15120, section 3: the length of the union of the intervals [x_k, max(x_k, y_k)]."""
    components = []
    for of_x, of_y in zip(rows(len(x) // dim_per_component, x), rows(len(x) // dim_per_component, y), strict=True):
        length, covered = mpf(0), None
        for start, end in sorted((a, b) for a, b in zip(of_x, of_y, strict=True) if b > a):
            if covered is None or start > covered:
                length, covered = length + end - start, end
            elif end > covered:
                length, covered = length + end - covered, end
        components.append(length)
    return components


def perceptron(prefix: str, x: Vector, parameters: dict) -> Vector:
    hidden = parameters[f"{prefix}.0.bias"]
    inner = apply(rows(len(hidden), parameters[f"{prefix}.0.weight"]), x)
    inner = [relu(a + b) for a, b in zip(inner, hidden, strict=True)]
    bias = parameters[f"{prefix}.2.bias"]
    return [a + b for a, b in zip(apply(rows(len(bias), parameters[f"{prefix}.2.weight"]), inner), bias, strict=True)]


def mrn(x: Vector, y: Vector, parameters: dict, *, p: int) -> Vector:
    """arXiv 2208.08133: a symmetric part of one network and an asymmetric part of another."""
    f_x, f_y = perceptron("sym_proj", x, parameters), perceptron("sym_proj", y, parameters)
    g_x, g_y = perceptron("asym_proj", x, parameters), perceptron("asym_proj", y, parameters)
    mean = mp.fsum((a - b) ** 2 for a, b in zip(f_x, f_y, strict=True)) / len(f_x)
    return [mean ** (mpf(p) / 2), max(relu(a - b) for a, b in zip(g_x, g_y, strict=True))]


def latent_mrn(x: Vector, y: Vector, parameters: dict, *, preset: str) -> Vector:
    """The same directly on latents, as in the code of each source."""
    count = {"tmd": 8, "mqe": 8, "x_jepa": 8}.get(preset, 1)
    components = []
    for of_x, of_y in zip(rows(count, x), rows(count, y), strict=True):
        difference = [a - b for a, b in zip(of_x, of_y, strict=True)]
        half = len(difference) // 2
        one_way, both_ways = difference[:half], difference[half:]
        if preset in ("torchqmet", "torchqmet_fixed", "ogbench"):
            both_ways, one_way = one_way, both_ways
        asymmetric = max(relu(a) for a in one_way)
        squares = mp.fsum(a**2 for a in both_ways)
        if preset == "torchqmet":
            symmetric = squares / half
        elif preset == "torchqmet_fixed":
            symmetric = mp.sqrt(squares / half)
        elif preset == "ogbench":
            symmetric = mp.sqrt(max(squares, mpf(1e-12)))
        elif preset == "mqe":
            symmetric = mp.sqrt(mp.fsum((a + mpf(1e-8)) ** 2 for a in both_ways))
        else:
            symmetric = mp.sqrt(squares + mpf({"tmd": 1e-6, "etd": 1e-8, "x_jepa": 0}[preset]))
        components.append(asymmetric + symmetric)
    return [component / mp.sqrt(len(x)) for component in components] if preset == "mqe" else components


_collapsed: dict = {}


def deep_linear_net(prefix: str, parameters: dict, shape: tuple[int, int]) -> Matrix:
    """The product of the factors plus the bias."""
    flat = [parameters[name] for name in sorted(parameters) if name.startswith(f"{prefix}.mats.")]
    flat.append(parameters[f"{prefix}.bias"])
    key = (tuple(flat[0]), tuple(flat[-1]))  # no derivatives by the factors
    if key not in _collapsed:
        sizes = [shape[0], 64, 64, 64]
        matrix = rows(shape[0], flat[0])
        for count, factor in zip(sizes[1:], flat[1:-1], strict=True):
            matrix = product(matrix, rows(count, factor))
        bias = rows(shape[0], flat[-1])
        matrix = [[a + b for a, b in zip(row, of_row, strict=True)] for row, of_row in zip(matrix, bias, strict=True)]
        _collapsed[key] = matrix
    return _collapsed[key]


def scaled(values: Vector, parameters: dict) -> Vector:
    matrix = deep_linear_net("measure.scales_net", parameters, (len(values), len(values)))
    return apply([[entry**2 for entry in row] for row in matrix], values)


def pqe_lh(x: Vector, y: Vector, parameters: dict, *, dim_per_component: int) -> Vector:
    """arXiv 2206.15478, equation 9, the exponent divided by K (section C.4.1)."""
    excess = [relu(a - b) for a, b in zip(x, y, strict=True)]
    return [1 - mp.exp(-mp.fsum(part) / len(part)) for part in rows(len(x) // dim_per_component, excess)]


def pqe_gaussian_half_line(x: Vector, y: Vector, parameters: dict, *, dim_per_component: int) -> Vector:
    sigma = [mp.exp(value / 2) for value in parameters["measure.log_sigma2"]]
    excess = [relu(mp.ncdf(a / s) - mp.ncdf(b / s)) for a, b, s in zip(x, y, sigma, strict=True)]
    parts = rows(len(x) // dim_per_component, scaled(excess, parameters))
    return [1 - mp.exp(-mp.fsum(part) / len(part)) for part in parts]


def poisson_le(a: mpf, b: mpf) -> mpf:
    """Pr[Poisson(a) <= Poisson(b)], term by term."""
    total, of_a, of_b, at_most = mpf(0), mp.exp(-a), mp.exp(-b), mpf(0)
    for n in range(60 + int(12 * b)):
        at_most += of_a
        total += of_b * at_most
        of_a, of_b = of_a * a / (n + 1), of_b * b / (n + 1)
    return total


def overlap_free(u: mpf, v: mpf, variance: mpf) -> mpf:
    """Returns the measure, with density N(0, variance), of the area under N(u, 1) but not under N(v, 1).

    A product of two Gaussian densities is a third, so both integrals up to the crossing, (u + v) / 2, are known.
    """

    def up_to_crossing(center: mpf, below: bool) -> mpf:
        total = mp.npdf(center, 0, mp.sqrt(1 + variance))
        mean, deviation = center * variance / (1 + variance), mp.sqrt(variance / (1 + variance))
        place = ((u + v) / 2 - mean) / deviation
        return total * mp.ncdf(place if below else -place)

    return up_to_crossing(u, u < v) - up_to_crossing(v, u < v)


def overlap_free_by_quadrature(u: mpf, v: mpf, variance: mpf) -> mpf:
    """The same by numerical integration of its definition."""
    crossing = (u + v) / 2
    ends = [-mp.inf, crossing] if u < v else [crossing, mp.inf]
    return mp.quad(lambda t: (mp.npdf(t, u) - mp.npdf(t, v)) * mp.npdf(t, 0, mp.sqrt(variance)), ends)


def pqe_gg(x: Vector, y: Vector, parameters: dict, *, dim_per_component: int) -> Vector:
    """arXiv 2206.15478, section C.2."""
    variances = [mp.exp(value) for value in parameters["measure.log_sigma2"]]
    of_x = scaled([overlap_free(u, v, s) for u, v, s in zip(x, y, variances, strict=True)], parameters)
    of_y = scaled([overlap_free(v, u, s) for u, v, s in zip(x, y, variances, strict=True)], parameters)
    count = len(x) // dim_per_component
    components = []
    for a, b in zip(rows(count, of_x), rows(count, of_y), strict=True):
        size = dim_per_component
        components.append(1 - mp.fprod(poisson_le(of_a / size, of_b / size) for of_a, of_b in zip(a, b, strict=True)))
    return components


def max_relu(x: Vector, raw_weights: Vector) -> Vector:
    pairs, weights = rows(len(x) // 2, x), rows(len(x) // 2, [softplus(value) for value in raw_weights])
    means = [
        mp.fsum(relu(a * w) for a, w in zip(pair, of_pair, strict=True)) / 2
        for pair, of_pair in zip(pairs, weights, strict=True)
    ]
    return [max(pair) for pair in pairs] + means


def deep_norm(x: Vector, y: Vector, parameters: dict, *, layers: int, symmetric: bool = False) -> Vector:
    """arXiv 2002.05825, section 3; maxrelu wherever a layer has weights for it."""

    def norm(z: Vector) -> Vector:
        h = apply(rows(4, parameters["u0.weight"]), z)
        for i in range(layers):
            if i > 0:
                weights = [relu(w) for w in parameters[f"ws_after_first.{i - 1}.weight"]]
                of_z = apply(rows(4, parameters[f"us_after_first.{i - 1}.weight"]), z)
                h = [a + b for a, b in zip(apply(rows(4, weights), h), of_z, strict=True)]
            raw_weights = parameters.get(f"activations.{i}.raw_weights")
            h = [relu(a) for a in h] if raw_weights is None else max_relu(h, raw_weights)
        return h

    z = [a - b for a, b in zip(x, y, strict=True)]
    if not symmetric:
        return norm(z)
    return [a + b for a, b in zip(norm(z), norm([-a for a in z]), strict=True)]


def wide_norm(x: Vector, y: Vector, parameters: dict, *, components: int, symmetric: bool = False) -> Vector:
    """arXiv 2002.05825, section 3."""
    z, weights = [a - b for a, b in zip(x, y, strict=True)], parameters["w.weight"]
    if not symmetric:
        z, weights = [relu(a) for a in [*z, *(-a for a in z)]], [relu(w) for w in weights]
    image = apply(rows(len(weights) // len(z), weights), z)
    return [mp.sqrt(mp.fsum(a**2 for a in part)) for part in rows(components, image)]


# --- Transforms and reductions.


def concave(components: Vector, parameters: dict) -> Vector:
    """arXiv 2002.05825, section 4: the minimum of rising lines, the first through zero."""
    count = len(components)
    slopes = rows(count, [2 * sigmoid(value) for value in parameters["transforms.0.raw_ms"]])
    offsets = rows(count, [softplus(value) for value in parameters["transforms.0.raw_bs_after_first"]])
    return [
        min(slope * d + offset for slope, offset in zip(of_slope, [mpf(0), *of_offset], strict=True))
        for d, of_slope, of_offset in zip(components, slopes, offsets, strict=True)
    ]


def reduce(components: Vector, parameters: dict, reduction: str, discount: float | None) -> mpf:
    """The distance or, with a discount, ``discount ** distance``."""
    count = len(components)
    mean = mp.fsum(components) / count
    if reduction == "deep_linear_net_weighted_sum":
        if discount is None:
            (weights,) = deep_linear_net("reduction.alpha_net", parameters, (1, count))
            return mp.fsum(w**2 * d for w, d in zip(weights, components, strict=True))
        logits = deep_linear_net("reduction.beta_net", parameters, (count, 1))
        return mp.fprod(sigmoid(b) ** d for (b,), d in zip(logits, components, strict=True))
    if reduction == "maxmean":
        weight = sigmoid(parameters["reduction.raw_alpha"][0])
        distance = (1 - weight) * mean + weight * max(components)
    elif reduction == "maxmean_ogbench":
        weight = sigmoid(parameters["reduction.raw_alpha"][0])
        distance = weight * mean + (1 - weight) * max(components)
    else:
        distance = {"sum": mean * count, "mean": mean, "max": max(components)}[reduction]
    return distance if discount is None else mpf(discount) ** distance


# --- Cases: the class, its arguments, the formula and the shapes of its parameters.

CONCAVE = {"transforms.0.raw_bs_after_first": (4, 4), "transforms.0.raw_ms": (4, 5)}
RAW_ALPHA = {"reduction.raw_alpha": ()}
PRESETS = ("torchqmet", "torchqmet_fixed", "ogbench", "tmd", "mqe", "etd", "x_jepa")


def net_shapes(prefix: str, rows: int, columns: int) -> dict:
    sizes = [rows, 64, 64, 64, columns]
    factors = {f"{prefix}.mats.{i}": (sizes[i], sizes[i + 1]) for i in range(4)}
    return {**factors, f"{prefix}.bias": (rows, columns)}


def projector_shapes(prefix: str) -> dict:
    return {
        f"{prefix}.0.weight": (5, 8),
        f"{prefix}.0.bias": (5,),
        f"{prefix}.2.weight": (4, 5),
        f"{prefix}.2.bias": (4,),
    }


def cases() -> dict[str, tuple[str, dict, Callable, dict, dict]]:
    """Returns name -> (class, arguments, components' formula, its settings, shapes of parameters)."""
    of_four = {"input_size": 8, "dim_per_component": 2}
    out: dict = {}
    for reduction in ("sum", "mean", "max", "maxmean", "maxmean_ogbench"):
        shapes = RAW_ALPHA if reduction.startswith("maxmean") else {}
        out[f"IQE {reduction}"] = ("IQE", {**of_four, "reduction": reduction}, iqe, {"dim_per_component": 2}, shapes)
    discounted = {**of_four, "transforms": ["concave_activation"], "reduction": "maxmean", "discount": 0.9}
    out["IQE concave discount"] = ("IQE", discounted, iqe, {"dim_per_component": 2}, {**CONCAVE, **RAW_ALPHA})

    sizes = {"input_size": 8, "proj_hidden_size": 5, "proj_output_size": 4}
    shapes = {**projector_shapes("sym_proj"), **projector_shapes("asym_proj")}
    out["MRN"] = ("MRN", sizes, mrn, {"p": 2}, shapes)
    out["MRNFixed"] = ("MRNFixed", sizes, mrn, {"p": 1}, shapes)
    out["MRNFixed mean discount"] = ("MRNFixed", {**sizes, "reduction": "mean", "discount": 0.9}, mrn, {"p": 1}, shapes)
    out["MRNFixed maxmean"] = ("MRNFixed", {**sizes, "reduction": "maxmean"}, mrn, {"p": 1}, {**shapes, **RAW_ALPHA})
    for preset in PRESETS:
        reduction = "mean" if preset in ("tmd", "mqe", "x_jepa") else "sum"
        arguments = {"input_size": 32, "preset": preset, "reduction": reduction}
        out[f"LatentMRN {preset}"] = ("LatentMRN", arguments, latent_mrn, {"preset": preset}, {})

    scales = {"measure.log_sigma2": (4, 2), **net_shapes("measure.scales_net", 8, 8)}
    alphas, betas = net_shapes("reduction.alpha_net", 1, 4), net_shapes("reduction.beta_net", 4, 1)
    settings = {"dim_per_component": 2}
    half_line = {**of_four, "measure": "gaussian"}
    out["PQE"] = ("PQE", of_four, pqe_lh, settings, alphas)
    out["PQE gaussian half-line"] = ("PQE", half_line, pqe_gaussian_half_line, settings, {**scales, **alphas})
    out["PQELH sum"] = ("PQELH", {**of_four, "reduction": "sum"}, pqe_lh, settings, {})
    out["PQELH discount"] = ("PQELH", {**of_four, "discount": 0.9}, pqe_lh, settings, betas)
    out["PQEGG"] = ("PQEGG", of_four, pqe_gg, settings, {**scales, **alphas})
    out["PQEGG discount"] = ("PQEGG", {**of_four, "discount": 0.9}, pqe_gg, settings, {**scales, **betas})

    sizes = {"input_size": 8, "num_components": 4}
    layers = {"u0.weight": (4, 8)}
    for i in range(2):
        layers |= {f"ws_after_first.{i}.weight": (4, 4), f"us_after_first.{i}.weight": (4, 8)}
    weights = {f"activations.{i}.raw_weights": (2, 2) for i in range(2)}
    default = {**CONCAVE, **RAW_ALPHA}
    max_relu_hidden = {
        **sizes,
        "activation": "maxrelu",
        "final_activation": "relu",
        "transforms": [],
        "reduction": "sum",
    }
    out["DeepNorm"] = ("DeepNorm", sizes, deep_norm, {"layers": 3}, {**layers, **default})
    out["DeepNorm maxrelu"] = ("DeepNorm", max_relu_hidden, deep_norm, {"layers": 3}, {**layers, **weights})
    both = {"layers": 3, "symmetric": True}
    out["DeepNorm symmetric"] = ("DeepNorm", {**sizes, "symmetric": True}, deep_norm, both, {**layers, **default})

    sizes = {**sizes, "output_component_size": 3}
    wide, symmetric = {"w.weight": (12, 16)}, {"w.weight": (12, 8)}
    out["WideNorm"] = ("WideNorm", sizes, wide_norm, {"components": 4}, {**wide, **default})
    both = {"components": 4, "symmetric": True}
    out["WideNorm symmetric"] = ("WideNorm", {**sizes, "symmetric": True}, wide_norm, both, {**symmetric, **default})
    return out


def has_gradient_here(name: str) -> bool:
    """Returns whether to keep a parameter's gradient: not for the thousands of numbers in deep linear nets."""
    return ".mats." not in name and "scales_net" not in name


def compute(case: str) -> dict:
    """The distances of ROWS pairs and the gradients of their sum with weights 1, 2, 3."""
    class_name, arguments, formula, settings, shapes = cases()[case]
    size = arguments["input_size"]
    inputs = {name: [mpf(v) for v in numbers(f"{case}/{name}", ROWS * size)] for name in ("x", "y")}
    parameters = {name: [mpf(v) for v in parameter(case, name, shape)] for name, shape in shapes.items()}
    reduction = {"IQE": "maxmean", "DeepNorm": "maxmean", "WideNorm": "maxmean", "MRN": "sum", "MRNFixed": "sum"}
    reduction = arguments.get("reduction", reduction.get(class_name, "deep_linear_net_weighted_sum"))

    def distance(row: int) -> mpf:
        x, y = (inputs[name][row * size : (row + 1) * size] for name in ("x", "y"))
        components = formula(x, y, parameters, **settings)
        if any(name.startswith("transforms") for name in shapes):
            components = concave(components, parameters)
        return reduce(components, parameters, reduction, arguments.get("discount"))

    def derivative(values: list, i: int, of_rows: list[int]) -> float:
        middle, ends = values[i], []
        for step in (STEP, -STEP):
            values[i] = middle + step
            ends.append(mp.fsum((row + 1) * distance(row) for row in of_rows))
        values[i] = middle
        return float((ends[0] - ends[1]) / (2 * STEP))

    out = {"distance": [float(distance(row)) for row in range(ROWS)], "gradient": {}}
    for name, values in inputs.items():
        out["gradient"][name] = [derivative(values, i, [i // size]) for i in range(len(values))]
    for name, values in parameters.items():
        if has_gradient_here(name):
            out["gradient"][name] = [derivative(values, i, list(range(ROWS))) for i in range(len(values))]
    return out


def main() -> None:
    for u, v, variance in (("0.3", "-0.8", "1.7"), ("-1.1", "0.4", "0.6")):
        closed, integral = (f(mpf(u), mpf(v), mpf(variance)) for f in (overlap_free, overlap_free_by_quadrature))
        assert abs(closed - integral) < mpf(10) ** -30, (closed, integral)
    values = {case: compute(case) for case in cases()}
    lines = [f"{json.dumps(case)}: {json.dumps(value, separators=(',', ':'))}" for case, value in values.items()]
    TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
