# SPDX-License-Identifier: Apache-2.0
"""Ours against its peers, interleaved in one process."""
