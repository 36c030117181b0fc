# SPDX-License-Identifier: Apache-2.0
"""The Inception network of section 4.2 and Fig. 5 (Ioffe & Szegedy 2015)."""

import dataclasses
import math
import zlib
from collections.abc import Sequence
from typing import Any

import keras

from keras_bn.arguments import one_of
from keras_bn.models import blocks
from keras_bn.models.local_response import LocalResponseNormalization

#: Channels of the stem's three convolutions, from first to last.
STEM = (64, 64, 192)
#: Smallest feature maps that the first block may see.
SMALLEST_MAPS = 16


@dataclasses.dataclass(frozen=True)
class Block:
    """One row of Fig. 5: four branches, put side by side.

    Attributes:
        name: As in the figure.
        single: Channels of the 1x1 convolution; 0 where there is none.
        three: Channels of the 1x1 convolution and of the 3x3 behind it.
        double: Channels of the 1x1 and of the two 3x3 behind it.
        pool: Kind of the 3x3 pool, `"average"` or `"max"`.
        projection: Channels of the 1x1 behind the pool; 0: passed through.
        stride: 2 where the block halves its maps.
    """

    name: str
    single: int
    three: tuple[int, int]
    double: tuple[int, int]
    pool: str
    projection: int
    stride: int = 1

    def channels(self, inputs: int) -> int:
        """Channels of the output."""
        pooled = self.projection or inputs
        return self.single + self.three[1] + self.double[1] + pooled


# In 4c and 4d the printed branches add up to 608 but the printed output is 576.
# A pool projection of 96 instead of 128 makes the sums exact.
BLOCKS = (
    Block("3a", 64, (64, 64), (64, 96), "average", 32),
    Block("3b", 64, (64, 96), (64, 96), "average", 64),
    Block("3c", 0, (128, 160), (64, 96), "max", 0, stride=2),
    Block("4a", 224, (64, 96), (96, 128), "average", 128),
    Block("4b", 192, (96, 128), (96, 128), "average", 128),
    Block("4c", 160, (128, 160), (128, 160), "average", 96),
    Block("4d", 96, (128, 192), (160, 192), "average", 96),
    Block("4e", 0, (128, 192), (192, 256), "max", 0, stride=2),
    Block("5a", 352, (192, 320), (160, 224), "average", 128),
    Block("5b", 352, (192, 320), (192, 224), "max", 128),
)
LITERAL_BLOCKS = tuple(
    dataclasses.replace(block, projection=128)
    if block.name in ("4c", "4d")
    else block
    for block in BLOCKS
)
TABLES = {"exact": BLOCKS, "literal": LITERAL_BLOCKS}


