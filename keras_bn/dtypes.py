# SPDX-License-Identifier: Apache-2.0
"""Dtype policies."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras


@contextlib.contextmanager
def default_policy(policy: Any) -> Iterator[None]:
    """Within, layers without a dtype policy of their own get this one.

    Args:
        policy: A `keras.DTypePolicy`, or its name.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
