# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks count and add up, apart from timing."""

import numpy as np
import pytest

from benchmarks import operations, sums, tables


@pytest.mark.parametrize("pass_", ["forward+backward", "inference"])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_a_small_layer_takes_fewer_operations_than_keras(pass_, activation):
    ours, theirs = (
        operations.of_layer(make, pass_=pass_, activation=activation)
        for make in operations.LAYERS.values()
    )
    assert sum(ours.values()) < sum(theirs.values())
    # Each variable is read once, and nothing but operations is counted.
    assert ours["ReadVariableOp"] == 4
    assert not {"_Arg", "_Retval"} & set(ours)


@pytest.mark.parametrize("name", sums.CONTESTANTS)
@pytest.mark.parametrize("shape", [(200, 5), (3, 11, 17, 5), (5, 7)])
def test_every_way_to_sum_gives_the_sums(name, shape):
    x = np.random.default_rng(0).normal(1.0, 1.0, shape).astype(np.float32)
    assert sums.error(sums.CONTESTANTS[name], x) < 2e-6


def test_tables_are_markdown():
    table = tables.markdown([["", "of", "µs"], ["a", [2, 3], 4]], right=1)
    assert table == "| | of | µs |\n| --- | --- | ---: |\n| a | [2, 3] | 4 |"
