# SPDX-License-Identifier: Apache-2.0
"""The dashboard and the report as a browser draws them."""

import keras
import numpy as np
import pytest

import analysis
from analysis import report, schedules
from analysis.callbacks.sets import PRESETS
from keras_bn import training
from keras_bn.run_folder import open_run_folder
from tests import browser

pytestmark = pytest.mark.browser

CARD = "/^TF-CUSTOM-SCALAR-.*-CHART-CARD$/.test(e.tagName)"
#: A line that has been drawn: Plottable puts the points into the path.
CURVE = "e.tagName == 'path' && /[ML].*L/.test(e.getAttribute('d') || '')"
PHONE, DESKTOP = 390, 1280


@pytest.fixture(scope="module")
def driver():
    with browser.browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def logdir(tmp_path_factory, tiny_dataset, tiny_recipe):
    """A run with BN and one without, watched with the standard preset."""
    folder = tmp_path_factory.mktemp("runs")
    for norm in ("batch", "none"):
        recipe = tiny_recipe.replace(norm=norm, steps=20)
        with open_run_folder(folder / norm, recipe) as run_folder:
            training.run(
                recipe,
                tiny_dataset,
                folder=run_folder,
                callbacks=analysis.watch(
                    folder / norm,
                    probe=(tiny_dataset.x_test, tiny_dataset.y_test),
                    schedule=schedules.every(10),
                    hyperparameters=recipe.hyperparameters(),
                ),
                progress=False,
            )
    return folder


@pytest.fixture(scope="module")
def page(logdir, tmp_path_factory):
    """The report of the runs; also draws images for TensorBoard."""
    folder = tmp_path_factory.mktemp("report")
    report.write_report(logdir, folder)
    return folder / "index.html"


@pytest.fixture(scope="module")
def address(logdir, page):
    assert page.exists()
    with browser.tensorboard(logdir) as served:
        yield served


def test_every_layer_has_its_charts(driver, address):
    driver.set_window_size(1400, 1000)
    driver.get(f"{address}#custom_scalars")
    # Three blocks: two bands and the singular values of each; two charts of
    # all blocks' covariance, three of gradients and weights.
    browser.wait_for(driver, 3 * 2 + 3 + 2 + 3, CARD)
    heading = "e.tagName == 'TF-CARD-HEADING'"
    titles = browser.values(driver, heading, "e.displayName")
    for i in (1, 2, 3):
        assert f"{i} hidden{i}, all units: p15, p50, p85" in titles
        assert f"{i} hidden{i}, unit0: p15, p50, p85" in titles
        assert f"{i} hidden{i}, inference: s1 to s5" in titles
    for part in ("Covariance of inputs", "Gradients and weights"):
        browser.wait_for(driver, 1, f"e.textContent.trim() == '{part}'")
    browser.wait_for(driver, 6, CURVE)


def test_a_card_says_how_to_read_the_charts(driver, address):
    driver.get(f"{address}#text")
    cards = "e.tagName == 'TF-TEXT-LOADER'"
    browser.wait_for(driver, 2 * len(PRESETS["standard"].measures), cards)
    browser.wait_for(driver, 1, "e.tagName == 'CODE' && e.textContent == 's1'")


def test_figures_are_images(driver, address):
    driver.get(f"{address}#images")
    drawn = "e.tagName == 'IMG' && e.naturalWidth > 500"
    browser.wait_for(driver, 2, drawn)


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_report_needs_no_scrolling_sideways(driver, page, width):
    # A window cannot be as narrow as a phone.
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {
            "width": width,
            "height": 800,
            "deviceScaleFactor": 1,
            "mobile": width == PHONE,
        },
    )
    driver.get(page.as_uri())
    browser.wait_for(driver, 2, "e.tagName == 'IMG' && e.naturalWidth > 500")
    shown, needed = driver.execute_script(
        "return [window.innerWidth, document.documentElement.scrollWidth]"
    )
    assert shown == width
    assert needed <= width
    assert np.all(
        driver.execute_script(
            "return [...document.images].map(e => e.clientWidth)"
        )
    )


def test_of_a_deep_network_layers_stay_folded(tmp_path, driver):
    """All of them together first; a chart per layer only if asked for."""
    layers = [keras.layers.Dense(4, "tanh") for _ in range(30)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    watching = analysis.watch(tmp_path, probe=(x, x))
    model.fit(x, x, batch_size=4, verbose=0, callbacks=watching)
    with browser.tensorboard(tmp_path) as served:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.get(f"{served}#custom_scalars")
        # Four of percentiles, two of Jacobians, two and three as ever.
        browser.wait_for(driver, 11, CARD)
        browser.wait_for(driver, 2, "/: each layer$/.test(e.textContent)")
        browser.wait_for(driver, 30, CURVE)
        assert browser.count(driver, CARD) == 11
