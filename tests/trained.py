# SPDX-License-Identifier: Apache-2.0
"""Trains 50 steps with a given strategy; writes the results to a file.

    python -m tests.trained STRATEGY DTYPE FILE

It needs a process of its own: TensorFlow allows one strategy per process. The
batch of 15 and the last test batch make unequal halves.
"""

import sys

import keras
import numpy as np

from keras_bn import training
from keras_bn.data import digits
from keras_bn.recipes import Recipe


def train(strategy, dtype):
    """Weights and statistics by name, and the losses."""
    keras.config.set_floatx(dtype)
    recipe = Recipe(
        strategy=strategy,
        replicas=2 if strategy == "mirrored" else 0,
        steps=50,
        batch_size=15,
        evaluate_every=25,
        width=12,
        momentum=0.5,
        jit_compile=False,
    )
    training.start(recipe)
    model, result = training.run(recipe, digits.load(), progress=False)
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    curves = [[e[name] for name in names] for e in result.evaluations]
    weights = {weight.path: np.asarray(weight) for weight in model.weights}
    return {"curves": np.array(curves), **weights}


if __name__ == "__main__":
    np.savez(sys.argv[3], **train(*sys.argv[1:3]))
