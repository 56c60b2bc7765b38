# SPDX-License-Identifier: Apache-2.0
"""What worker processes and Ray itself need: the cluster, memory limits, heartbeats, retries."""
