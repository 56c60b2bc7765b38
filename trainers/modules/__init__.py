# SPDX-License-Identifier: Apache-2.0
"""The parts of a student network; they take plain arguments, only `trainers.modules.build` sees a spec."""
