# SPDX-License-Identifier: Apache-2.0
"""Decides what runs the expressions: XLA, plain operations, or one kernel.

The choice depends on the size of the tensor, on how much of its shape is known,
on the operation that made it, and on whether a GPU is there.
"""

import collections
import contextlib
import contextvars
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.python.eager import forwardprop_util

from keras_bn.backend import reductions, xla
from keras_bn.backend.algorithm1 import PLAIN_FEW, Algorithm1, Engine

Tensor = Any  # tf.Tensor is untyped for mypy.

#: Least number of values for which compiling pays: starting a compiled
#: expression costs as much as a dozen kernels. Four times as many are needed if
#: features have few values, which kernels sum fast, and eight times as many
#: without sums. An unknown size counts as 64.
_WORTH_COMPILING = 2**15
_TIMES_FOR_FEW, _TIMES_WITHOUT_SUMS = 4, 8
#: Numbers of values for which TensorFlow's own kernel normalizes images fastest
#: with given statistics. With fewer its start takes too long; with more, XLA is
#: as fast and fuses any activation.
_WORTH_ONE_KERNEL = range(3 * 2**15, 2**20)
#: The same for tensors of other ranks, as volumes, which oneDNN leaves to
#: TensorFlow. With fewer it wakes a second thread for too little work.
_WORTH_A_KERNEL_OF_VOLUMES = range(5 * 2**15, 2**18)
#: Most shapes of a kind that XLA compiles outside graphs: full, last and
#: validation batches of a few layers.
_MOST_SHAPES = 8
_SHAPES: dict[Any, set[Any]] = collections.defaultdict(set)
_COMPILING = contextvars.ContextVar("compiling", default=True)


class Run(NamedTuple):
    """The expressions of an algorithm, as they are to be called."""

    moments: Callable[..., Any]
    normalize: Callable[..., Any]
    forward: Callable[..., Any]
    parameter_gradients: Callable[..., Any]
    input_gradient: Callable[..., Any]
    backward: Callable[..., Any]
    input_gradient_of_constants: Callable[..., Any]


@functools.cache
def run(algorithm: Algorithm1) -> Run:
    """How to run an algorithm.

    Cached, so that layers of one shape share what XLA compiled.
    """
    return Run(*[_found(algorithm, name) for name in Run._fields])


def _found(algorithm: Algorithm1, name: str) -> Callable[..., Any]:
    """An expression, over grouped axes and compiled if that is worthwhile."""
    expression = getattr(algorithm, name)
    chosen = algorithm.engine
    # LiteRT folds `normalize` into a convolution only without reshapes. On a
    # GPU, reshapes keep XLA from fusing what comes before and after.
    if name != "normalize" and chosen in {Engine.BLOCKS, Engine.XLA_ON_CPU}:
        expression = _grouping(algorithm, name)
    if not chosen.compiles:
        large = chosen is Engine.BLOCKS and name != "normalize"
        return _traced_once(expression) if large else expression
    compiled = tf.function(expression, autograph=False, jit_compile=True)
    return _clustered(expression, compiled) if name == "normalize" else compiled


def _traced_once(expression: Callable[..., Any]) -> Callable[..., Any]:
    """An expression whose graph layers alike share, which saves tracing it.

    TensorFlow puts it into the graphs around before it optimizes them.
    """
    shared = tf.function(expression, autograph=False)

    def run(*arguments: Any) -> Any:
        tensors = [t for t in tf.nest.flatten(arguments) if t is not None]
        alone = tf.executing_eagerly() or _have_tangents(tensors)
        return (expression if alone else shared)(*arguments)

    return run


def _clustered(
    expression: Callable[..., Any], compiled: Callable[..., Any]
) -> Callable[..., Any]:
    """For an unknown batch size, plain operations that XLA may compile.

    Exported graphs then hold plain operations, for servers without XLA and
    formats without compiled functions. If new sizes keep coming, TensorFlow
    gives up compiling them. If the batch size is known, a compiled function is
    faster, and layers of one shape share it.
    """

    def normalize(x: Tensor, *arguments: Any) -> Any:
        if x.shape[0] is not None or xla.compiles():
            return compiled(x, *arguments)
        with tf.xla.experimental.jit_scope():
            return expression(x, *arguments)

    return normalize


