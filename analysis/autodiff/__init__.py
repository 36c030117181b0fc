# SPDX-License-Identifier: Apache-2.0
"""What needs TensorFlow in the microscope: derivatives and captured tensors."""

from analysis.autodiff.derivatives import Products as Products
from analysis.autodiff.derivatives import batch_jacobian as batch_jacobian
from analysis.autodiff.derivatives import jacobian as jacobian
from analysis.autodiff.derivatives import tensor as tensor
from analysis.autodiff.listening import Call as Call
from analysis.autodiff.listening import Place as Place
from analysis.autodiff.listening import arrays as arrays
from analysis.autodiff.listening import capture as capture
from analysis.autodiff.listening import spanning as spanning
from analysis.autodiff.listening import trace as trace
from analysis.autodiff.loss import loss_and_gradients as loss_and_gradients
from analysis.autodiff.loss import slopes as slopes
