# SPDX-License-Identifier: Apache-2.0
"""What is measured of a student: fidelity and latency, and how latency is predicted."""
