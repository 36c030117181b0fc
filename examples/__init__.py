# SPDX-License-Identifier: Apache-2.0
"""Whole tasks from end to end, each in one file to read from top to bottom."""
