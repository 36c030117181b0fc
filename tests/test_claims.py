# SPDX-License-Identifier: Apache-2.0
"""Each claim against what NumPy says in float64, or against its equation."""

import dataclasses
import functools
import json
import math
import subprocess
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
from matplotlib.figure import Figure

import keras_bn
from analysis import readers, report
from analysis.claims import (
    __main__,
    covariate_shift,
    dropout_and_initialisation,
    faster_training,
    feature_maps,
    hand_written_gradients,
    identity,
    section2,
    singular_values,
    tied_to_statistics,
    train_freeze_fold,
    training,
    unbiased_variance,
    useless_bias,
    weight_scale,
    whitening,
    z_score,
)
from analysis.claims.claim import Result, Setting
from analysis.claims.registry import CLAIMS
from analysis.claims.runs import Runs, run_name
from keras_bn.command_line import Command
from keras_bn.data import DataError
from keras_bn.recipes import Recipe
from tests.reference import batch_norm as reference, population

SEEDS = (0, 1, 2)
RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_dataset):
    """Runs on a data set that is learnt within a few steps."""
    found = Runs(tmp_path_factory.mktemp("runs"), say=print)
    found.dataset = {"digits": tiny_dataset}.__getitem__
    return found


@pytest.fixture
def setting(runs, monkeypatch):
    """A small network, trained for a few steps."""
    original = training.recipe

    def small(setting, **changes):
        recipe = original(setting, **changes)
        return recipe.replace(
            width=8,
            batch_size=20,
            steps=40 + recipe.steps // 250,
            evaluate_every=10,
            measure_every=20,
        )

    monkeypatch.setattr(training, "recipe", small)
    monkeypatch.setattr(dropout_and_initialisation, "RATES", (0.1,))
    monkeypatch.setattr(faster_training, "RATES", (0.1, 3.0))
    return Setting(runs=runs)


def arithmetic(seed):
    """A setting of claims that train nothing."""
    return Setting(runs=None, seed=seed)


def holds(number, result):
    return CLAIMS[number].holds(result.figures)


def test_there_is_a_claim_for_each_number():
    assert list(CLAIMS) == [*range(1, 18)]
    for claim in CLAIMS.values():
        assert claim.title
        assert claim.section
        assert claim.expected
        assert not claim.expected.endswith(".")


@pytest.mark.parametrize("number", [1, 2, 4, 5, 6, 7, 11])
@pytest.mark.parametrize("seed", SEEDS)
def test_claims_of_arithmetic_hold(number, seed):
    result = CLAIMS[number].measure(arithmetic(seed))
    assert holds(number, result), result


# 1 and 2


@pytest.mark.parametrize("name", z_score.inputs(0))
def test_1_moments_are_those_of_the_z_score(name):
    x = z_score.inputs(0)[name]
    y = (x - x.mean(0)) / np.sqrt(x.var(0) + z_score.EPSILON)
    found = z_score.moments(x)
    assert found["per example: |mean|"] == pytest.approx(
        np.abs(y.mean(1)).max(), rel=1e-9
    )


def test_1_sees_statistics_of_the_wrong_axis(monkeypatch):
    wrong = z_score.ops.batch_norm
    monkeypatch.setattr(
        z_score.ops, "batch_norm", lambda x, **o: wrong(x, **{**o, "axes": 1})
    )
    assert not holds(1, CLAIMS[1].measure(arithmetic(0)))


def test_2_another_gamma_is_no_identity(monkeypatch):
    monkeypatch.setattr(identity, "EPSILON", 0.5)
    x = z_score.inputs(0)["normal"]
    assert identity.error(x, "float64") < 1e-14
    plain = z_score.ops.batch_norm(x, x.std(0), x.mean(0), axes=0, epsilon=0.5)
    assert np.abs(np.asarray(plain[0]) - x).max() > 0.01


