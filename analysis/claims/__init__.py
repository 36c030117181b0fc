# SPDX-License-Identifier: Apache-2.0
"""Every claim of the paper as something that runs, one file each.

python -m analysis.claims
"""
