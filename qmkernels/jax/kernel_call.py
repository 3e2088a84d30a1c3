"""The compiled kernels as functions of JAX arrays: the only file that knows how JAX calls and transforms them.

An `Op` is three primitives. Forward and backward call the core's kernels through XLA's typed FFI; tangent, linear in
the tangents, is computed by the op's definition in jax.numpy, and its transpose is backward. So reverse mode runs
kernels alone, and every further derivative is one of the definition. On a platform without kernels the definition takes
their place.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from .. import compiled

# XLA's names of JAX's platforms.
_PLATFORMS = {"cpu": "cpu", "cuda": "CUDA"}
_TARGETS: dict[str, dict[str, Any]] = {} if compiled.core is None else compiled.core.xla_targets()
for _kernel, _handlers in _TARGETS.items():
    for _platform, _handler in _handlers.items():
        jax.ffi.register_ffi_target(f"qmkernels_{_kernel}", _handler, platform=_platform)


def has_kernels(platform: str) -> bool:
    """Returns whether the core was built with kernels for "cpu" or "cuda"."""
    return any(_PLATFORMS.get(platform) in handlers for handlers in _TARGETS.values())


class Result(NamedTuple):
    """The shape and dtype of an array that a kernel fills."""

    shape: tuple[int, ...]
    dtype: Any
    is_index: bool = False
    """Whether the kernel has int64 for it, which JAX may not have."""

    def zeros(self) -> Array:
        return jnp.zeros(self.shape, self.dtype)


@dataclass(frozen=True, eq=False)
class Op:
    """An op: its kernels ``<name>_forward`` and ``<name>_backward``, and its definition.

    Inputs are arrays of one float dtype, in the order of the kernel's fields; one that is absent has no elements. The
    first result is differentiable by the first inputs; the others are diagnostics, and what backward needs.
    """

    name: str
    num_wrt: int
    """How many inputs, the first ones, have gradients."""
    num_results: int
    num_outputs: int
    """How many results, the first ones, a caller gets."""
    results: Callable[..., list[Result]]
    """(*inputs, settings) -> the kernel's results."""
    attributes: Callable[..., dict[str, Any]]
    """(*inputs, settings) -> the kernels' other arguments."""
    backward_arguments: Callable[[Array, Sequence[Array], Sequence[Array]], list[Array]]
    """(gradient by the first result, inputs, other results) -> backward's arguments in the order of its fields."""
    definition: Callable[..., tuple[Array, ...]]
    """(*inputs, settings) -> the outputs, in jax.numpy."""
    batch: Callable[..., tuple[list[Array], list[int]]]
    """(bind, arrays, dims, results of one call) -> results and their dims: the batching rule of all three."""
    batch_forward: Callable[..., tuple[Array, int] | None] | None = None
    """(bind, inputs, dims, settings) -> the output and its dim: a cheaper rule where forward keeps nothing, or None."""
    backward_results: Callable[..., list[Result]] | None = None
    """(*inputs, settings) -> backward's results, where they are not of the inputs' shapes."""
    finish: Callable[..., list[Array]] | None = None
    """(backward's results) -> the gradients, where they are not the results."""
    can_drop: bool = False
    """Whether the kernel leaves out what only backward needs when it is given no memory for it."""

    def __post_init__(self) -> None:
        parts = {
            "forward": (self._forward_results, self._forward_kernel, self._forward_definition),
            "tangent": (self._tangent_results, None, self._tangent_definition),
            "backward": (self._backward_results, self._backward_kernel, self._backward_definition),
        }
        for part, functions in parts.items():
            primitive = kernel_primitive(f"{self.name}_{part}", *functions, self._batched)
            object.__setattr__(self, f"_{part}", primitive)
        ad.primitive_jvps[self._forward] = self._forward_jvp
        ad.primitive_jvps[self._tangent] = partial(self._jvp_of_definition, self._tangent, self._tangent_definition)
        ad.primitive_jvps[self._backward] = partial(self._jvp_of_definition, self._backward, self._backward_definition)
        ad.primitive_transposes[self._tangent] = self._tangent_transpose

    def __call__(self, *inputs: Array, settings: Any) -> list[Array]:
        """Computes the outputs."""
        inputs = varying_together(inputs)
        return self._forward.bind(*inputs, settings=settings, keep=not self.can_drop)[: self.num_outputs]

    # --- Forward: (inputs) -> results, of which those for backward are empty unless `keep`.

    def _forward_results(self, *inputs: Any, settings: Any, keep: bool) -> list[Result]:
        results = self.results(*inputs, settings)
        return [r if keep or i < self.num_outputs else r._replace(shape=(0,)) for i, r in enumerate(results)]

    def _forward_kernel(self, *inputs: Array, settings: Any, keep: bool) -> list[Array]:
        results = self._forward_results(*inputs, settings=settings, keep=keep)
        return call_kernel(f"{self.name}_forward", inputs, results, self.attributes(*inputs, settings))

    def _forward_definition(self, *inputs: Array, settings: Any, keep: bool) -> list[Array]:
        results = self._forward_results(*inputs, settings=settings, keep=keep)
        unused = [result.zeros() for result in results[self.num_outputs :]]
        return [*self.definition(*inputs, settings), *unused]

    def _forward_jvp(self, primals: Any, tangents: Any, *, settings: Any, keep: bool) -> tuple[list[Array], list[Any]]:
        results = self._forward.bind(*primals, settings=settings, keep=True)
        tangents = tangents[: self.num_wrt]
        out = [ad.Zero(jax.typeof(result).to_tangent_aval()) for result in results]
        if not all(type(tangent) is ad.Zero for tangent in tangents):
            tangents = [ad.instantiate_zeros(tangent) for tangent in tangents]
            (out[0],) = self._tangent.bind(*results[1:], *primals, *tangents, settings=settings)
        if not keep:
            expected = self._forward_results(*primals, settings=settings, keep=False)
            for i in range(self.num_outputs, len(results)):
                results[i] = expected[i].zeros()
                out[i] = ad.Zero(jax.typeof(results[i]).to_tangent_aval())
        return results, out

    # --- Tangent: (other results, inputs, tangents of the first inputs) -> tangent of the first result.

    def _split(self, arrays: Sequence[Any], last: int) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """Splits (other results, inputs, last), ``last`` arrays at the end."""
        first, end = self.num_results - 1, len(arrays) - last
        return arrays[:first], arrays[first:end], arrays[end:]

    def _first(self, wrt: Sequence[Array], rest: Sequence[Array], settings: Any) -> Array:
        return self.definition(*wrt, *rest, settings)[0]

    def _tangent_results(self, *arrays: Any, settings: Any) -> list[Result]:
        _, inputs, _ = self._split(arrays, self.num_wrt)
        return self.results(*inputs, settings)[:1]

    def _tangent_definition(self, *arrays: Array, settings: Any) -> list[Array]:
        _, inputs, tangents = self._split(arrays, self.num_wrt)
        wrt, rest = inputs[: self.num_wrt], inputs[self.num_wrt :]
        return [jax.jvp(lambda *wrt: self._first(wrt, rest, settings), tuple(wrt), tuple(tangents))[1]]

    def _tangent_transpose(self, cotangents: Any, *arrays: Any, settings: Any) -> list[Any]:
        (cotangent,) = cotangents
        if type(cotangent) is ad.Zero:
            return [None] * len(arrays)
        others, inputs, tangents = self._split(arrays, self.num_wrt)
        grads = self._backward.bind(*others, *inputs, cotangent, settings=settings)
        grads = [
            grad if ad.is_undefined_primal(tangent) else None for grad, tangent in zip(grads, tangents, strict=True)
        ]
        return [None] * (len(others) + len(inputs)) + grads

    # --- Backward: (other results, inputs, gradient by the first result) -> gradients by the first inputs.

    def _backward_results(self, *arrays: Any, settings: Any) -> list[Result]:
        _, inputs, _ = self._split(arrays, 1)
        return [Result(array.shape, array.dtype) for array in inputs[: self.num_wrt]]

    def _backward_kernel(self, *arrays: Array, settings: Any) -> list[Array]:
        others, inputs, (grad,) = self._split(arrays, 1)
        results = self._backward_results(*arrays, settings=settings)
        if self.backward_results is not None:
            results = self.backward_results(*inputs, settings)
        arguments = self.backward_arguments(grad, inputs, others)
        grads = call_kernel(f"{self.name}_backward", arguments, results, self.attributes(*inputs, settings))
        return grads if self.finish is None else self.finish(grads)

    def _backward_definition(self, *arrays: Array, settings: Any) -> list[Array]:
        _, inputs, (grad,) = self._split(arrays, 1)
        wrt, rest = inputs[: self.num_wrt], inputs[self.num_wrt :]
        return list(jax.vjp(lambda *wrt: self._first(wrt, rest, settings), *wrt)[1](grad))

    # --- Rules of both.

    def _jvp_of_definition(
        self, primitive: Primitive, definition: Callable, primals: Any, tangents: Any, *, settings: Any
    ) -> tuple[list[Array], list[Array]]:
        """The derivative of tangent and backward, which the definition gives without forward's other results."""
        results = primitive.bind(*primals, settings=settings)
        others, rest = primals[: self.num_results - 1], primals[self.num_results - 1 :]
        moved = tuple(ad.instantiate_zeros(tangent) for tangent in tangents[self.num_results - 1 :])
        return results, jax.jvp(lambda *rest: definition(*others, *rest, settings=settings), tuple(rest), moved)[1]

    def _batched(
        self, primitive: Primitive, results: Callable, arrays: Any, dims: Any, **parameters: Any
    ) -> tuple[list[Array], list[int]]:
        bind = partial(primitive.bind, **parameters)
        if self.batch_forward is not None and primitive is self._forward and not (self.can_drop and parameters["keep"]):
            batched = self.batch_forward(bind, arrays, dims, parameters["settings"])
            if batched is not None:
                out, d = batched
                others = [jnp.zeros((out.shape[d], 0), other.dtype) for other in results(*arrays, **parameters)[1:]]
                return [out, *others], [d, *(0 for _ in others)]
        return self.batch(bind, arrays, dims, results(*one_of(arrays, dims), **parameters))


