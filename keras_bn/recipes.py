# SPDX-License-Identifier: Apache-2.0
"""Every experiment as a frozen dataclass; children replace parents' fields.

A field's metadata carries its help text and what it allows, so the command
line, the checks and the documentation read them from one place.

Standard library only.
"""

import dataclasses
import difflib
import json
from collections.abc import Mapping
from typing import Any


def _field(
    default: Any, description: str, **rule: Any
) -> Any:  # `Any`, as for dataclasses.field
    return dataclasses.field(
        default=default, metadata={"help": description, "rule": rule}
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What one run trains, on what, how long, and what it measures.

    Raises:
        ValueError: If a field has a value that its rule does not allow; the
            message names the field, the value and the rule.
    """

    recipe: str = _field("fig1_bn", "name of the experiment")
    model: str = _field("mlp", "network to train", choices=("mlp",))
    norm: str = _field(
        "batch",
        "normalization: ours, Keras' own layer, or none",
        choices=("batch", "keras", "none"),
    )
    width: int = _field(100, "units of each hidden layer", at_least=1)
    depth: int = _field(3, "number of hidden layers", at_least=1)
    weight_stddev: float = _field(
        0.05, "standard deviation of the initial weights", above=0
    )
    dataset: str = _field(
        "digits",
        "digits is bundled with scikit-learn; mnist needs its file",
        choices=("digits", "mnist"),
    )
    steps: int = _field(50_000, "training steps, a batch each", at_least=1)
    batch_size: int = _field(60, "examples in a batch", at_least=1)
    learning_rate: float = _field(0.1, "of plain gradient descent", above=0)
    seed: int = _field(
        0, "of the initial weights and the order of the examples", at_least=0
    )
    evaluate_every: int = _field(
        500, "steps between two looks at the test examples", at_least=1
    )
    measures: tuple[str, ...] = _field(
        ("percentiles", "jacobian"),
        "what to record of each block, comma separated; empty for nothing",
        choices=(
            "percentiles",
            "jacobian",
            "covariance",
            "gradients",
            "covariate_shift",
            "landscape",
        ),
    )
    measure_every: int = _field(
        500, "steps between two measurements", at_least=1
    )
    checkpoint_every: int = _field(
        10_000, "steps between two checkpoints", at_least=1
    )
    steps_per_execution: int = _field(
        1000,
        "most steps that run before Python looks; never past a scheduled one",
        at_least=1,
    )
    jit_compile: bool = _field(True, "compile the training step with XLA")
    strategy: str = _field(
        "one_device",
        "where to train: on one device, on all of this machine, or on all "
        "machines that TF_CONFIG names",
        choices=("one_device", "mirrored", "multiworker"),
    )
    replicas: int = _field(
        0,
        "with mirrored, how many devices; 0 for all. Without a GPU, the CPU "
        "is split into as many",
        at_least=0,
    )
    mixed_precision: str = _field(
        "none",
        "compute dtype beside float32 weights and statistics",
        choices=("none", "float16", "bfloat16"),
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            complaint = _complaint(value, field.metadata["rule"])
            if complaint:
                raise ValueError(
                    f"{field.name} must be {complaint}. "
                    f"Received: {field.name}={_shown(value)}"
                )

    def replace(self, **changes: Any) -> "Recipe":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def hyperparameters(self) -> dict[str, Any]:
        """The fields that decide what is learnt; the others only how fast."""
        fields = dataclasses.asdict(self)
        return {name: fields[name] for name in _HYPERPARAMETERS}

    def to_json(self) -> str:
        """The fields as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_mapping(cls, fields: Mapping[str, Any]) -> "Recipe":
        """The inverse of `dataclasses.asdict`, also after JSON.

        Raises:
            ValueError: If a field is unknown or has a value not allowed.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - known)
        if unknown:
            raise ValueError(
                f"a recipe has the fields {', '.join(sorted(known))}. "
                f"Received: {', '.join(unknown)}"
            )
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        return cls(**values)


_HYPERPARAMETERS = (
    "recipe",
    "model",
    "norm",
    "dataset",
    "learning_rate",
    "batch_size",
    "steps",
    "weight_stddev",
    "width",
    "depth",
    "mixed_precision",
    "seed",
)


def _complaint(value: Any, rule: Mapping[str, Any]) -> str:
    """What `value` should have been, or nothing if it is allowed."""
    if "choices" in rule:
        values = value if isinstance(value, tuple) else (value,)
        if any(v not in rule["choices"] for v in values):
            return f"one of {', '.join(rule['choices'])}"
    # A NaN fails both comparisons, an infinity the last one.
    if "at_least" in rule and not rule["at_least"] <= value < 2**63:
        return f">= {rule['at_least']}"
    if "above" in rule and not rule["above"] < value < float("inf"):
        return f"finite and > {rule['above']}"
    return ""


def _shown(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


# Fig. 1 of Ioffe & Szegedy 2015 (section 4.1): 3 x 100 sigmoid, batch 60,
# 50,000 steps, with and without BN. The paper states neither optimizer nor
# rate nor the Gaussian's width: plain gradient descent at 0.1 and 0.05 come
# closest to its curves. Command: python train.py --recipe=fig1_bn
# --dataset=mnist --data_dir=DIR; half a minute on two cores.
# Expected on MNIST: test accuracy .95 at 4,000 steps, .97 at 10,000, .977 at
# the end; the baseline has .5, .91, .966.
FIG1_BN = Recipe(recipe="fig1_bn")
FIG1_BASELINE = FIG1_BN.replace(recipe="fig1_baseline", norm="none")
FIG1_KERAS = FIG1_BN.replace(recipe="fig1_keras", norm="keras")

RECIPES: dict[str, Recipe] = {
    recipe.recipe: recipe for recipe in (FIG1_BN, FIG1_BASELINE, FIG1_KERAS)
}


def get(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: If there is none; the message lists them all.
    """
    if name in RECIPES:
        return RECIPES[name]
    close = difflib.get_close_matches(name, RECIPES, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ValueError(
        f"recipe must be one of {', '.join(RECIPES)}{hint}. "
        f"Received: recipe={name}"
    )
