# SPDX-License-Identifier: Apache-2.0
"""Claim 14: normalizing each feature by itself is not whitening.

Section 3 gives up joint whitening (covariance I) as too costly and normalizes
each feature, which removes scales and leaves correlations. Two figures are
measured on the pre-activations W u of each hidden layer: the distance of their
covariance from a multiple of I (mean over the layers) and its condition number
(median), before BN, after it (gamma = 1, beta = 0), and after PCA whitening.
"""

import keras
import numpy as np

from analysis import autodiff
from analysis.autodiff import Place
from analysis.claims import scalars, training
from analysis.claims.claim import Claim, Figures, Result, Setting
from analysis.claims.pullback import Array
from analysis.measures import covariance
from analysis.measures.spectra import condition_number
from keras_bn import ops

LAYERS = ("hidden1", "hidden2", "hidden3")


def measure(setting: Setting) -> Result:
    """Mean distance and median condition number of the layers."""
    recipe = training.recipe(setting)
    inputs = setting.runs.dataset(recipe.dataset).x_train[:10_000]
    model = setting.runs.model(recipe)
    figures: dict[str, float] = {}
    layers = [ways(values) for values in preactivations(model, inputs)]
    for way in layers[0]:
        spectra = [relative_spectrum(each[way]) for each in layers]
        figures[f"distance from a multiple of I, {way}"] = scalars.mean(
            map(covariance.whitening_distance, spectra)
        )
        figures[f"condition number, median, {way}"] = float(
            np.median([condition_number(spectrum) for spectrum in spectra])
        )
    return Result(
        figures=figures,
        note="the condition number hardly changes: what makes it large are the "
        "correlations between units",
    )


def preactivations(model: keras.Model, inputs: Array) -> list[Array]:
    """W u of each hidden layer, float64."""
    places = [Place(model.get_layer(f"{n}_linear"), "outputs") for n in LAYERS]
    found = autodiff.capture(model, places, inputs)()
    return [found[place].astype(np.float64) for place in places]


def relative_spectrum(x: Array) -> Array:
    """Eigenvalues of the covariance of `[N, units]` over their mean."""
    spectrum = covariance.covariance_spectrum(x)
    return spectrum / spectrum.mean()


def ways(x: Array) -> dict[str, Array]:
    """The values `[N, units]` as they are, normalized, and whitened."""
    return {
        "W u": x,
        "normalized": np.asarray(ops.batch_norm(x, axes=0, epsilon=0.0)[0]),
        "whitened": whitened(x),
    }


def whitened(x: Array) -> Array:
    """PCA whitening: coordinates along the covariance's eigenvectors."""
    centered = x - x.mean(0)
    u, _, _ = np.linalg.svd(centered, full_matrices=False)
    return u * np.sqrt(len(x))


def holds(figures: Figures) -> bool:
    """Whether the figures are as expected."""
    raw, normalized, white = (
        figures[f"distance from a multiple of I, {way}"]
        for way in ("W u", "normalized", "whitened")
    )
    return white < 1e-6 < 0.5 < normalized < raw


CLAIM = Claim(
    number=14,
    title="normalizing each feature is less than whitening",
    section="3",
    expected="the covariance of W u comes nearer to a multiple of I by "
    "normalization, by far not as near (> 0.5) as by whitening (0)",
    measure=measure,
    holds=holds,
    trains=True,
)