def inception(
    *,
    classes: int = 1000,
    image_size: int = 224,
    width: float = 1.0,
    norm: str = "batch",
    activation: str = "relu",
    table: str = "exact",
    auxiliary_head: bool = False,
    local_response_normalization: bool = False,
    per_activation_blocks: Sequence[str] = (),
    initial_weight_scale: float = 1.0,
    dropout: float = 0.0,
    l2: float = 0.0,
    seed: int = 0,
) -> keras.Model:
    """A stem, ten Inception blocks and a linear classifier.

    The feature maps are halved five times for images of 128 pixels and above,
    less often for smaller ones, so that block 3a never sees less than 16x16:
    the stem first loses its pools, then its stride. Networks that differ only
    in normalization start from the same weights.

    Args:
        classes: Number of outputs.
        image_size: Height and width of the images, at least 16.
        width: Multiple of the paper's channels.
        norm: One of `keras_bn.models.blocks.NORMALIZATIONS`.
        activation: Name of a Keras activation.
        table: `"exact"` (outputs of 576 channels in 4c and 4d) or
            `"literal"` (608, as the branches are printed).
        auxiliary_head: Whether block 4d has a second classifier, as in
            GoogLeNet; with it the network has as many parameters as the paper
            prints.
        local_response_normalization: Whether the stem has it, as in GoogLeNet.
        per_activation_blocks: Names of blocks in which our layer has separate
            statistics for each place of a feature map.
        initial_weight_scale: Factor of the initial weights, whose variance
            is 2 / fan-in (He et al. 2015; the paper names none).
        dropout: Share dropped before the classifier.
        l2: Weight of the squared kernels in the loss.
        seed: Seed of the initial weights and of dropout.

    Returns:
        A functional model from `[N, image_size, image_size, 3]` to logits
        `[N, classes]`; with the auxiliary head to a list of two.

    Raises:
        ValueError: If a size, a share or a name is not allowed.
    """
    _check(classes, image_size, width, table, dropout)
    if not 0 < initial_weight_scale < math.inf:
        raise ValueError(
            "initial_weight_scale must be finite and > 0. Received: "
            f"initial_weight_scale={initial_weight_scale}"
        )
    names = tuple(block.name for block in BLOCKS)
    for name in per_activation_blocks:
        one_of("per_activation_blocks", name, names)
    if per_activation_blocks and norm not in ("batch", "per_activation"):
        raise ValueError(
            "per_activation_blocks need norm=batch. Received: "
            f"per_activation_blocks={','.join(per_activation_blocks)}, "
            f"norm={norm}"
        )
    make = _Maker(
        norm=norm,
        activation=activation,
        width=width,
        initial_weight_scale=initial_weight_scale,
        l2=l2,
        seed=seed,
        image_size=image_size,
    )
    images = keras.Input((image_size, image_size, 3), name="images")
    x = make.stem(images, local_response_normalization)
    heads = []
    for block in TABLES[table]:
        at_each_place = block.name in per_activation_blocks
        x = make.block(x, block, per_activation=at_each_place)
        if auxiliary_head and block.name == "4d":
            heads = [make.auxiliary_head(x, classes)]
    x = keras.layers.GlobalAveragePooling2D(name="pool5")(x)
    if dropout:
        x = keras.layers.Dropout(dropout, seed=seed, name="dropout")(x)
    logits = make.classifier(x, classes, name="logits")
    outputs = [logits, *heads] if heads else logits
    return keras.Model(images, outputs, name="inception")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Maker:
    """Makes the parts of one network."""

    norm: str
    activation: str
    width: float
    initial_weight_scale: float
    l2: float
    seed: int
    image_size: int

    def stem(self, x: Any, local_response_normalization: bool) -> Any:
        """The layers before block 3a."""
        halvings = self._halvings()
        first, second, third = STEM
        x = self.convolution(
            x,
            first,
            7,
            stride=2 if halvings else 1,
            depth_multiplier=8,
            name="conv1",
        )
        if halvings > 1:
            x = _pool(x, "max", stride=2, name="pool1")
        if local_response_normalization:
            x = LocalResponseNormalization(name="lrn1")(x)
        x = self.convolution(x, second, 1, name="conv2_reduce")
        x = self.convolution(x, third, 3, name="conv2")
        if local_response_normalization:
            x = LocalResponseNormalization(name="lrn2")(x)
        if halvings > 2:
            x = _pool(x, "max", stride=2, name="pool2")
        return x

    def block(self, x: Any, block: Block, *, per_activation: bool) -> Any:
        """One row of the table."""
        name = block.name
        norm = "per_activation" if per_activation else self.norm

        def convolution(
            x: Any, channels: int, kernel: int, part: str, stride: int = 1
        ) -> Any:
            return self.convolution(
                x,
                channels,
                kernel,
                stride=stride,
                norm=norm,
                name=f"{name}_{part}",
            )

        branches = []
        if block.single:
            branches.append(convolution(x, block.single, 1, "1x1"))
        reduce, out = block.three
        y = convolution(x, reduce, 1, "3x3_reduce")
        branches.append(convolution(y, out, 3, "3x3", block.stride))
        reduce, out = block.double
        y = convolution(x, reduce, 1, "double3x3_reduce")
        y = convolution(y, out, 3, "double3x3a")
        branches.append(convolution(y, out, 3, "double3x3b", block.stride))
        y = _pool(x, block.pool, stride=block.stride, name=f"{name}_pool")
        if block.projection:
            y = convolution(y, block.projection, 1, "projection")
        branches.append(y)
        return keras.layers.Concatenate(name=name)(branches)

    def auxiliary_head(self, x: Any, classes: int) -> Any:
        """The classifier of Szegedy et al. 2014, section 5."""
        x = keras.layers.AveragePooling2D(5, 3, name="auxiliary_pool")(x)
        x = self.convolution(x, 128, 1, name="auxiliary_reduce")
        x = keras.layers.Flatten(name="auxiliary_flat")(x)
        units = self._channels(768)
        x = blocks.normalized(
            x,
            lambda use_bias: keras.layers.Dense(
                units,
                use_bias=use_bias,
                name="auxiliary_hidden_linear",
                **self._kernel("auxiliary_hidden"),
            ),
            norm=self.norm,
            activation=self.activation,
            name="auxiliary_hidden",
        )
        return self.classifier(x, classes, name="auxiliary_logits")

    def classifier(self, x: Any, classes: int, *, name: str) -> Any:
        """Logits, in full precision also in mixed precision."""
        return keras.layers.Dense(
            classes,
            name=name,
            dtype=keras.config.floatx(),
            **self._kernel(name),
        )(x)

    def convolution(
        self,
        x: Any,
        channels: int,
        kernel: int,
        *,
        name: str,
        stride: int = 1,
        depth_multiplier: int = 0,
        norm: str = "",
    ) -> Any:
        """`activation(BN(W x))`; separable if there is a multiplier."""
        options: dict[str, Any] = {
            "strides": stride,
            "padding": "same",
            "name": f"{name}_linear",
        }

        def linear(use_bias: bool) -> keras.layers.Layer:
            if not depth_multiplier:
                return keras.layers.Conv2D(
                    self._channels(channels),
                    kernel,
                    use_bias=use_bias,
                    **options,
                    **self._kernel(name),
                )
            depthwise = self._kernel(f"{name}_depthwise")
            pointwise = self._kernel(name)
            return keras.layers.SeparableConv2D(
                self._channels(channels),
                kernel,
                use_bias=use_bias,
                depth_multiplier=depth_multiplier,
                depthwise_initializer=depthwise["kernel_initializer"],
                depthwise_regularizer=depthwise["kernel_regularizer"],
                pointwise_initializer=pointwise["kernel_initializer"],
                pointwise_regularizer=pointwise["kernel_regularizer"],
                **options,
            )

        return blocks.normalized(
            x,
            linear,
            norm=norm or self.norm,
            activation=self.activation,
            name=name,
        )

    def _channels(self, channels: int) -> int:
        return max(1, round(self.width * channels))

    def _halvings(self) -> int:
        """How often the stem halves the maps."""
        return min(3, int(math.log2(self.image_size / SMALLEST_MAPS)))

    def _kernel(self, name: str) -> dict[str, Any]:
        return {
            # He et al. 2015; the same name gets the same seed in any network.
            "kernel_initializer": keras.initializers.VarianceScaling(
                2.0 * self.initial_weight_scale**2,
                "fan_in",
                "truncated_normal",
                seed=zlib.crc32(f"{self.seed}/{name}".encode()),
            ),
            "kernel_regularizer": (
                keras.regularizers.L2(self.l2) if self.l2 else None
            ),
        }


