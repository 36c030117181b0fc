# SPDX-License-Identifier: Apache-2.0
"""The TensorFlow part of the analysis: derivatives and captured tensors."""

from analysis.autodiff.derivatives import (
    Products as Products,
    batch_jacobian as batch_jacobian,
    jacobian as jacobian,
    result_dtype as result_dtype,
    tensor as tensor,
)
from analysis.autodiff.listening import (
    Call as Call,
    Place as Place,
    arrays as arrays,
    capture as capture,
    spanning as spanning,
    trace as trace,
)
from analysis.autodiff.loss import (
    loss_and_gradients as loss_and_gradients,
    slopes as slopes,
)
