# SPDX-License-Identifier: Apache-2.0
"""Inspection of models: measures, callbacks, readers and figures.

Names are loaded when they are first used, so that reading event files or
drawing a figure does not load TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.callbacks import (
        CovarianceCallback as CovarianceCallback,
        CovariateShiftCallback as CovariateShiftCallback,
        CurvesCallback as CurvesCallback,
        DashboardCallback as DashboardCallback,
        GradientsCallback as GradientsCallback,
        JacobianCallback as JacobianCallback,
        LandscapeCallback as LandscapeCallback,
        PercentilesCallback as PercentilesCallback,
        watch as watch,
    )
    from analysis.inspection import inspect_model as inspect_model
    from analysis.measures.covariance import (
        covariance_spectrum as covariance_spectrum,
    )
    from analysis.measures.jacobian import (
        jacobian_singular_values as jacobian_singular_values,
        jacobian_spectrum as jacobian_spectrum,
    )
    from analysis.measures.percentiles import percentiles as percentiles
    from analysis.probes import Probe as Probe
    from analysis.schedules import every as every, logarithmic as logarithmic
    from analysis.spans import Span as Span
    from analysis.summaries import Writer as Writer

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
    "Writer": "analysis.summaries",
    "covariance_spectrum": "analysis.measures.covariance",
    "every": "analysis.schedules",
    "inspect_model": "analysis.inspection",
    "jacobian_singular_values": "analysis.measures.jacobian",
    "jacobian_spectrum": "analysis.measures.jacobian",
    "logarithmic": "analysis.schedules",
    "percentiles": "analysis.measures.percentiles",
    "watch": "analysis.callbacks",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    # A submodule may have the same name: return the function, not the module.
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
