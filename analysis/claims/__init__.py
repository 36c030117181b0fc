# SPDX-License-Identifier: Apache-2.0
"""Every claim of the paper as something that runs: `CLAIMS`, in order.

python -m analysis.claims
"""
