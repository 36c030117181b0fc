# SPDX-License-Identifier: Apache-2.0
"""Every experiment as a frozen dataclass; variants replace some fields.

A field's metadata carries its help text and allowed values, so the command
line, the checks and the documentation read them from one place.

Standard library only.
"""

import dataclasses
import difflib
import json
import math
import numbers
import operator
from collections.abc import Callable, Mapping
from typing import Any

#: Steps are counted in 32 bits.
_MOST = 2**31 - 1


def _field(
    default: Any,
    description: str,
    *,
    model: str = "",
    hyperparameter: bool = True,
    free: bool = False,
    **rule: Any,
) -> Any:  # `Any`, as for dataclasses.field
    """A field of a recipe.

    Args:
        default: The default value, whose type all values must have.
        description: For `--help`.
        model: The model that the field applies to, if it is only one.
        hyperparameter: Whether the field affects what is learnt; other fields
            affect only speed and what is recorded.
        free: Whether a resumed run may change the field, because it affects
            how long, where and in what portions to compute, but not what.
        **rule: The allowed values: `choices`, or bounds named in `_BOUNDS`.
    """
    if model:
        description = f"of {model}: {description}"
    return dataclasses.field(
        default=default,
        metadata={
            "help": description,
            "model": model,
            "hyperparameter": hyperparameter,
            "free": free,
            "rule": rule,
        },
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What one run trains, on what, how long, and what it measures.

    Raises:
        ValueError: If a field has a value that its rule does not allow; the
            message names the field, the value and the rule.
    """

    recipe: str = _field("fig1_bn", "name of the experiment")
    model: str = _field("mlp", "network to train", choices=("mlp", "inception"))
    norm: str = _field(
        "batch",
        "normalization: ours, Keras' own layer, ours with statistics for each "
        "place of a feature map, or none",
        choices=("batch", "keras", "per_activation", "none"),
    )
    width: float = _field(
        100.0,
        "units of each hidden layer; of inception, multiple of the paper's "
        "channels",
        above=0,
        at_most=1_000_000,
    )
    depth: int = _field(
        3, "number of hidden layers", model="mlp", at_least=1, at_most=10_000
    )
    weight_stddev: float = _field(
        0.05,
        "standard deviation of the initial weights",
        model="mlp",
        above=0,
        below=math.inf,
    )
    activation: str = _field(
        "sigmoid",
        "nonlinearity",
        choices=("sigmoid", "relu", "tanh", "elu", "leaky_relu", "silu"),
    )
    dropout: float = _field(
        0.0,
        "share dropped after each hidden layer; of inception, before the last",
        at_least=0,
        below=1,
    )
    initial_weight_scale: float = _field(
        1.0,
        "factor of the initial weights",
        model="inception",
        above=0,
        below=math.inf,
    )
    local_response_normalization: bool = _field(
        False, "in the stem, as GoogLeNet had", model="inception"
    )
    table: str = _field(
        "exact",
        "pool projections of 4c and 4d so that the sums of Fig. 5 are exact, "
        "or as printed",
        model="inception",
        choices=("exact", "literal"),
    )
    auxiliary_head: bool = _field(
        False, "a second classifier, as GoogLeNet had", model="inception"
    )
    per_activation_blocks: tuple[str, ...] = _field(
        (),
        "blocks with statistics for each place",
        model="inception",
        choices=("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"),
    )
    image_size: int = _field(
        32,
        "height and width of the images",
        model="inception",
        at_least=16,
        at_most=10_000,
    )
    dataset: str = _field(
        "digits",
        "digits is bundled with scikit-learn; the others need files",
        choices=("digits", "mnist", "cifar10", "image_folder", "tfrecords"),
    )
    distortion: str = _field(
        "none",
        "of the colours of training images",
        choices=("none", "weak", "strong"),
        model="inception",
    )
    shuffle: str = _field(
        "all",
        "mix all examples, those within each shard, or only the shards",
        choices=("all", "within", "shards"),
        model="inception",
    )
    steps: int = _field(
        50_000,
        "training steps, a batch each",
        at_least=1,
        at_most=_MOST,
        free=True,
    )
    batch_size: int = _field(
        60, "examples in a batch", at_least=1, at_most=_MOST
    )
    learning_rate: float = _field(
        0.1, "of gradient descent, at the start", above=0, below=math.inf
    )
    momentum: float = _field(
        0.0, "of gradient descent; 0 for none", at_least=0, below=1
    )
    learning_rate_decay: float = _field(
        1.0, "factor of the learning rate ...", above=0, at_most=1
    )
    learning_rate_decay_steps: int = _field(
        1000, "... after each so many steps", at_least=1, at_most=_MOST
    )
    l2: float = _field(
        0.0,
        "weight of the squared kernels",
        model="inception",
        at_least=0,
        below=math.inf,
    )
    seed: int = _field(
        0,
        "of the initial weights and the order of the examples",
        at_least=0,
        below=2**32,
    )
    evaluate_every: int = _field(
        500,
        "steps between two evaluations on the test examples",
        at_least=1,
        at_most=_MOST,
        hyperparameter=False,
    )
    population_statistics: int = _field(
        0,
        "batches that BN's statistics are estimated from before each "
        "evaluation; 0 keeps the moving averages",
        at_least=0,
        at_most=_MOST,
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
        hyperparameter=False,
    )
    measure_every: int = _field(
        500,
        "steps between two measurements",
        at_least=1,
        at_most=_MOST,
        hyperparameter=False,
    )
    checkpoint_every: int = _field(
        10_000,
        "steps between two checkpoints",
        at_least=1,
        at_most=_MOST,
        hyperparameter=False,
        free=True,
    )
    steps_per_execution: int = _field(
        1000,
        "most steps that run in one call; never past a scheduled event",
        at_least=1,
        at_most=100_000,
        hyperparameter=False,
        free=True,
    )
    jit_compile: bool = _field(
        True,
        "compile the training step with XLA; on one device only",
        hyperparameter=False,
    )
    strategy: str = _field(
        "one_device",
        "where to train: on one device, on all of this machine, or on all "
        "machines that TF_CONFIG names",
        choices=("one_device", "mirrored", "multiworker"),
        hyperparameter=False,
        free=True,
    )
    replicas: int = _field(
        0,
        "with mirrored, how many devices; 0 for all. Without a GPU, the CPU "
        "is split into as many",
        at_least=0,
        at_most=10_000,
        hyperparameter=False,
        free=True,
    )
    mixed_precision: str = _field(
        "none",
        "compute dtype beside float32 weights and statistics",
        choices=("none", "float16", "bfloat16"),
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            complaint = _wrong_kind(value, field.default) or _complaint(
                value, field.metadata["rule"]
            )
            if complaint:
                raise ValueError(
                    f"{field.name} must be {complaint}. "
                    f"Received: {field.name}={_shown(value)}"
                )

    def replace(self, **changes: Any) -> "Recipe":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def of_another_model(self) -> dict[str, Any]:
        """The changed fields that do not apply to the recipe's model."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.metadata["model"] not in ("", self.model)
            and getattr(self, field.name) != field.default
        }

    def hyperparameters(self) -> dict[str, Any]:
        """The fields that affect what is learnt, the most telling first."""
        names = dict.fromkeys([*_TOLD_APART, *_flagged("hyperparameter")])
        return {name: getattr(self, name) for name in names}

    def conflicts(self, other: "Recipe") -> list[str]:
        """The fields whose difference forbids resuming as the other recipe."""
        return [
            name
            for name in _flagged("free", value=False)
            if getattr(self, name) != getattr(other, name)
        ]

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