def one_of(arrays: Sequence[Array], dims: Sequence[int | None]) -> list[jax.ShapeDtypeStruct]:
    """Returns the shapes of the arrays at one index of the mapped axis."""
    return [
        jax.ShapeDtypeStruct(array.shape if d is None else (*array.shape[:d], *array.shape[d + 1 :]), array.dtype)
        for array, d in zip(arrays, dims, strict=True)
    ]


# --- Primitives and calls.


def kernel_primitive(
    name: str, results: Callable[..., list[Result]], kernel: Callable | None, definition: Callable, batched: Callable
) -> Primitive:
    """Makes a primitive: ``kernel`` computes it where there are kernels, ``definition`` elsewhere, or everywhere if it
    has none; ``batched(primitive, results, arrays, dims, **parameters)`` is its batching rule."""
    primitive = Primitive(f"qmkernels_{name}")
    primitive.multiple_results = True
    primitive.def_impl(partial(_run, primitive))
    primitive.def_abstract_eval(partial(_abstract, results))
    batching.primitive_batchers[primitive] = partial(batched, primitive, results)
    if kernel is None:
        mlir.register_lowering(primitive, mlir.lower_fun(definition, multiple_results=True))
        return primitive

    def without_kernels(*arrays: Array, **parameters: Any) -> list[Array]:
        _say_that_there_are_no_kernels()
        return definition(*arrays, **parameters)

    mlir.register_lowering(primitive, mlir.lower_fun(without_kernels, multiple_results=True))
    for platform in _PLATFORMS:
        if has_kernels(platform):
            mlir.register_lowering(primitive, mlir.lower_fun(kernel, multiple_results=True), platform=platform)
    return primitive


