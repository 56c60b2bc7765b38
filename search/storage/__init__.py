# SPDX-License-Identifier: Apache-2.0
"""The store on disk: its folders, locks, study state and error files, and the check of free disk space."""
