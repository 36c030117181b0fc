# SPDX-License-Identifier: Apache-2.0
"""Operations that TensorFlow runs for a layer on a small tensor.

    python -m benchmarks.operations

On a small tensor an operation takes about a microsecond, most of it to start.
Counted are those that TensorFlow's graph optimizer leaves, for one of several
layers in a graph.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from absl import app, flags
from tensorflow.python.eager import context

import keras_bn
from benchmarks import layer, measure, tables

FLAGS = flags.FLAGS

SHAPE = (60, 100)
LAYERS = {
    "ours": keras_bn.BatchNormalization,
    "keras": keras.layers.BatchNormalization,
}
#: Layers in two graphs, whose difference gives the operations of a layer.
FEW, MORE = 2, 12
#: Operations that bring tensors into the graph and out of it.
AROUND = ("_Arg", "_Retval", "Identity", "Const")


def of_layer(
    make: Any, *, pass_: str, activation: str | None
) -> dict[str, float]:
    """Operations of one layer, by type, most first.

    Args:
        make: The layer's class.
        pass_: Name in `layer.PASSES`.
        activation: Applied inside our layer, but after Keras' layer.
    """
    function = layer.layer(
        make,
        shape=SHAPE,
        axis=-1,
        policy="float32",
        training=pass_ != "inference",
        activation=activation,
    )
    x = tf.random.stateless_normal(SHAPE, (0, 0))
    several, more = (
        of_call(
            layer.repeated(
                function,
                x,
                x,
                backward=pass_ == "forward+backward",
                times=times,
            )
        )
        for times in (FEW, MORE)
    )
    return {
        name: count / (MORE - FEW)
        for name, count in (more - several).most_common()
    }


def of_call(function: Callable[[], object]) -> Counter[str]:
    """Operations that a call of a graph runs, by type."""
    context.enable_run_metadata()
    try:
        context.export_run_metadata()  # Discards that of earlier calls, if any.
        function()
        metadata = context.export_run_metadata()
    finally:
        context.disable_run_metadata()
    return Counter(
        node.op
        for graphs in metadata.function_graphs
        for graph in graphs.partition_graphs
        for node in graph.node
        if node.op not in AROUND
    )


def rows() -> list[dict[str, Any]]:
    """All passes of both layers, without and with a ReLU."""
    return [
        {
            "pass": pass_,
            "activation": activation,
            **{
                name: of_layer(make, pass_=pass_, activation=activation)
                for name, make in LAYERS.items()
            },
        }
        for pass_ in layer.PASSES
        for activation in (None, "relu")
    ]


def main(_: list[str]) -> None:
    """Counts, prints a table, writes the JSON."""
    tf.get_logger().setLevel("ERROR")  # Each graph is traced once.
    counted = rows()
    lines = [["", "", *LAYERS]]
    for row in counted:
        totals = [f"{sum(row[name].values()):g}" for name in LAYERS]
        lines.append([row["pass"], row["activation"] or "", *totals])
    print(tables.markdown(lines, right=len(LAYERS)))
    measure.write(FLAGS.output, counted)


if __name__ == "__main__":
    flags.DEFINE_string(
        "output", "build/bench/operations.json", "file to write"
    )
    app.run(main)
