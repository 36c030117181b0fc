# SPDX-License-Identifier: Apache-2.0
"""Who runs the expressions: XLA, plain operations, or one kernel.

By the size of a tensor, how much of its shape is known, and what it comes from.
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
from keras_bn.backend.algorithm1 import PLAIN_FEW, Algorithm1

Tensor = Any  # tf.Tensor is untyped for mypy.

#: Values from which a tensor is worth an expression compiled by XLA, whose
#: start costs as much as a dozen kernels. A feature with few values, whose
#: sums the kernels are fast for, needs four times as many; a pass without sums
#: eight times. An unknown size counts as 64.
_WORTH_COMPILING = 2**15
_TIMES_FOR_FEW, _TIMES_WITHOUT_SUMS = 4, 8
#: Values of images that TensorFlow's own kernel normalizes the fastest, where
#: statistics are given. Of fewer its start takes too long; of more, XLA is as
#: fast, and joins an activation of any kind.
_WORTH_ONE_KERNEL = range(3 * 2**15, 2**20)
#: Shapes of a kind for which XLA compiles outside graphs: batches, last batches
#: and those of a validation, of some layers.
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

    Kept, so that layers of one shape share what XLA compiled.
    """
    return Run(*[_found(algorithm, name) for name in Run._fields])


def _found(algorithm: Algorithm1, name: str) -> Callable[..., Any]:
    """An expression as it is, or over few axes, or compiled by XLA."""
    expression = getattr(algorithm, name)
    # What has no sums LiteRT folds into a convolution only as it is.
    if name != "normalize" and (algorithm.compiled or algorithm.blocks):
        expression = _grouping(algorithm, name)
    if not algorithm.compiled:
        large = algorithm.blocks and name != "normalize"
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
    """For batches of any size, operations that XLA may compile or leave.

    So they come in graphs that are exported, to servers without XLA and to
    formats that have no such function. Where ever new sizes come, TensorFlow
    gives up compiling them. Where all sizes are known a function is faster,
    and layers alike share it.
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
    """Makes one axis of neighbouring axes of one kind, and takes it back.

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
        grouped = [size(x, run) for _, run in groups]
        grouped_features = [size(x, run) for s, run in groups if not s]
        self._grouped = {
            len(x.shape): grouped,
            len(features): grouped_features,
        }
        self._original = {
            len(grouped): [size(x, [a]) for a in range(len(x.shape))],
            len(grouped_features): [size(x, [a]) for a in features],
        }

    def group(self, tensor: Any) -> Any:
        """To as few axes as will do; scalars and `None` as they are."""
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
    """Batch normalization called within runs plain operations only.

    Of large tensors they take up to three times as long, but XLA takes half a
    second and more for every shape: for what runs a few times.
    """
    token = _COMPILING.set(False)
    try:
        yield
    finally:
        _COMPILING.reset(token)


def worth_compiling(
    x: Tensor, axes: Sequence[int], *, sums: bool = True
) -> bool:
    """Whether XLA is to compile what is done to `x`.

    It does so for every shape anew, in half a second and more. Of a batch there
    are few sizes; others that are unknown may take any value. Outside graphs
    all are known, and those that come first are the few.
    """
    few_shapes = None not in x.shape[1:] or xla.compiles()
    if not _COMPILING.get() or not few_shapes or _have_tangents([x]):
        return False
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
    """Whether forward mode differentiates by one, or by what it comes from.

    TensorFlow takes the tangent that crossed a compiled function for constant
    in a backward pass over it. There is no public way to ask.
    """
    return any(forwardprop_util.pack_tangents(tensors).indices)


def worth_blocks(x: Tensor, axes: Sequence[int]) -> bool:
    """Whether `x` is large where XLA does not compile what is done to it."""
    features = [n for a, n in enumerate(x.shape) if a not in axes]
    few = reductions.are_few(x, tuple(axes), at_most=PLAIN_FEW)
    if None in features or few or worth_compiling(x, axes):
        return False
    return _values(x) >= _WORTH_COMPILING


def images_for_one_kernel(
    x: Tensor, axes: Sequence[int]
) -> tuple[Tensor | None, list[int]]:
    """What TensorFlow's own kernel is to normalize, with given statistics.

    On a CPU it is as exact but under XLA. After a convolution it costs next to
    nothing: TensorFlow's graph optimizer makes one kernel of both, and of a
    ReLU. That of a GPU loses the digits of a large mean.

    Returns:
        Images `[N, H, W, C]`, and the axes that are to be squeezed out of
        them: `x`, or what a convolution of sequences makes it of. `None` where
        the kernel is not worth it.
    """
    images, squeezed = x, []
    if not tf.is_symbolic_tensor(x) or xla.compiles():
        return None, []
    if tf.config.get_visible_devices("GPU"):
        return None, []
    if x.op.type == "Squeeze" and x.op.inputs[0].op.type == "Conv2D":
        squeezed = x.op.get_attr("squeeze_dims")
        # None are named where all are meant; and the features have to stay.
        if squeezed and not {-1, 3} & set(squeezed):
            images = x.op.inputs[0]
    channels_last = tuple(axes) == tuple(range(len(x.shape) - 1))
    if len(images.shape) != 4 or x.dtype != tf.float32 or not channels_last:
        return None, []
    if images.op.type == "Conv2D":
        worth = images.op.get_attr("data_format") == b"NHWC"
    else:
        worth = None in x.shape[1:] or _values(x) in _WORTH_ONE_KERNEL
    return (images, squeezed) if worth else (None, [])


def _values(x: Tensor) -> int:
    """Number of values, if each unknown size is 64."""
    return math.prod(64 if size is None else size for size in x.shape)


def size(x: Tensor, axes: Sequence[int]) -> Any:
    """Product of the sizes of some axes, as a number where it is known."""
    sizes = [x.shape[axis] for axis in axes]
    if None not in sizes:
        return math.prod(sizes)
    if len(sizes) == 1:
        return tf.shape(x)[axes[0]]
    return tf.reduce_prod(tf.gather(tf.shape(x), axes))
