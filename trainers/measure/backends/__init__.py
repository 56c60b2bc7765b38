# SPDX-License-Identifier: Apache-2.0
"""The runtimes whose latency is measured, each behind one Protocol."""
