# SPDX-License-Identifier: Apache-2.0
"""The points of the reading notes, each as something that is measured.

python -m analysis.claims
"""

from types import ModuleType

from analysis.claims import (
    algorithm2,
    convolutions,
    covariate_shift,
    domain_shift,
    exploding_bias,
    faster,
    full_gradient,
    gradients,
    identity,
    ignored_mean,
    isometry,
    population,
    robustness,
    scale_invariance,
    useless_bias,
    whitening,
    z_score,
)

#: By number. Each has TITLE, SECTION, EXPECTED and `measure(settings)`.
CLAIMS: dict[int, ModuleType] = dict(
    enumerate(
        (
            z_score,
            identity,
            useless_bias,
            ignored_mean,
            full_gradient,
            exploding_bias,
            gradients,
            population,
            algorithm2,
            domain_shift,
            convolutions,
            scale_invariance,
            isometry,
            whitening,
            covariate_shift,
            faster,
            robustness,
        ),
        start=1,
    )
)
#: Those that train networks: with `--full` they take minutes each.
LONG = frozenset({3, 9, 10, 12, 13, 14, 15, 16, 17})
