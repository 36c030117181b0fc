# SPDX-License-Identifier: Apache-2.0
"""The microscope: measures, callbacks, readers and figures.

Names are loaded when they are first used, so that reading event files or
drawing a figure does not load TensorFlow.
"""

import importlib
from typing import Any

_HOMES = {
    "CovarianceCallback": "analysis.callbacks",
    "CovariateShiftCallback": "analysis.callbacks",
    "CurvesCallback": "analysis.callbacks",
    "DashboardCallback": "analysis.callbacks",
    "GradientsCallback": "analysis.callbacks",
    "JacobianCallback": "analysis.callbacks",
    "LandscapeCallback": "analysis.callbacks",
    "PercentilesCallback": "analysis.callbacks",
    "Probe": "analysis.probes",
    "Span": "analysis.spans",
    "covariance_spectrum": "analysis.measures.covariance",
    "inspect_model": "analysis.inspection",
    "jacobian_singular_values": "analysis.measures.jacobian",
    "jacobian_spectrum": "analysis.measures.jacobian",
    "percentiles": "analysis.measures.percentiles",
    "watch": "analysis.callbacks",
}

__all__ = [
    "CovarianceCallback",
    "CovariateShiftCallback",
    "CurvesCallback",
    "DashboardCallback",
    "GradientsCallback",
    "JacobianCallback",
    "LandscapeCallback",
    "PercentilesCallback",
    "Probe",
    "Span",
    "covariance_spectrum",
    "inspect_model",
    "jacobian_singular_values",
    "jacobian_spectrum",
    "percentiles",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    # A submodule may carry the name of what it holds: the function is meant.
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
