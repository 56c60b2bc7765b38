# SPDX-License-Identifier: Apache-2.0
"""The store on disk: folders, locks, atomic files, disk space."""
