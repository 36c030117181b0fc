# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of our layer and its peers, interleaved in one process."""
