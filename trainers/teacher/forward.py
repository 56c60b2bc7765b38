# SPDX-License-Identifier: Apache-2.0
"""The teacher run over a text for its cache: rectangular batches of like length, one per CPU at a time.

Each CPU runs whole batches on one thread. Dividing every operation among the CPUs instead makes them wait for each
other hundreds of times a batch, which on a busy machine costs most of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray

from spaces.errors import UserError
from spaces.recipe import Precision
from trainers.modules.device import to_array, to_tensor
from trainers.modules.side_by_side import n_cpus
from trainers.teacher.load import Teacher
from trainers.text.batches import Batch, cut_by_tokens, make_batch, token_rows

BATCH_TOKENS = 2048  # larger batches leave the cores' caches, smaller ones the matrix units idle

Array = NDArray[np.float16]


class TeacherForward:
    """A teacher ready to run, as a context: inside it torch computes with one thread per batch.

    In bfloat16 a sentence vector's cosine to float32's is above 0.9998 (tests/trainers/teacher/test_cache.py);
    products, norms and softmax accumulate in float32 all the same.
    """

    def __init__(self, teacher: Teacher, *, precision: Precision, device: torch.device) -> None:
        dtype = torch.bfloat16 if precision is Precision.BFLOAT16 else torch.float32
        self._student = teacher.student(device=device).to(dtype).eval()
        self._device = device
        encoder = teacher.spec.encoder
        assert encoder is not None, "a teacher has layers"
        self._output_dim = teacher.spec.output_dim
        self._width, self._attention_width = encoder.width, encoder.attention_width

    def __enter__(self) -> TeacherForward:
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)  # of each of the pool's threads, which are started after this
        self._pool = ThreadPoolExecutor(n_cpus())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads)

    def run(
        self,
        tokens: NDArray[np.int32],
        offsets: NDArray[np.int64],
        sentences: slice,
        *,
        needs_relations: bool,
        needs_hidden: bool,
        advance: Callable[[int], None],
    ) -> dict[str, Array]:
        """The outputs for some sentences of a text: one row per sentence or token, in the text's order.

        `advance` is told how many of the sentences are done. Raises ValueError if an output is not finite in float16.
        """
        offsets = offsets[sentences.start : sentences.stop + 1]
        lengths, n_tokens = np.diff(offsets), int(offsets[-1] - offsets[0])
        rows = {"embeddings": (len(lengths), self._output_dim)}
        if needs_relations:
            rows |= dict.fromkeys(("queries", "keys", "values"), (n_tokens, self._attention_width))
        if needs_hidden:
            rows["hidden"] = (n_tokens, self._width)
        outputs = {name: np.empty(shape, dtype=np.float16) for name, shape in rows.items()}

        def run_batch(chosen: NDArray[np.int64]) -> int:
            batch = make_batch(chosen, tokens, offsets)
            self._run_batch(batch, token_rows(batch, offsets) - offsets[0], outputs)
            return len(chosen)

        order = np.argsort(lengths, kind="stable")
        futures = [
            self._pool.submit(run_batch, chosen) for chosen in cut_by_tokens(order, lengths, batch_tokens=BATCH_TOKENS)
        ]
        done = 0
        for future in as_completed(futures):
            done += future.result()
            advance(done)
        for name, array in outputs.items():
            if not np.isfinite(array).all():
                raise UserError(
                    f"a teacher's outputs must be finite in float16, and its {name} are not; choose another teacher, "
                    "or leave out the losses that need them"
                )
        return outputs

    def _run_batch(self, batch: Batch, positions: NDArray[np.int64], outputs: dict[str, Array]) -> None:
        with torch.inference_mode():
            mask = None if batch.mask is None else to_tensor(batch.mask, self._device)
            output = self._student(to_tensor(batch.token_ids, self._device), mask)
            outputs["embeddings"][batch.sentences] = to_array(output.embeddings.to(torch.float16))
            kept = slice(None) if batch.mask is None else batch.mask
            if "queries" in outputs:
                assert output.qkv is not None
                for name, part in zip(("queries", "keys", "values"), output.qkv.chunk(3, dim=-1), strict=True):
                    outputs[name][positions[kept]] = to_array(part.to(torch.float16))[kept]
            if "hidden" in outputs:
                assert output.hidden is not None
                outputs["hidden"][positions[kept]] = to_array(output.hidden.to(torch.float16))[kept]
