# SPDX-License-Identifier: Apache-2.0
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

def instruction_sets() -> list[tuple[str, bool, str]]: ...

class Student:
    def __init__(
        self,
        shape: Mapping[str, int | float | bool],
        tensors: Mapping[str, NDArray[np.float32]],
        instruction_set: str = "",
    ) -> None: ...
    def embed(
        self, token_ids: NDArray[np.int32], offsets: NDArray[np.int64], n_threads: int = 1
    ) -> NDArray[np.float32]: ...
    @property
    def instruction_set(self) -> str: ...
    @property
    def n_bytes(self) -> int: ...
    @property
    def n_sparse(self) -> int: ...