# 4 to 6


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_4_and_6_b_makes_equal_steps(scaled, seed):
    v, t = section2.data(seed)
    layer = section2.Layer(scaled=scaled)
    path = section2.descend(layer, seed, steps=50)
    std = v.std(0) if scaled else 1.0
    step = section2.RATE * t.mean(0) / std
    expected = path.b[0] + np.arange(51)[:, None] * step
    np.testing.assert_allclose(path.b, expected, rtol=1e-11)


@pytest.mark.parametrize("learns_weight", [False, True])
def test_4_and_6_the_loss_is_that_of_numpy(learns_weight):
    v, t = section2.data(0)
    layer = section2.Layer(scaled=True, learns_weight=learns_weight)
    path = section2.descend(layer, 0, steps=5)
    for w, b, loss in zip(path.w, path.b, path.loss, strict=True):
        x = w * v + b
        x_hat = (x - x.mean(0)) / x.std(0)
        expected = np.sum(np.mean((x_hat - t) ** 2, axis=0)) / 2
        assert loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scaled", [False, True])
def test_5_the_full_gradient_is_the_slope_of_the_loss(scaled):
    v, t = section2.data(0)
    weights = section2.start(0) + 0.3
    layer = section2.Layer(full=True, scaled=scaled)

    def loss(weights):
        x = weights[0] * v + weights[1]
        x_hat = (x - x.mean(0)) / (x.std(0) if scaled else 1.0)
        return np.sum(np.mean((x_hat - t) ** 2, axis=0)) / 2

    found = section2.gradient(layer, v, t)(weights)
    expected = reference.central_differences(loss, weights, 1e-6)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    np.testing.assert_allclose(found[1], 0, atol=1e-14)


def test_6_the_division_slows_b_where_the_std_is_large(monkeypatch):
    v, t = section2.data(0)
    monkeypatch.setattr(section2, "data", lambda _: (10 * v, t))
    result = CLAIMS[6].measure(arithmetic(0))
    assert result.figures["speed with division by std"] < 1
    assert not holds(6, result)


def test_6_elsewhere_w_is_driven_through_0(monkeypatch):
    """Where mean(t v) is below the deviation of v, as of a centred input."""
    rng = np.random.default_rng(0)
    v = rng.normal(size=(section2.EXAMPLES, section2.UNITS))
    v = 0.5 * (v - v.mean(0)) / v.std(0)
    t = rng.normal(1, 0.3, v.shape)
    assert (np.mean(t * v, axis=0) < v.std(0)).all()
    monkeypatch.setattr(section2, "data", lambda _: (v, t))
    layer = section2.Layer(scaled=True, learns_weight=True)
    path = section2.descend(layer, 0)
    assert (path.w.min(0) < 0).any()
    assert np.abs(path.w).min() < 0.02
    assert np.abs(path.w).max() > 20
    assert np.ptp(path.loss) > 0.1


@pytest.mark.parametrize("number", [4, 5, 6])
def test_the_questions_are_drawn_from_what_was_measured(number, monkeypatch):
    result = CLAIMS[number].measure(arithmetic(0))
    monkeypatch.delattr(section2, "descend")
    figure = result.draw()
    assert isinstance(figure, Figure)
    assert len(figure.axes) == 2


# 7 and 11


def test_7_gradients_are_the_printed_chain():
    x, gamma, beta, dy = hand_written_gradients.values(0)
    found = hand_written_gradients.gradients(
        hand_written_gradients.batch_norm, x, gamma, beta, dy
    )
    epsilon = hand_written_gradients.EPSILON
    expected = reference.backward(x, gamma, (0,), epsilon, dy)
    for ours, printed in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, printed, rtol=1e-10, atol=1e-12)


def test_7_sees_a_gradient_that_takes_statistics_for_constants(monkeypatch):
    original = hand_written_gradients.batch_norm
    ops = hand_written_gradients.ops

    def constant(x, gamma, beta):
        _, *statistics = ops.batch_norm(x, axes=0, epsilon=1e-3)
        mean, variance = map(keras.ops.stop_gradient, statistics)
        return ops.apply_statistics(x, mean, variance, gamma, beta, axes=0)

    monkeypatch.setattr(hand_written_gradients, "batch_norm", constant)
    assert not holds(7, CLAIMS[7].measure(arithmetic(0)))
    assert original is not constant


