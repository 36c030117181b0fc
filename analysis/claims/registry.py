# SPDX-License-Identifier: Apache-2.0
"""All claims, in the order of their numbers."""

from analysis.claims import (
    covariate_shift,
    dropout_and_initialisation,
    exploding_bias,
    faster_training,
    feature_maps,
    full_gradient,
    hand_written_gradients,
    identity,
    singular_values,
    tied_to_statistics,
    train_freeze_fold,
    unbiased_variance,
    unequal_gradients,
    useless_bias,
    weight_scale,
    whitening,
    z_score,
)

CLAIMS = {
    claim.number: claim
    for claim in (
        z_score.CLAIM,
        identity.CLAIM,
        useless_bias.CLAIM,
        unequal_gradients.CLAIM,
        full_gradient.CLAIM,
        exploding_bias.CLAIM,
        hand_written_gradients.CLAIM,
        unbiased_variance.CLAIM,
        train_freeze_fold.CLAIM,
        tied_to_statistics.CLAIM,
        feature_maps.CLAIM,
        weight_scale.CLAIM,
        singular_values.CLAIM,
        whitening.CLAIM,
        covariate_shift.CLAIM,
        faster_training.CLAIM,
        dropout_and_initialisation.CLAIM,
    )
}
