# SPDX-License-Identifier: Apache-2.0
"""Recipe and data in, trained model and result out. Knows no flags.

With `strategy="multiworker"` every process of the run calls `run`. All take the
same steps; only the chief writes the folder and has callbacks.
"""

from keras_bn.backend.checkpoints import CheckpointError
from keras_bn.failures import InputError
from keras_bn.training.building import build_model
from keras_bn.training.loop import TrainingError
from keras_bn.training.result import Result, summary
from keras_bn.training.runs import check, describe, restore, run, start
from keras_bn.training.steps import make_steps

__all__ = [
    "CheckpointError",
    "InputError",
    "Result",
    "TrainingError",
    "build_model",
    "check",
    "describe",
    "make_steps",
    "restore",
    "run",
    "start",
    "summary",
]