def output_sizes(model: keras.Model) -> list[tuple[str, tuple[int, ...]]]:
    """Names and output shapes `(height, width, channels)`, row by row."""
    rows = ("conv1", "pool1", "conv2", "pool2", *[b.name for b in BLOCKS])
    layers = {layer.name: layer for layer in model.layers}
    return [
        (name, tuple(layers[name].output.shape[1:]))
        for name in rows
        if name in layers
    ]


def _pool(x: Any, kind: str, *, stride: int, name: str) -> Any:
    pools = {
        "max": keras.layers.MaxPooling2D,
        "average": keras.layers.AveragePooling2D,
    }
    return pools[kind](3, stride, padding="same", name=name)(x)


def _check(
    classes: int, image_size: int, width: float, table: str, dropout: float
) -> None:
    if classes < 1:
        raise ValueError(f"classes must be >= 1. Received: classes={classes}")
    if image_size < SMALLEST_MAPS:
        raise ValueError(
            f"image_size must be >= {SMALLEST_MAPS}. "
            f"Received: image_size={image_size}"
        )
    if not 0 < width < float("inf"):
        raise ValueError(
            f"width must be finite and > 0. Received: width={width}"
        )
    one_of("table", table, tuple(TABLES))
    if not 0 <= dropout < 1:
        raise ValueError(
            f"dropout must be >= 0 and < 1. Received: dropout={dropout}"
        )
