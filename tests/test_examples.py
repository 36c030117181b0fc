# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys

import numpy as np
import pytest

from examples import domain_transfer, images
from tests import versions


@pytest.fixture(scope="module")
def data():
    """Few enough digits to be quick, enough to learn something."""
    return images.load(None)


@pytest.mark.slow
@versions.needs_litert
def test_deployment_from_training_to_litert(tmp_path):
    output = tmp_path / "deployment.json"
    flags = ["--steps=30", "--rounds=1", f"--output={output}"]
    subprocess.run(
        [sys.executable, "-m", "examples.deployment", *flags], check=True
    )
    results = json.loads(output.read_text("utf-8"))["results"]
    trained, folded = results["models"].values()
    assert (trained["bn_layers"], folded["bn_layers"]) == (4, 0)
    assert folded["accuracy"] == trained["accuracy"]
    assert folded["litert_bytes"] < trained["litert_bytes"]
    for name in ("difference_keras", "difference_litert"):
        assert folded[name] < 1e-4


@pytest.mark.slow
def test_statistics_move_a_network_to_another_domain(data, monkeypatch):
    monkeypatch.setattr(domain_transfer, "EPOCHS", 1)
    model = domain_transfer.train(data, epochs=8)
    target = domain_transfer.in_domain(data, "low contrast")
    assert domain_transfer.accuracy(model, data) > 0.9
    ways = domain_transfer.Transfer(model, target)
    source = ways.source()
    assert source < 0.5
    assert ways.estimated() > 0.6
    assert source < ways.estimated(layers=["conv2_bn"]) < ways.estimated()
    assert ways.tuned("target") > source
    assert not any(norm.trainable for norm in ways.norms)
    assert ways.source() == source  # Each way starts where the first did.


def test_results_are_drawn_and_tabled(tmp_path):
    ways = [
        domain_transfer.SOURCE,
        domain_transfer.ESTIMATED,
        domain_transfer.TUNED,
        *map(domain_transfer.by_count, domain_transfer.COUNTS),
    ]
    run = dict.fromkeys(domain_transfer.DOMAINS, dict.fromkeys(ways, 0.25))
    domain_transfer.draw([run], tmp_path / "transfer.png")
    assert (tmp_path / "transfer.png").stat().st_size > 10_000
    assert domain_transfer.table([run]).count("0.250") == 4 * len(ways)


def test_a_domain_is_the_same_each_time(data):
    first, second = (domain_transfer.in_domain(data, "noisy") for _ in "ab")
    np.testing.assert_array_equal(first.x_test, second.x_test)
    assert abs(first.x_test - data.x_test).std() > 0.1