def _grouping(algorithm: Algorithm1, name: str) -> Callable[..., Any]:
    """An expression over as few axes as will do.

    Its first argument has the shape of the input.
    """

    def grouping(*arguments: Any) -> Any:
        shapes = _Shapes(arguments[0], algorithm.axes)
        grouped = dataclasses.replace(algorithm, axes=shapes.grouped_axes)
        expression = getattr(grouped, name)
        results = expression(*tf.nest.map_structure(shapes.group, arguments))
        return tf.nest.map_structure(shapes.ungroup, results)

    return grouping


class _Shapes:
    """Merges neighbouring axes of one kind into one, and splits them again.

    Args:
        x: A tensor of the shape of the input.
        axes: Its axes that the statistics are taken over.
    """

    def __init__(self, x: Tensor, axes: Sequence[int]) -> None:
        groups = [
            (summed, list(run))
            for summed, run in itertools.groupby(
                range(len(x.shape)), lambda axis: axis in axes
            )
        ]
        features = [a for a in range(len(x.shape)) if a not in axes]
        self.grouped_axes = tuple(
            i for i, (summed, _) in enumerate(groups) if summed
        )
        grouped = [run for _, run in groups]
        grouped_features = [run for summed, run in groups if not summed]
        self._grouped = {
            len(x.shape): _sizes(x, grouped),
            len(features): _sizes(x, grouped_features),
        }
        self._original = {
            len(grouped): _sizes(x, [[a] for a in range(len(x.shape))]),
            len(grouped_features): _sizes(x, [[a] for a in features]),
        }

    def group(self, tensor: Any) -> Any:
        """Merges axes; scalars and `None` stay as they are."""
        return self._reshaped(tensor, self._grouped)

    def ungroup(self, tensor: Any) -> Any:
        """The inverse."""
        return self._reshaped(tensor, self._original)

    def _reshaped(self, tensor: Any, shapes: dict[int, Any]) -> Any:
        if tensor is None or not tensor.shape.rank:
            return tensor
        return tf.reshape(tensor, shapes[len(tensor.shape)])


@contextlib.contextmanager
def without_compiling() -> Iterator[None]:
    """Within the context, batch normalization runs plain operations only.

    They take up to three times as long on large tensors, but XLA takes half a
    second or more to compile each shape. See `keras_bn.ops`.
    """
    token = _COMPILING.set(False)
    try:
        yield
    finally:
        _COMPILING.reset(token)


def engine(x: Tensor, axes: Sequence[int], *, sums: bool = True) -> Engine:
    """What should run the expressions for `x`.

    Args:
        x: The input.
        axes: Its axes that the statistics are taken over.
        sums: Whether the expressions have any.
    """
    if _worth_compiling(x, axes, sums=sums):
        return Engine.XLA_ON_GPU if xla.for_gpu() else Engine.XLA_ON_CPU
    blocks = _worth_blocks(x, axes) and not xla.for_gpu()
    return Engine.BLOCKS if blocks else Engine.PLAIN


def _worth_compiling(x: Tensor, axes: Sequence[int], *, sums: bool) -> bool:
    """Whether XLA should compile the expressions for `x`.

    XLA compiles every new shape, in half a second or more. A batch has few
    sizes, but other unknown sizes may take any value. Outside graphs all sizes
    are known, and only the first few shapes are compiled. Within an enclosing
    `jit_compile` on a GPU, always: the number of kernels counts at any size.
    """
    few_shapes = None not in x.shape[1:] or xla.compiles()
    if not _COMPILING.get() or not few_shapes or _have_tangents([x]):
        return False
    if xla.compiles() and xla.for_gpu():
        return True
    of_feature = size(x, axes)
    times = 1
    if not sums:
        times = _TIMES_WITHOUT_SUMS
    elif isinstance(of_feature, int) and of_feature <= reductions.FEW:
        times = _TIMES_FOR_FEW
    return _values(x) >= _WORTH_COMPILING * times and (
        tf.is_symbolic_tensor(x) or _is_one_of_few(x, axes)
    )


