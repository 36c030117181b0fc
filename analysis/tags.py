# SPDX-License-Identifier: Apache-2.0
"""The grammar of tags, which are the names of curves in event files.

A tag is `<measure>/<layer>/<statistic>`, with whatever the measure depends on
(mode, unit) between layer and statistic:

    percentiles/<layer>/p15                 all units of the layer pooled
    percentiles/<layer>/unit<i>/p15         one unit
    percentiles/<layer>/mean, std, skewness all units pooled
    percentiles/<layer>/saturated, dead     shares of values and of units
    percentiles/<layer>/histogram           of all units pooled, if asked for
    jacobian/<layer>/<mode>/s1 ... s<k>     mean over the probe's examples
    jacobian/<layer>/<mode>/mean_square     mean of s^2, likewise
    jacobian/<layer>/<mode>/condition_number, isometry_distance
                                            median, mean over the examples
    jacobian/<layer>/<mode>/spectrum        histogram of all of them
    covariance/<layer>/condition_number, whitening_distance, directions
    covariance/<layer>/log10_spectrum       log of eigenvalues above rounding
    gradients/<layer>/norm
    weights/<layer>/norm, growth, update_ratio
    covariate_shift/<layer>/cosine, distance, mean_drift, std_drift
    landscape/network/loss, loss_low, loss_high, gradient_change, smoothness
    missing/<measure>/<layer>               text: what was not measured, why
    loss, accuracy                          in train/ and validation/
"""

from typing import NamedTuple

#: In place of a layer's name: the curves of all layers, in charts.
EVERY_LAYER = "*"


class Tag(NamedTuple):
    """A tag in its parts.

    Attributes:
        measure: What was measured.
        layer: The layer; empty if there is none.
        condition: The mode or unit, if the measure depends on it.
        statistic: The statistic; empty if there is no layer.
    """

    measure: str
    layer: str
    condition: str
    statistic: str


def tag(measure: str, layer: str, *rest: str) -> str:
    """The tag of one curve."""
    every = layer == EVERY_LAYER
    return "/".join([measure, layer if every else in_tag(layer), *rest])


def parts(name: str) -> Tag:
    """The parts of a tag."""
    measure, _, rest = name.partition("/")
    layer, *others = rest.split("/")
    return Tag(measure, layer, "/".join(others[:-1]), "".join(others[-1:]))


def in_tag(layer: str) -> str:
    """A layer's name as tags have it: without slashes and `EVERY_LAYER`."""
    return layer.replace("/", "_").replace(EVERY_LAYER, "_")


def percentile_name(q: float) -> str:
    """`p15` for 15, `p2.5` for 2.5."""
    return f"p{q:g}"


def natural(layer: str) -> tuple[str, int]:
    """Key that sorts layers by their numbers: hidden10 after hidden9."""
    digits = layer[len(layer.rstrip("0123456789")) :]
    return layer.removesuffix(digits), int(digits or 0)
