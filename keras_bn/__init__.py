# SPDX-License-Identifier: Apache-2.0
"""Batch normalization for Keras 3 with a hand-written backward pass."""

from keras_bn import (
    backend as backend,  # first: refuses other backends
    models,
    ops,
)
from keras_bn._version import __version__
from keras_bn.conversion import convert
from keras_bn.folding import fold
from keras_bn.layer import BatchNormalization
from keras_bn.population import (
    PopulationStatistics,
    estimate_population_statistics,
)

__all__ = [
    "BatchNormalization",
    "PopulationStatistics",
    "__version__",
    "convert",
    "estimate_population_statistics",
    "fold",
    "models",
    "ops",
]