def call_kernel(
    kernel: str,
    arguments: Sequence[Array],
    results: Sequence[Result],
    attributes: dict[str, Any],
    updated: Sequence[Array] = (),
) -> list[Array]:
    """Calls a kernel, which fills its results; the last of them begin as ``updated``. Without rows there is nothing to
    compute or to add up."""
    if arguments[0].size == 0 or math.prod(results[0].shape) == 0:
        return [result.zeros() for result in results]
    with _wide_integers():
        shapes = [jax.ShapeDtypeStruct(r.shape, jnp.int64 if r.is_index else r.dtype) for r in results]
        updated = [
            jax.lax.convert_element_type(array, shape.dtype)
            for array, shape in zip(updated, shapes[len(results) - len(updated) :], strict=True)
        ]
        aliases = {len(arguments) + i: len(results) - len(updated) + i for i in range(len(updated))}
        call = jax.ffi.ffi_call(f"qmkernels_{kernel}", shapes, input_output_aliases=aliases)
        out = call(*arguments, *updated, **{name: _attribute(value) for name, value in attributes.items()})
        return [
            jax.lax.convert_element_type(a, r.dtype) if r.is_index else a for a, r in zip(out, results, strict=True)
        ]


def _attribute(value: Any) -> Any:
    """Returns a number of the width that the handlers read, whatever JAX's own is."""
    if isinstance(value, int):
        return np.int64(value)
    if isinstance(value, tuple):
        return np.array(value, np.int64)
    return np.float64(value) if isinstance(value, float) else value


