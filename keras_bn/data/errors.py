# SPDX-License-Identifier: Apache-2.0
"""What may be wrong with data."""

from keras_bn.errors import ExpectedError


class DataError(ExpectedError):
    """Data that are missing, damaged or not what they should be."""
