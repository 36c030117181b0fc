# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import subprocess
import sys

import pytest

from analysis.callbacks import sets
from keras_bn import data, recipes
from keras_bn.data import augment, batch_order
from keras_bn.models import blocks
from keras_bn.models.inception import BLOCKS, SMALLEST_MAPS, TABLES
from keras_bn.recipes import Recipe


def test_the_figure_1_recipes_differ_in_the_norm_alone():
    bn, baseline, keras = (
        dataclasses.asdict(recipes.get(name))
        for name in ("fig1_bn", "fig1_baseline", "fig1_keras")
    )
    for other, norm in ((baseline, "none"), (keras, "keras")):
        different = {k for k in bn if bn[k] != other[k]}
        assert different == {"recipe", "norm"}
        assert other["norm"] == norm
    # Section 4.1: three hidden layers of 100, 50,000 steps of batch 60.
    facts = (bn["depth"], bn["width"], bn["steps"], bn["batch_size"])
    assert facts == (3, 100, 50_000, 60)


def different(one, other):
    """Names of the fields in which two recipes differ, but for their name."""
    one, other = (dataclasses.asdict(recipes.get(n)) for n in (one, other))
    return {field for field in one if one[field] != other[field]} - {"recipe"}


@pytest.mark.parametrize(
    ("child", "parent", "fields"),
    [
        ("bn_baseline", "inception", {"norm"}),
        (
            "bn_x5",
            "bn_baseline",
            {
                "learning_rate",
                "dropout",
                "l2",
                "learning_rate_decay_steps",
                "local_response_normalization",
                "shuffle",
                "distortion",
            },
        ),
        ("bn_x30", "bn_x5", {"learning_rate"}),
        ("bn_x5_sigmoid", "bn_x5", {"activation"}),
        ("inception_x5", "inception", {"learning_rate"}),
        ("inception_sigmoid", "inception", {"activation"}),
    ],
)
@pytest.mark.parametrize("scale", ["", "cifar10_"])
def test_children_differ_as_section_4_2_says(child, parent, fields, scale):
    assert different(scale + child, scale + parent) == fields


@pytest.mark.parametrize("scale", ["", "cifar10_"])
def test_what_section_4_2_1_changes_has_the_size_it_names(scale):
    baseline, x5 = (
        recipes.get(scale + "bn_baseline"),
        recipes.get(scale + "bn_x5"),
    )
    assert baseline.dropout > 0 == x5.dropout
    assert x5.l2 == pytest.approx(baseline.l2 / 5)
    assert x5.learning_rate_decay_steps == pytest.approx(
        baseline.learning_rate_decay_steps / 6, rel=0.01
    )
    assert x5.learning_rate_decay == baseline.learning_rate_decay
    assert baseline.local_response_normalization
    assert not x5.local_response_normalization
    assert (baseline.shuffle, x5.shuffle) == ("shards", "within")
    assert (baseline.distortion, x5.distortion) == ("strong", "weak")


@pytest.mark.parametrize("scale", ["", "cifar10_"])
@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("inception", 0.0015),
        ("bn_baseline", 0.0015),
        ("bn_x5", 0.0075),
        ("bn_x30", 0.045),
        ("bn_x5_sigmoid", 0.0075),
        ("inception_x5", 0.0075),
        ("inception_sigmoid", 0.0015),
    ],
)
def test_the_rates_of_figure_3(scale, name, rate):
    recipe = recipes.get(scale + name)
    assert recipe.learning_rate == rate
    assert recipe.batch_size == 32


def test_those_on_cifar10_differ_from_the_papers_in_scale_alone():
    scale = {
        "dataset",
        "image_size",
        "width",
        "steps",
        "learning_rate_decay_steps",
        "evaluate_every",
        "measure_every",
        "checkpoint_every",
        "measures",
    }
    papers = (*recipes.PAPER, *recipes.ENSEMBLE)
    assert len(recipes.CIFAR10) == len(papers) == 13
    for paper, ours in zip(papers, recipes.CIFAR10, strict=True):
        assert ours.recipe == f"cifar10_{paper.recipe}"
        assert different(ours.recipe, paper.recipe) == scale
    budgets = {
        tuple(getattr(r, field) for field in sorted(scale))
        for r in (
            r.replace(learning_rate_decay_steps=1) for r in recipes.CIFAR10
        )
    }
    assert len(budgets) == 1


def test_the_six_of_the_ensemble_are_variants_of_bn_x30():
    variants = [different(m.recipe, "bn_x30") for m in recipes.ENSEMBLE]
    allowed = {"initial_weight_scale", "dropout", "per_activation_blocks"}
    assert len(variants) == 6
    assert all(fields <= allowed | {"seed"} for fields in variants)
    assert allowed < set.union(*variants)
    assert len({member.seed for member in recipes.ENSEMBLE}) == 6
    assert {m.dropout for m in recipes.ENSEMBLE} == {0.0, 0.05, 0.1}
    assert {m.initial_weight_scale >= 1 for m in recipes.ENSEMBLE} == {True}