def _wide_integers() -> Any:
    """Returns a context in which JAX has int64."""
    return (jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64)(True)


@lru_cache(maxsize=1)
def _say_that_there_are_no_kernels() -> None:
    built = " and ".join(platform for platform in _PLATFORMS if has_kernels(platform)) or "no platform"
    warnings.warn(
        f"qmkernels.jax: the core has kernels for {built}, and not for the one that this program is for. Its ops are "
        "computed by their definitions in jax.numpy, which are slower.",
        stacklevel=2,
    )


@lru_cache(maxsize=1024)
def _jitted(primitive: Primitive, parameters: tuple[tuple[str, Any], ...]) -> Callable:
    return jax.jit(partial(primitive.bind, **dict(parameters)))


def _run(primitive: Primitive, *arrays: Array, **parameters: Any) -> list[Array]:
    return _jitted(primitive, tuple(sorted(parameters.items())))(*arrays)


def _abstract(results: Callable[..., list[Result]], *arrays: Any, **parameters: Any) -> list[Any]:
    """Returns the results' abstract values, which vary over the mesh's axes as the arguments do."""
    like = arrays[0]
    return [
        like.update(
            shape=shape, dtype=np.dtype(dtype), weak_type=False,
            sharding=NamedSharding(like.sharding.mesh, PartitionSpec(*[None] * len(shape))),
        )
        for shape, dtype, _ in results(*arrays, **parameters)
    ]  # fmt: skip


def varying_together(arrays: Sequence[Array]) -> Sequence[Array]:
    """Lets all arrays vary over the axes of a `jax.shard_map` that any of them varies over."""
    axes = [_axes_of(array) for array in arrays]
    every = frozenset().union(*axes)
    if all(own == every for own in axes):
        return arrays
    return [_varying(array, tuple(every - own)) for array, own in zip(arrays, axes, strict=True)]


def _axes_of(array: Array) -> frozenset[str]:
    """Returns the axes that an array varies over, which JAX has renamed."""
    aval = jax.typeof(array)
    return aval.vma if hasattr(aval, "vma") else aval.manual_axis_type.varying


def _varying(array: Array, axes: tuple[str, ...]) -> Array:
    if not axes:
        return array
    return jax.lax.pcast(array, axes, to="varying") if hasattr(jax.lax, "pcast") else jax.lax.pvary(array, axes)
