# SPDX-License-Identifier: Apache-2.0
"""The type checker that jaxtyping puts around the functions of `runtime` and `trainers` while tests run."""

from __future__ import annotations

from typing import IO

from beartype import BeartypeConf, FrozenDict, beartype

# beartype judges files by their mode's letters, and a gzip file's mode is a number.
check = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({IO[bytes]: object})))
