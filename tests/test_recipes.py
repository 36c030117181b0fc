# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import subprocess
import sys

import pytest

from keras_bn import recipes
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
        ("learning_rate", -1, "finite and > 0"),
        ("learning_rate", 0, "finite and > 0"),
        ("learning_rate", float("nan"), "finite and > 0"),
        ("learning_rate", float("inf"), "finite and > 0"),
        ("dataset", "nope", "one of digits, mnist"),
        ("norm", "Batch", "one of batch, keras, none"),
        ("measures", ("percentiles", "x"), "one of percentiles, jacobian"),
        ("steps", 0, ">= 1"),
        ("steps", 2**63, ">= 1"),
        ("seed", -1, ">= 0"),
        ("evaluate_every", 0, ">= 1"),
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
