# SPDX-License-Identifier: Apache-2.0
"""Layers that an affine map per feature can be moved across, exactly."""

import dataclasses

import keras

from keras_bn.folding.affine import Affine
from keras_bn.folding.graph import Call
from keras_bn.folding.linear import channel_axis

layers = keras.layers

#: Layers that do nothing at inference.
_IDENTITIES = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)
#: Layers that give weighted means over positions, with weights that sum to 1.
_MEANS = (
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.UpSampling3D,
)
#: Layers that give maxima over positions: no map with a negative slope passes.
_MAXIMA = (
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
)
#: Layers that add zeros, which a map without shift leaves at 0.
_ZERO_PADDINGS = (
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
)


def across(call: Call, affine: Affine, *, rank: int) -> Affine | None:
    """A map moved to the other side of a layer; `None` if it cannot pass.

    Args:
        call: The call of the layer.
        affine: A map of its input or its output.
        rank: Rank of the tensor on the other side.
    """
    layer = call.layer
    if _does_nothing(call):
        return affine
    passes = (
        type(layer) in _MEANS
        or (type(layer) in _MAXIMA and bool((affine.slope >= 0).all()))
        or (type(layer) in _ZERO_PADDINGS and not affine.shift.any())
    )
    if not passes or affine.axes != (channel_axis(layer, affine.rank),):
        return None
    axes = (channel_axis(layer, rank),)
    return dataclasses.replace(affine, rank=rank, axes=axes)


def _does_nothing(call: Call) -> bool:
    if type(call.layer) is layers.Activation:
        return call.layer.activation is keras.activations.linear
    return type(call.layer) in _IDENTITIES and not call.training