#: The most telling fields, as many as TensorBoard shows.
_TOLD_APART = ("recipe", "norm", "learning_rate", "dataset", "seed")


def _flagged(flag: str, *, value: bool = True) -> list[str]:
    """Names of the fields with this value of a flag of `_field`."""
    return [
        field.name
        for field in dataclasses.fields(Recipe)
        if field.metadata[flag] is value
    ]


_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "at_least": (">=", operator.ge),
    "above": (">", operator.gt),
    "at_most": ("<=", operator.le),
    "below": ("<", operator.lt),
}


def _wrong_kind(value: Any, default: Any) -> str:
    """The kind of value required, in words; empty if `value` is of it."""
    kinds: dict[type, tuple[str, Any]] = {
        bool: ("true or false", bool),
        int: ("an integer", numbers.Integral),
        float: ("a number", numbers.Real),
        str: ("a text", str),
        tuple: ("several texts", tuple),
    }
    words, kind = kinds[type(default)]
    if isinstance(value, bool) and kind is not bool:
        return words
    return "" if isinstance(value, kind) else words


def _complaint(value: Any, rule: Mapping[str, Any]) -> str:
    """The rule that `value` breaks, in words; empty if it is allowed."""
    if "choices" in rule:
        values = value if isinstance(value, tuple) else (value,)
        if any(v not in rule["choices"] for v in values):
            return f"one of {', '.join(rule['choices'])}"
    bounds = [
        (sign, rule[name], holds)
        for name, (sign, holds) in _BOUNDS.items()
        if name in rule
    ]
    # A NaN holds none.
    if not all(holds(value, bound) for _, bound, holds in bounds):
        return " and ".join(f"{sign} {bound}" for sign, bound, _ in bounds)
    return ""


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


# Fig. 1 of Ioffe & Szegedy 2015 (section 4.1): 3 x 100 sigmoid, batch 60,
# 50,000 steps, with and without BN. The paper gives neither the optimizer, its
# rate, nor the Gaussian's standard deviation: plain gradient descent at rate
# 0.1 and a standard deviation of 0.05 come closest to its curves. Command:
# python train.py --recipe=fig1_bn --dataset=mnist --data_dir=DIR; half a minute
# on two cores.
# Expected on MNIST: test accuracy .95 at 4,000 steps, .97 at 10,000, .977 at
# the end; the baseline has .5, .91, .966.
FIG1_BN = Recipe(recipe="fig1_bn")
FIG1_BASELINE = FIG1_BN.replace(recipe="fig1_baseline", norm="none")
FIG1_KERAS = FIG1_BN.replace(recipe="fig1_keras", norm="keras")

