# SPDX-License-Identifier: Apache-2.0
"""One file per figure or table of the paper: table in, matplotlib out."""
