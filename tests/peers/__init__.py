# SPDX-License-Identifier: Apache-2.0
"""Keras' own tests, run against our layer."""
