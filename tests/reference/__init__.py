# SPDX-License-Identifier: Apache-2.0
"""Slow float64 oracles."""
