# SPDX-License-Identifier: Apache-2.0
"""Claim 14: what normalizing each dimension leaves of whitening."""

import numpy as np

from analysis import autodiff
from analysis.claims.result import Array, Result, Settings, load, recipe, train
from analysis.measures import covariance

TITLE = "covariance: per-dimension normalization instead of whitening"
SECTION = "2, 3"
EXPECTED = "nearer to white than before BN, far from white all the same"


def measure(settings: Settings) -> Result:
    """Spectra of W u before and after BN, and after full whitening.

    The distance is that of the spectrum over its mean, as a common factor is
    no lack of whiteness.
    """
    model, _ = train(
        settings, recipe(settings, steps=settings.steps(2000, 50_000))
    )
    place = autodiff.Place(model.get_layer("hidden2_linear"), "outputs")
    inputs = load(settings).x_test[:1000]
    values = autodiff.capture(model, [place], inputs)()[place]
    before = covariance.covariance_spectrum(values)
    after = covariance.covariance_spectrum(values, correlation=True)
    centered = values - values.mean(0)
    _, singular, basis = np.linalg.svd(
        centered.astype(np.float64), full_matrices=False
    )
    kept = singular > 1e-6 * singular[0]
    white = centered @ (basis[kept].T / singular[kept]) * np.sqrt(len(values))
    whitened = covariance.covariance_spectrum(white)
    measured = {
        "distance from white, before": _distance(before),
        "distance from white, after BN": _distance(after),
        "distance from white, PCA": _distance(whitened),
        "directions of 99%, before": covariance.directions(before),
        "directions of 99%, after BN": covariance.directions(after),
    }
    holds = (
        measured["distance from white, after BN"]
        < measured["distance from white, before"]
        and measured["distance from white, after BN"] > 0.5
        and measured["distance from white, PCA"] < 1e-6
    )
    return Result(
        measured,
        holds,
        "The correlations stay as they are: only the diagonal becomes 1.",
    )


def _distance(spectrum: Array) -> float:
    return covariance.whitening_distance(spectrum / spectrum.mean())