def test_11_counts_the_values_of_a_map(monkeypatch):
    figures = CLAIMS[11].measure(arithmetic(0)).figures
    assert figures["values per map"] == 800
    monkeypatch.setattr(feature_maps, "VALUES", 799)
    with pytest.raises(ValueError, match="reshape"):
        CLAIMS[11].measure(arithmetic(0))


# 12


@pytest.mark.parametrize("a", weight_scale.FACTORS)
def test_12_epsilon_counts_as_epsilon_over_a_squared(a):
    rng = np.random.default_rng(0)
    u, w = rng.normal(1, 1, (16, 6)), rng.normal(0, 1, (6, 4))

    def z(epsilon):
        x = u @ w
        return (x - x.mean(0)) / np.sqrt(x.var(0) + epsilon)

    expected = z(weight_scale.EPSILON / a**2)
    found = np.asarray(weight_scale.layer(u, a * w, weight_scale.EPSILON))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    change = weight_scale.deviations(a, weight_scale.EPSILON, 0)[0]
    plain = z(weight_scale.EPSILON)
    assert change == pytest.approx(
        np.abs(expected - plain).max() / np.abs(plain).max(), abs=1e-12
    )
    assert max(weight_scale.deviations(a, 0.0, 0)) < 1e-12


def test_12_growth_is_that_of_the_kernels(setting):
    recipe = training.recipe(setting, learning_rate=3.0)
    found = weight_scale.growth(setting, recipe)
    networks = (setting.runs.untrained(recipe), setting.runs.model(recipe))
    first, last = (
        [
            np.linalg.norm(m.get_layer(f"hidden{i}_linear").kernel)
            for i in (1, 2, 3)
        ]
        for m in networks
    )
    assert found == pytest.approx(np.mean(np.divide(last, first)), rel=1e-6)
    assert found > 1


# 8


@pytest.fixture(scope="module")
def values():
    """`[1024, 3]` of different means and spreads."""
    rng = np.random.default_rng(0)
    return rng.normal([5, 0, -2], [1, 3, 0.1], (1024, 3)).astype(np.float32)


