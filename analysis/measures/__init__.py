# SPDX-License-Identifier: Apache-2.0
"""Measures: arrays or functions in, arrays out."""
