# SPDX-License-Identifier: Apache-2.0
"""What a run came to."""

import dataclasses


@dataclasses.dataclass(kw_only=True)
class Result:
    """What a run came to.

    Attributes:
        steps: Steps done in all, resumed ones included.
        seconds: Wall-clock time of training, evaluation and callbacks.
        parameters: Number of trainable weights.
        evaluations: One dictionary per evaluation: `step`, `loss`, `accuracy`,
            `val_loss`, `val_accuracy`; the first two over the training
            batches since the previous evaluation, the others over the test set.
        interrupted: Number of the signal that ended the run early, else 0.
    """

    steps: int
    seconds: float
    parameters: int
    evaluations: list[dict[str, float]]
    interrupted: int = 0

    @property
    def final(self) -> dict[str, float]:
        """The last evaluation; empty if there was none."""
        return self.evaluations[-1] if self.evaluations else {}

    @property
    def best(self) -> dict[str, float]:
        """The first evaluation with the highest test accuracy."""
        return max(
            self.evaluations, key=lambda e: e["val_accuracy"], default={}
        )


def summary(result: Result) -> str:
    """The result in one line."""
    final, best = result.final, result.best
    done = f"{result.steps:,} steps in {result.seconds:.1f} s"
    if not final:
        return f"{done}: never evaluated"
    return (
        f"{done}: test accuracy "
        f"{final['val_accuracy']:.4f} at the end, best "
        f"{best['val_accuracy']:.4f} at step {best['step']:,}"
    )