@pytest.mark.parametrize("size", unbiased_variance.SIZES)
def test_8_the_estimate_is_algorithm_2(values, size):
    batches = np.split(values, len(values) // size)
    _, expected = population.paper(batches, (0,))
    found = unbiased_variance.population_variance(values, size)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_8_is_unbiased_at_every_batch_size(values, monkeypatch):
    monkeypatch.setattr(unbiased_variance, "UPDATES", 200)
    truth = values.var(0, np.float64, ddof=1)
    found = unbiased_variance.errors(values, truth, 0)
    sizes = np.array(unbiased_variance.SIZES)
    unbiased, biased, *moving = (each.mean(1) for each in found.values())
    np.testing.assert_allclose(unbiased, 0, atol=0.03)
    np.testing.assert_allclose(biased, -1 / sizes, atol=0.03)
    assert len(moving) == 2


def test_8_the_layer_keeps_this_moving_average(values, monkeypatch):
    monkeypatch.setattr(unbiased_variance, "UPDATES", 20)
    found = unbiased_variance.moving_variances(values, 16, 0)
    for estimator, expected in zip(("unbiased", "biased"), found, strict=True):
        layer = keras_bn.BatchNormalization(moving_variance_estimator=estimator)
        rng = np.random.default_rng(0)
        for _ in range(20):
            layer(values[rng.integers(0, len(values), 16)], training=True)
        np.testing.assert_allclose(layer.moving_variance, expected, rtol=1e-5)


def test_8_no_half_is_measured_against_itself(monkeypatch):
    monkeypatch.setattr(unbiased_variance, "SIZES", (2, 4))
    monkeypatch.setattr(unbiased_variance, "HALVINGS", 3)
    x = np.random.default_rng(0).normal(5, 2, (23, 2)).astype(np.float32)
    ones, truth = unbiased_variance.halves(x, 0)
    assert ones.shape == (8, 6)
    for i, variance in enumerate(np.split(truth, 3)):
        half = ones[:, 2 * i : 2 * i + 2]
        other = [row for row in x if not (row == half).all(1).any()]
        assert len(other) == 23 - 8
        np.testing.assert_allclose(np.var(other, 0, ddof=1), variance, 1e-5)


def test_8_is_drawn_from_what_was_measured(values, monkeypatch):
    monkeypatch.setattr(unbiased_variance, "UPDATES", 1)
    monkeypatch.setattr(unbiased_variance, "SIZES", (2, 256))
    monkeypatch.setattr(unbiased_variance, "values", lambda _: values)
    result = unbiased_variance.measure(arithmetic(0))
    monkeypatch.delattr(unbiased_variance, "errors")
    assert len(result.draw().axes) == 2


# 3, 9, 10, 13 to 17: networks


def test_3_shape_has_no_mean_and_no_deviation():
    rng = np.random.default_rng(0)
    x = rng.exponential(size=(500, 4))
    moved = useless_bias.standardized_quantiles(7 + 3 * x)
    np.testing.assert_allclose(
        moved, useless_bias.standardized_quantiles(x), atol=1e-12
    )
    normal = useless_bias.standardized_quantiles(rng.normal(size=(500, 4)))
    assert np.abs(moved - normal).mean() > 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_3_the_bias_is_useless_and_beta_is_not(seed):
    effects = useless_bias.effect_of_bias(seed)
    assert max(effects.values()) < 1e-12


def test_9_folds_to_the_same_network(setting):
    result = train_freeze_fold.measure(setting)
    assert holds(9, result), result
    assert result.figures["BN layers trained"] == 3


def test_10_statistics_of_the_target_undo_a_change_of_contrast(
    setting, monkeypatch
):
    contrast = tied_to_statistics.DOMAINS["contrast"]
    monkeypatch.setattr(tied_to_statistics, "DOMAINS", {"contrast": contrast})
    found = tied_to_statistics.accuracies(setting)
    assert list(found) == ["clean", "contrast"]
    clean, contrast = found["clean"], found["contrast"]
    assert contrast[1] < clean[1] - 0.1
    assert contrast[2] == pytest.approx(clean[2], abs=0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_13_gradients_grow_as_the_theory_says(seed):
    found = singular_values.growth_per_layer(seed)
    assert found == pytest.approx(math.pi / (math.pi - 1), rel=0.02)


def test_13_squares_are_those_of_the_matrices(setting):
    recipe = training.recipe(setting, norm="none")
    model = setting.runs.untrained(recipe)
    square, distance = singular_values.blocks(setting, recipe, model)
    x = setting.runs.dataset("digits").x_test[: singular_values.EXAMPLES]
    squares, distances = [], []
    for i in (1, 2, 3):
        layer = model.get_layer(f"hidden{i}_linear")
        w, b = (np.asarray(each, np.float64) for each in layer.weights)
        outputs = 1 / (1 + np.exp(-(x @ w + b)))
        jacobians = w.T * (outputs * (1 - outputs))[:, :, None]
        s = np.linalg.svd(jacobians, compute_uv=False)
        squares.append(np.mean(s**2))
        distances.append(np.mean(np.sqrt(np.mean((s**2 - 1) ** 2, axis=1))))
        x = outputs
    assert square == pytest.approx(np.exp(np.mean(np.log(squares))), rel=1e-4)
    assert distance == pytest.approx(np.mean(distances), rel=1e-4)


def test_14_whitened_values_have_the_covariance_i():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 1, (200, 6)) @ rng.normal(size=(6, 6))
    found = whitening.ways(x)
    covariances = {n: np.cov(v.T, bias=True) for n, v in found.items()}
    np.testing.assert_allclose(covariances["whitened"], np.eye(6), atol=1e-10)
    np.testing.assert_allclose(np.diag(covariances["normalized"]), 1)
    expected = np.corrcoef(x.T)
    np.testing.assert_allclose(covariances["normalized"], expected, atol=1e-10)


def test_15_reads_what_the_callback_wrote(setting):
    result = covariate_shift.measure(setting)
    assert len(result.figures) == 16
    assert all(np.isfinite(list(result.figures.values())))


def test_16_steps_are_the_first_at_the_threshold(setting):
    recipe = training.recipe(setting)
    table = setting.runs.table([recipe])
    run = run_name(recipe)
    steps, values = table.series(run, "validation", "accuracy")
    for accuracy in (values.min(), values.max()):
        first = next(
            s for s, v in zip(steps, values, strict=True) if v >= accuracy
        )
        assert training.steps_to(table, run, accuracy) == first
    assert training.steps_to(table, run, 1.1) == math.inf


def test_16_is_not_faster_where_neither_gets_there(setting, monkeypatch):
    monkeypatch.setattr(faster_training, "THRESHOLDS", {"digits": (1.1,)})
    result = faster_training.measure(setting)
    for side in training.SIDES.values():
        assert result.figures[f"best rate, {side}: steps to 110%"] == math.inf
    assert not holds(16, result)


@pytest.mark.parametrize(("number", "panels"), [(10, 1), (16, 2), (17, 2)])
def test_networks_are_drawn_from_what_was_measured(
    setting, number, panels, monkeypatch
):
    result = CLAIMS[number].measure(setting)
    for name in ("table", "model", "dataset"):
        monkeypatch.setattr(setting.runs, name, None)
    assert len(result.draw().axes) == panels


def test_17_takes_the_best_rate_of_each_width(monkeypatch):
    accuracies = {0.1: [0.1, 0.9], 2.0: [0.8, 0.7]}
    monkeypatch.setattr(
        dropout_and_initialisation,
        "over_widths",
        lambda _, rate: {
            norm: np.array(accuracies[rate])[:, None] + bonus
            for norm, bonus in (("batch", 0.05), ("none", 0.0))
        },
    )
    monkeypatch.setattr(
        dropout_and_initialisation,
        "over_shares",
        lambda _: dict.fromkeys(("batch", "none"), np.full((2, 2), 0.9)),
    )
    found = dropout_and_initialisation.measure(arithmetic(0)).figures
    name = "worst width, best rate of each"
    assert found[f"{name}, with BN"] == pytest.approx(0.85)
    assert found[f"{name}, without BN"] == pytest.approx(0.8)
    assert found["worst width, rate 2, without BN"] == pytest.approx(0.7)


def test_17_compares_the_sweeps(setting):
    figures = dropout_and_initialisation.measure(setting).figures
    for side in training.SIDES.values():
        gains = [
            figures[f"dropout 0.5, {side}, seed {seed}"]
            - figures[f"dropout 0, {side}, seed {seed}"]
            for seed in (0, 1)
        ]
        gain, error = (
            figures[f"{name}, {side}"]
            for name in ("gain by dropout", "its standard error")
        )
        assert gain == pytest.approx(np.mean(gains))
        assert error == pytest.approx(np.std(gains, ddof=1) / np.sqrt(2))


# The verdicts, on what is on record


@functools.cache
def on_record(file):
    """The rows of a raw file, by number."""
    rows = json.loads((RESULTS / file).read_text("utf-8"))["results"]
    return {row["number"]: row for row in rows}


def figures_of(row):
    measured = row["measured"].items()
    return {name: math.inf if v is None else v for name, v in measured}


def as_claimed(number):
    """Figures on which a claim holds: those on record, but for `WISHED`."""
    found = figures_of(on_record("claims-full.json")[number])
    return {**found, **WISHED.get(number, {})}


@pytest.mark.parametrize("file", ["claims.json", "claims-full.json"])
@pytest.mark.parametrize("number", CLAIMS)
def test_the_record_has_the_verdict_of_its_figures(file, number):
    claim, row = CLAIMS[number], on_record(file)[number]
    assert row["expected"] == claim.expected
    assert row["holds"] == claim.holds(figures_of(row))
    assert row["holds"] or claim.not_seen(figures_of(row))


def test_what_is_not_seen_is_so_at_full_scale():
    rows = on_record("claims-full.json").values()
    failed = {row["number"] for row in rows if not row["holds"]}
    assert failed == {n for n, claim in CLAIMS.items() if claim.not_seen}
    assert failed == set(WISHED)


#: What would have to be measured for the claims that do not hold.
WISHED = {
    12: {"growth of W at rate 3, with BN": 5.0},
    13: {"distance from all 1, trained, with BN": 0.5},
    16: {
        "best rate, with BN: steps to 90%": 500.0,
        "best rate, with BN: steps to 95%": 500.0,
    },
    17: {"worst width, best rate of each, without BN": 0.5},
}
#: What is compared.
SIDES = {
    3: ("of u,", "of W u,"),
    8: (unbiased_variance.PAPER, unbiased_variance.PLAIN),
    9: ("BN layers trained", "BN layers folded"),
    10: ("source", "target"),
    14: ("W u", "normalized"),
    **dict.fromkeys([12, 13, 15, 16, 17], ("with BN", "without BN")),
}


@pytest.mark.parametrize("number", [n for n in CLAIMS if CLAIMS[n].trains])
def test_a_verdict_tells_the_sides_apart(number):
    found = as_claimed(number)
    assert CLAIMS[number].holds(found)
    one, other = SIDES[number]
    exchanged = {
        name.replace(one, "\0").replace(other, one).replace("\0", other): value
        for name, value in found.items()
    }
    assert exchanged.keys() == found.keys()
    assert not CLAIMS[number].holds(exchanged)


@pytest.mark.parametrize(
    ("number", "name", "value"),
    [
        (3, "change of shape of u, mean, with BN", 0.0),
        (3, "change of shape of u, mean, without BN", 0.0),
        (8, f"{unbiased_variance.PAPER}, any m: |mean error - expected|", 0.03),
        (8, f"{unbiased_variance.PLAIN}, any m: |mean error - expected|", 0.03),
        (9, "BN layers folded", 1.0),
        (9, "|change of logits| over the largest", 1e-4),
        (9, "share of same predictions", 0.99),
        (10, "contrast: without BN", 0.97),
        (10, "contrast: source", 0.97),
        (10, "contrast: target", 0.9),
        (10, "noise: target", 0.97),
        (10, "inverted: target", 0.97),
        (10, "inverted: tuned", 0.0),
        (12, "change of a dz/d(aW), eps = 0", 1e-8),
        (12, "growth of W at rate 0.1, with BN", 100.0),
        (12, "growth of W at rate 0.5, with BN", 100.0),
        (12, "growth of W at rate 3, with BN", 100.0),
        (13, "mean square, untrained, with BN", 1e3),
        (13, "mean square, trained, with BN", 1e-3),
        (13, "distance from all 1, untrained, with BN", 2.0),
        (13, "distance from all 1, trained, with BN", 2.0),
        (14, "distance from a multiple of I, normalized", 0.4),
        (14, "distance from a multiple of I, normalized", 3.0),
        (14, "distance from a multiple of I, whitened", 0.1),
        (15, "Fig. 1: drift of input means per step, with BN", 1.0),
        (15, "Fig. 1: drift of input deviations per step, with BN", 1.0),
        (15, "learning at once: drift of input means per step, with BN", 1.0),
        (
            15,
            "learning at once: drift of input deviations per step, with BN",
            1.0,
        ),
        (16, "rate 0.1, with BN: steps to 90%", 5_000.0),
        (16, "rate 0.1, with BN: steps to 95%", 9_000.0),
        (16, "best rate, with BN: steps to 90%", 1_000.0),
        (16, "best rate, with BN: steps to 95%", 2_000.0),
        (16, "best rate, with BN: steps to 95%", math.inf),
        (17, "worst width, best rate of each, without BN", 0.9),
        (17, "gain by dropout, with BN", 0.002),
        (17, "its standard error, with BN", 0.1),
    ],
)
def test_a_verdict_asks_for_each_part(number, name, value):
    found = as_claimed(number)
    assert name in found
    assert not CLAIMS[number].holds({**found, name: value})


@pytest.mark.parametrize(
    ("number", "name", "value"),
    [
        (12, "change of z, eps = 0", 0.5),
        (12, "change of dz/du, eps = 0", 0.5),
        (12, "change of a dz/d(aW), eps = 0", 0.5),
        (12, "change of z, eps = 1e-3, a = 0.001", 0.0),
        (13, "mean square, untrained, with BN", 1e3),
        (13, "mean square, trained, with BN", 1e-3),
        (16, "rate 0.1, with BN: steps to 90%", 5_000.0),
        (16, "best rate, with BN: steps to 95%", 3_000.0),
        (16, "best rate, with BN: steps to 95%", math.inf),
        (17, "worst width, best rate of each, with BN", 0.9),
    ],
)
def test_what_our_networks_do_show_must_be_there(number, name, value):
    found = figures_of(on_record("claims-full.json")[number])
    assert name in found
    assert CLAIMS[number].not_seen(found)
    assert not CLAIMS[number].not_seen({**found, name: value})


# Runs and the command


def test_a_complete_run_is_not_trained_again(runs, tiny_recipe, monkeypatch):
    recipe = tiny_recipe.replace(measures=(), seed=7)
    first = runs.table([recipe])
    monkeypatch.setattr(runs, "_run", None)
    again = runs.table([recipe])
    assert again.rows() == first.rows()
    with pytest.raises(TypeError):
        runs.table([recipe.replace(steps=61)])


def test_runs_have_names_of_their_own():
    plain = Recipe()
    assert run_name(plain) == "fig1_bn-digits-0"
    changed = plain.replace(learning_rate=0.5, seed=3, dataset="mnist")
    assert run_name(changed) == "fig1_bn-mnist-3-learning_rate=0.5"


@pytest.mark.parametrize(
    ("given", "expected"), [(["6", "2", "6"], [2, 6]), ([], [*range(1, 18)])]
)
def test_claims_are_chosen_by_number(monkeypatch, given, expected):
    monkeypatch.setattr(__main__, "FLAGS", types.SimpleNamespace(only=given))
    assert __main__.numbers() == expected


@pytest.mark.parametrize("given", ["18", "0", "x", ""])
def test_there_is_no_claim_of_another_number(monkeypatch, given):
    monkeypatch.setattr(__main__, "FLAGS", types.SimpleNamespace(only=[given]))
    with pytest.raises(ValueError, match=f"Received: only={given}$"):
        __main__.numbers()


def test_wrong_usage_is_one_line():
    python = [sys.executable, "-m", "analysis.claims", "--only=18"]
    done = subprocess.run(python, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len([line for line in lines if line.startswith("claims: ")]) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_command_writes_rows_and_pictures(tmp_path):
    output = tmp_path / "claims.json"
    command = [sys.executable, "-m", "analysis.claims", "--only=6,2"]
    flags = [f"--output={output}", f"--figures={tmp_path}"]
    done = subprocess.run(
        [*command, *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2 of 2 claims hold"
    written = json.loads(output.read_text("utf-8"))
    assert [row["number"] for row in written["results"]] == [2, 6]
    assert (tmp_path / "claim-exploding_bias.png").stat().st_size > 10_000


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the command on claims that do what is given, by number.

    Returns:
        The function that does; it returns the exit code.
    """

    def run(measures, **changes):
        for number, measure in measures.items():
            claim = dataclasses.replace(
                CLAIMS[number], measure=measure, **changes
            )
            monkeypatch.setitem(CLAIMS, number, claim)
        found = types.SimpleNamespace(
            only=list(map(str, measures)),
            output=str(tmp_path / "claims.json"),
            figures=str(tmp_path),
            logdir=None,
            data_dir=None,
            seed=0,
            full=False,
        )
        monkeypatch.setattr(__main__, "FLAGS", found)
        return Command("claims", __main__.main)(["claims"])

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("no data"), 1, "no data"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_ends_a_claim_leaves_the_rows_before_it(
    error, code, said, command, tmp_path, capsys
):
    def fail(_):
        raise error

    measures = {2: CLAIMS[2].measure, 4: CLAIMS[4].measure, 5: fail, 6: fail}
    assert command(measures) == code
    assert capsys.readouterr().err.splitlines()[-1] == f"claims: {said}"
    rows = readers.read_claims(tmp_path)
    assert [row["number"] for row in rows] == [2, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "claim-unequal_gradients.png",
        "claims.json",
    ]


def test_a_picture_that_fails_leaves_the_row_of_its_claim(command, tmp_path):
    def draw():
        raise OSError("no space left")

    result = Result(figures={"a": 1.0}, draw=draw)
    assert command({4: lambda _: result}, holds=any) == 1
    assert [row["number"] for row in readers.read_claims(tmp_path)] == [4]


def test_infinity_is_never_and_nan_is_not_a_number(command, tmp_path, capsys):
    result = Result(
        figures={"steps": math.inf, "growth": math.nan, "|db|": np.float32(2)},
        note="as in the paper",
    )
    assert command({4: lambda _: result}, holds=any, not_seen=any) == 1
    (row,) = readers.read_claims(tmp_path)
    assert row["measured"] == {"steps": None, "|db|": 2.0}
    assert row["note"] == "growth is not a number; as in the paper"
    assert not row["holds"]
    for shown in (capsys.readouterr().out, report._claim(row, [])):
        assert "FAILS" in shown
        assert "growth is not a number; as in the paper" in shown
        assert shown.count("never") == 1
        assert "nan" not in shown


def test_a_claim_may_have_no_figure_that_is_a_number(command, capsys):
    result = Result(figures={"a": math.nan, "b": -math.nan})
    assert command({4: lambda _: result}, holds=any) == 1
    shown = capsys.readouterr().out.splitlines()
    assert "    note: a is not a number; b is not a number" in shown


@pytest.mark.parametrize(
    ("seen", "not_seen", "code", "verdict"),
    [
        (True, None, 0, "holds"),
        (True, lambda _: True, 0, "holds"),
        (False, None, 1, "FAILS"),
        (False, lambda _: np.bool_(True), 0, "not seen"),
        (False, lambda _: False, 1, "FAILS"),
    ],
)
def test_a_claim_that_is_known_not_to_hold_is_no_failure(
    seen, not_seen, code, verdict, command, tmp_path, capsys
):
    result = Result(figures={"a": 1.0})
    changes = {"holds": lambda _: np.bool_(seen), "not_seen": not_seen}
    assert command({4: lambda _: result}, **changes) == code
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f" 4  {verdict}  {CLAIMS[4].title}"
    assert said[-1] == f"{int(seen)} of 1 claims hold"
    (row,) = readers.read_claims(tmp_path)
    assert row["holds"] is seen


def test_a_claim_that_fails_is_said():
    row = {
        "number": 4,
        "claim": "c",
        "section": "2",
        "scale": "",
        "expected": "e",
        "measured": {"steps": None},
        "holds": False,
        "not_seen": False,
        "note": "",
        "seconds": 1.0,
    }
    lines = __main__._lines(row)
    assert lines[0] == " 4  FAILS  c"
    assert "never" in lines[-1]
