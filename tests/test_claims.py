# SPDX-License-Identifier: Apache-2.0
"""Each claim against what NumPy, or the equations, say."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from analysis.claims import CLAIMS, LONG, centering, gradients
from analysis.claims.result import Settings, draw

SETTINGS = Settings()


def measured(number):
    """Figures of a claim, which must hold."""
    result = CLAIMS[number].measure(SETTINGS)
    assert result.holds, result
    return dict(result.measured)


def test_there_are_seventeen():
    assert list(CLAIMS) == list(range(1, 18))
    for claim in CLAIMS.values():
        assert claim.TITLE
        assert claim.SECTION
        assert claim.EXPECTED


def test_1_is_the_z_score():
    x = draw(SETTINGS, 64, 10) * np.logspace(-2, 2, 10)
    y = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)
    found = measured(1)["mean per example"]
    assert found == pytest.approx(np.abs(y.mean(1)).max())


def test_2_is_the_identity():
    assert measured(2)["relative error"] < 1e-14


def test_4_the_step_is_the_plain_gradient():
    layer = centering.example(SETTINGS)
    u, target = layer._u, layer._target
    expected = centering.RATE * np.mean(u - u.mean() - target)
    assert measured(4)["step of b"] == pytest.approx(abs(expected))


@pytest.mark.parametrize("divides", [False, True])
def test_5_the_full_gradient_is_the_difference_of_losses(divides):
    layer = centering.example(SETTINGS, divides=divides)
    step = 1e-5
    sides = [layer.loss(2 + sign * step) for sign in (1, -1)]
    difference = (sides[0] - sides[1]) / (2 * step)
    assert layer.gradient(2.0, full=True) == pytest.approx(difference, abs=1e-9)
    assert max(measured(5).values()) < 1e-12


def test_6_the_bias_is_the_sum_of_equal_steps():
    layer = centering.example(SETTINGS)
    u, target = layer._u, layer._target
    step = -centering.RATE * np.mean(u - u.mean() - target)
    found = measured(6)
    assert found["b, centering only"] == pytest.approx(1000 * step)
    assert found["b, with division"] == pytest.approx(
        1000 * step / u.std(), rel=0.01
    )


def test_7_the_closed_form_is_the_difference():
    x, g = draw(SETTINGS, 9, 2), draw(SETTINGS, 9, 2) ** 2
    np.testing.assert_allclose(
        gradients.closed_form(x, g), gradients.differences(x, g), atol=1e-6
    )
    measured(7)


def test_8_the_estimates_are_the_formulas():
    found = measured(8)
    x = draw(SETTINGS, 2**13, 4).astype(np.float32).astype(np.float64)
    true = x.var(0, ddof=1)
    for size in (2, 32):
        batches = x.reshape(-1, size, 4).var(1).mean(0)
        paper = np.mean(size / (size - 1) * batches / true)
        assert found[f"paper, m={size}"] == pytest.approx(paper, rel=0.02)
        assert found[f"exact, m={size}"] == pytest.approx(1, abs=1e-3)


def test_11_the_factor_is_that_of_800_values():
    assert measured(11)["factor"] == pytest.approx(800 / 799)


@pytest.mark.slow
@pytest.mark.parametrize("number", sorted(LONG))
def test_claims_on_trained_networks(number):
    result = CLAIMS[number].measure(SETTINGS)
    figures = np.array(list(result.measured.values()))
    assert not np.isnan(figures).any()
    assert result.holds, result


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "analysis.claims", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def test_the_command_prints_rows_and_writes_json(tmp_path):
    output = tmp_path / "claims.json"
    result = command("--only=2,4,6", f"--output={output}")
    assert result.returncode == 0
    assert "3 of 3 claims hold" in result.stdout
    rows = json.loads(output.read_text())
    assert [row["number"] for row in rows] == [2, 4, 6]
    assert all(row["holds"] for row in rows)


@pytest.mark.parametrize("flag", ["--only=18", "--only=x", "--nope", "more"])
def test_wrong_usage_is_one_line(flag):
    result = command(flag)
    lines = [x for x in result.stderr.splitlines() if x.startswith("claims:")]
    assert (result.returncode, len(lines)) == (2, 1)