def test_what_is_no_hyperparameter_decides_nothing_that_is_learnt():
    recipe = Recipe()
    others = set(dataclasses.asdict(recipe)) - set(recipe.hyperparameters())
    assert others == {
        "evaluate_every",
        "measures",
        "measure_every",
        "checkpoint_every",
        "steps_per_execution",
        "jit_compile",
        "strategy",
        "replicas",
    }


def test_recipes_carry_their_own_names():
    assert all(name == r.recipe for name, r in recipes.RECIPES.items())


def test_json_and_back():
    recipe = Recipe(
        measures=("jacobian",), learning_rate=0.5, jit_compile=False
    )
    assert Recipe.from_mapping(json.loads(recipe.to_json())) == recipe


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("learning_rate", -1, "> 0 and < inf"),
        ("learning_rate", 0, "> 0 and < inf"),
        ("learning_rate", float("nan"), "> 0 and < inf"),
        ("learning_rate", float("inf"), "> 0 and < inf"),
        ("dataset", "nope", "one of digits, mnist"),
        ("norm", "Batch", "one of batch, keras, per_activation, none"),
        ("measures", ("percentiles", "x"), "one of percentiles, jacobian"),
        ("steps", 0, ">= 1 and <= 2147483647"),
        ("steps", 10**30, ">= 1 and <= 2147483647"),
        ("steps_per_execution", 5 * 10**9, ">= 1 and <= 100000"),
        ("seed", -1, ">= 0 and < 4294967296"),
        ("seed", 2**32, ">= 0 and < 4294967296"),
        ("evaluate_every", 0, ">= 1"),
        ("model", "cnn", "one of mlp, inception"),
        ("width", 0.0, "> 0 and <= 1000000"),
        ("width", 1e12, "> 0 and <= 1000000"),
        ("image_size", 8, ">= 16"),
        ("dropout", 1.0, ">= 0 and < 1"),
        ("momentum", 1.0, ">= 0 and < 1"),
        ("learning_rate_decay", 1.5, "> 0 and <= 1"),
        ("learning_rate_decay", 0.0, "> 0 and <= 1"),
        ("l2", float("nan"), ">= 0 and < inf"),
        ("per_activation_blocks", ("5b", "6a"), "one of 3a, "),
        ("strategy", "tpu", "one of one_device, mirrored, multiworker"),
        ("steps", "20", "an integer"),
        ("steps", 2.5, "an integer"),
        ("steps", True, "an integer"),
        ("width", "wide", "a number"),
        ("model", ("mlp",), "a text"),
        ("jit_compile", 1, "true or false"),
        ("measures", "percentiles", "several texts"),
    ],
)
def test_a_value_not_allowed_is_named_with_its_rule(field, value, allowed):
    with pytest.raises(ValueError, match=f"{field} must be {allowed}") as error:
        Recipe(**{field: value})
    shown = ",".join(value) if isinstance(value, tuple) else value
    assert f"Received: {field}={shown}" in str(error.value)


def test_unknown_names_are_refused_with_a_hint():
    with pytest.raises(ValueError, match=r"did you mean fig1_bn\?.*=fig_bn"):
        recipes.get("fig_bn")
    with pytest.raises(ValueError, match="Received: momentums"):
        Recipe.from_mapping({"momentums": 1})


def test_recipes_need_the_standard_library_only():
    code = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location(\n"
        f"    'r', {recipes.__file__!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "sys.modules['r'] = module\n"
        "spec.loader.exec_module(module)\n"
        "assert not {'numpy', 'keras', 'tensorflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True)


def test_choices_are_those_that_there_are():
    """Recipes know the standard library only, so they list them again."""
    fields = {f.name: f.metadata["rule"] for f in dataclasses.fields(Recipe)}
    definitions = {
        "norm": blocks.NORMALIZATIONS,
        "table": TABLES,
        "per_activation_blocks": [block.name for block in BLOCKS],
        "distortion": augment.DISTORTIONS,
        "shuffle": batch_order.SHUFFLES,
        "measures": sets.MEASURES,
    }
    for name, definition in definitions.items():
        assert fields[name]["choices"] == tuple(definition), name
    assert fields["image_size"]["at_least"] == SMALLEST_MAPS
    with pytest.raises(ValueError, match="dataset must be one of") as error:
        data.load("none")
    assert ", ".join(fields["dataset"]["choices"]) in str(error.value)