def _is_one_of_few(x: Tensor, axes: Sequence[int]) -> bool:
    """Whether an eager tensor's shape is among the first of its kind."""
    features = (n for axis, n in enumerate(x.shape) if axis not in axes)
    # Sizes within a factor of four, so that small ones shut out no large ones.
    magnitude = _values(x).bit_length() // 2
    shapes = _SHAPES[x.dtype, tuple(axes), tuple(features), magnitude]
    if len(shapes) < _MOST_SHAPES:
        shapes.add(tuple(x.shape))
    return tuple(x.shape) in shapes


def _have_tangents(tensors: Sequence[Tensor]) -> bool:
    """Whether forward mode differentiates with respect to one or its sources.

    In a backward pass over forward mode, TensorFlow treats a tangent that
    crossed a compiled function as constant. There is no public way to ask.
    """
    return any(forwardprop_util.pack_tangents(tensors).indices)


def _worth_blocks(x: Tensor, axes: Sequence[int]) -> bool:
    """Whether a CPU has many values to sum, and XLA does not compile that."""
    features = [n for a, n in enumerate(x.shape) if a not in axes]
    few = reductions.are_few(x, tuple(axes), at_most=PLAIN_FEW)
    if None in features or few or _worth_compiling(x, axes, sums=True):
        return False
    return _values(x) >= _WORTH_COMPILING


def for_one_kernel(
    x: Tensor, axes: Sequence[int]
) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
    """What TensorFlow's own kernel should normalize, with given statistics.

    On a CPU the kernel is as exact as ours, except under XLA. After a
    convolution it costs next to nothing: TensorFlow's graph optimizer fuses
    both, and a ReLU, into one kernel. The GPU's kernel loses digits where the
    mean is large.

    Returns:
        Images `[N, H, W, C]` or volumes `[N, D, H, W, C]`, and what makes of
        their like one of `x`. The images are `x`, or the Conv2D output that a
        convolution of sequences squeezes to `x`. `None` if the kernel is not
        worthwhile.
    """
    if not tf.is_symbolic_tensor(x) or xla.compiles() or xla.for_gpu():
        return None
    channels_last = tuple(axes) == tuple(range(len(x.shape) - 1))
    if x.dtype != tf.float32 or not channels_last:
        return None
    images, back = x, lambda y: y
    if x.op.type == "Squeeze" and x.op.inputs[0].op.type == "Conv2D":
        squeezed = x.op.get_attr("squeeze_dims")
        # No names mean all axes; and the feature axis has to stay.
        if squeezed and not {-1, 3} & set(squeezed):
            images = x.op.inputs[0]
            back = functools.partial(tf.squeeze, axis=squeezed)
    if images.op.type == "Conv2D":
        worth = images.op.get_attr("data_format") == b"NHWC"
    elif len(x.shape) == 4:
        worth = None in x.shape[1:] or _values(x) in _WORTH_ONE_KERNEL
    else:
        worth = _are_worth_volumes(x)
        if worth:
            images = tf.reshape(x, [-1, 1, 1, 1, x.shape[-1]])
            back = functools.partial(tf.reshape, shape=x.shape)
    return (images, back) if worth else None


def _are_worth_volumes(x: Tensor) -> bool:
    # Exported models have batches of any size; not all formats know volumes.
    known = None not in x.shape and _COMPILING.get()
    return known and _values(x) in _WORTH_A_KERNEL_OF_VOLUMES


def _sizes(x: Tensor, runs: Sequence[Sequence[int]]) -> Any:
    """The sizes of runs of axes, as `tf.reshape` takes them.

    What is not known takes operations, so it is -1 if it can be inferred.
    """
    unknown = [run for run in runs if None in [x.shape[axis] for axis in run]]
    if len(unknown) == 1 and 0 not in x.shape:
        return [-1 if run in unknown else size(x, run) for run in runs]
    each_axis_alone = len(runs) == len(x.shape)
    if unknown and each_axis_alone:
        return tf.shape(x)
    return [size(x, run) for run in runs]


def _values(x: Tensor) -> int:
    """Number of values, if each unknown size is 64."""
    return math.prod(64 if size is None else size for size in x.shape)


def size(x: Tensor, axes: Sequence[int]) -> Any:
    """Product of the sizes of some axes, as a number where it is known."""
    known = reductions.known_size(x, axes)
    if known is not None:
        return known
    if len(axes) == 1:
        return tf.shape(x)[axes[0]]
    return tf.reduce_prod(tf.gather(tf.shape(x), axes))
