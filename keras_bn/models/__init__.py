# SPDX-License-Identifier: Apache-2.0
"""The paper's networks."""

from keras_bn.models.inception import inception, output_sizes
from keras_bn.models.mlp import mlp

__all__ = ["inception", "mlp", "output_sizes"]
