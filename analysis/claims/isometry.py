# SPDX-License-Identifier: Apache-2.0
"""Claim 13: singular values near 1?"""

import numpy as np

import analysis
from analysis import autodiff, probes
from analysis.claims.result import Result, Settings, load, recipe, train

TITLE = "layer Jacobians have singular values near 1"
SECTION = "3.3"
EXPECTED = "closer to 1 with BN than without, over training"


def measure(settings: Settings) -> Result:
    """Root mean square and spread of the Jacobians of W u, BN, sigmoid."""
    dataset = load(settings)
    steps = settings.steps(2000, 50_000)
    measured = {}
    for norm, label in (("batch", "with BN"), ("none", "without")):
        chosen = recipe(settings, steps=steps, norm=norm)
        model, _ = train(settings, chosen)
        values = []
        for block in probes.blocks(model):
            place = block.entry
            captured = autodiff.capture(model, [place], dataset.x_test[:20])()
            values.append(
                analysis.jacobian_singular_values(block, captured[place])
            )
        flat = [np.asarray(v) for v in values]
        rms = [float(np.sqrt(np.mean(v**2))) for v in flat]
        measured[f"{label}: rms"] = float(np.mean(rms))
        measured[f"{label}: |log10 rms|"] = float(
            np.mean(np.abs(np.log10(rms)))
        )
        measured[f"{label}: s1 / median"] = float(
            np.mean([np.mean(v[:, 0] / np.median(v, 1)) for v in flat])
        )
    closer = measured["with BN: |log10 rms|"] < measured["without: |log10 rms|"]
    return Result(
        measured,
        closer,
        "Nearer to 1 in size, not near 1 one by one: the spectra are wide with "
        "BN too. Yang et al. 2019 (arXiv 1902.08129): at initialization, deep "
        "ReLU networks with BN have exploding gradients.",
    )
