# SPDX-License-Identifier: Apache-2.0
"""The measures as Keras callbacks, one file each, and ready-made sets."""

from analysis.callbacks.covariance import (
    CovarianceCallback as CovarianceCallback,
)
from analysis.callbacks.covariate_shift import (
    CovariateShiftCallback as CovariateShiftCallback,
)
from analysis.callbacks.curves import CurvesCallback as CurvesCallback
from analysis.callbacks.dashboard import DashboardCallback as DashboardCallback
from analysis.callbacks.gradients import GradientsCallback as GradientsCallback
from analysis.callbacks.jacobian import JacobianCallback as JacobianCallback
from analysis.callbacks.landscape import LandscapeCallback as LandscapeCallback
from analysis.callbacks.percentiles import (
    PercentilesCallback as PercentilesCallback,
)
from analysis.callbacks.sets import (
    PRESETS as PRESETS,
    for_run as for_run,
    watch as watch,
)