# Section 4.2: Inception with and without BN on ImageNet, batch 32. The paper
# states the initial rates, "momentum", "exponential decay", and what the BN
# variants change. The following is not stated but taken from GoogLeNet (Szegedy
# et al. 2014), on which the network builds: momentum .9, decay by 4% every 8
# epochs (320,000 steps of 32), dropout 40%. L2 is the 4e-5 of TensorFlow's
# published Inception code, which penalizes half of the square where Keras
# penalizes all of it. Expected on ImageNet: the first four recipes reach 72.2%
# after 31.0M, 13.3M, 2.1M and 2.7M steps.
INCEPTION = Recipe(
    recipe="inception",
    model="inception",
    norm="none",
    activation="relu",
    width=1.0,
    image_size=224,
    dataset="tfrecords",
    batch_size=32,
    steps=31_000_000,
    learning_rate=0.0015,
    momentum=0.9,
    learning_rate_decay=0.96,
    learning_rate_decay_steps=320_000,
    l2=4e-5,
    dropout=0.4,
    local_response_normalization=True,
    distortion="strong",
    shuffle="shards",
    evaluate_every=10_000,
    measure_every=10_000,
    checkpoint_every=2_000,
    steps_per_execution=20,
    jit_compile=False,
)
# "Same as Inception with BN before each nonlinearity."
BN_BASELINE = INCEPTION.replace(recipe="bn_baseline", norm="batch")
# Section 4.2.1: a higher rate, no dropout, L2 divided by 5, decay 6 times
# faster, no LRN, shuffling within shards, weaker photometric distortion.
BN_X5 = BN_BASELINE.replace(
    recipe="bn_x5",
    learning_rate=0.0075,
    dropout=0.0,
    l2=8e-6,
    learning_rate_decay_steps=53_333,
    local_response_normalization=False,
    shuffle="within",
    distortion="weak",
)
BN_X30 = BN_X5.replace(recipe="bn_x30", learning_rate=0.045)
BN_X5_SIGMOID = BN_X5.replace(recipe="bn_x5_sigmoid", activation="sigmoid")
# The two that the paper says failed: "diverged", "remained at chance".
INCEPTION_X5 = INCEPTION.replace(recipe="inception_x5", learning_rate=0.0075)
INCEPTION_SIGMOID = INCEPTION.replace(
    recipe="inception_sigmoid", activation="sigmoid"
)
# Section 4.2.3: six networks, each BN-x30 with some of: larger initial weights,
# dropout of 5% or 10%, per-activation BN in the last hidden layers. Which has
# which, and how much larger, is not stated.
_MEMBERS: tuple[dict[str, Any], ...] = (
    {},
    {"initial_weight_scale": 1.5},
    {"dropout": 0.05},
    {"dropout": 0.1},
    {"per_activation_blocks": ("5a", "5b")},
    {
        "initial_weight_scale": 1.5,
        "dropout": 0.05,
        "per_activation_blocks": ("5a", "5b"),
    },
)
ENSEMBLE = tuple(
    BN_X30.replace(recipe=f"ensemble_{number}", seed=number, **changes)
    for number, changes in enumerate(_MEMBERS, start=1)
)
PAPER = (
    INCEPTION,
    BN_BASELINE,
    BN_X5,
    BN_X30,
    BN_X5_SIGMOID,
    INCEPTION_X5,
    INCEPTION_SIGMOID,
)


def _on_cifar10(recipe: Recipe) -> Recipe:
    """The same experiment at a scale that two cores can run.

    An eighth of the channels, 32 pixels, 3,000 steps (1.9 epochs), and a decay
    of 4% every third of the run, or every 18th where the paper's is 6 times
    faster. All else is the paper's. The scale was fixed before the first run.
    """
    faster = recipe.learning_rate_decay_steps < 100_000
    return recipe.replace(
        recipe=f"cifar10_{recipe.recipe}",
        dataset="cifar10",
        image_size=32,
        width=0.125,
        steps=3_000,
        learning_rate_decay_steps=166 if faster else 1_000,
        evaluate_every=300,
        measure_every=1_000,
        checkpoint_every=500,
        measures=("percentiles", "gradients"),
    )


CIFAR10 = tuple(map(_on_cifar10, (*PAPER, *ENSEMBLE)))

RECIPES: dict[str, Recipe] = {
    recipe.recipe: recipe
    for recipe in (
        *(FIG1_BN, FIG1_BASELINE, FIG1_KERAS),
        *PAPER,
        *ENSEMBLE,
        *CIFAR10,
    )
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
