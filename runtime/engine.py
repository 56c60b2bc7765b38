# SPDX-License-Identifier: Apache-2.0
"""The native engine: eight-bit weights, block-sparse and mixture-of-experts students, no padding.

The work is done by `runtime._native` (see runtime/native). A sentence gives the same vector, bit for bit, in whatever
batch and with however many threads it is embedded; between instruction sets vectors differ by rounding.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from runtime.folder import check_weights
from runtime.layers import Array, BooleanArray, TokenIds
from runtime.tokenizer import SentenceTokenizer
from spaces.errors import UserError
from spaces.student import Activation, Dense, EncoderSpec, Pooling, Projection, StudentSpec, Switch

try:
    from runtime import _native
except ImportError as error:  # the sources without their build
    _MISSING: ImportError | None = error
else:
    _MISSING = None

INSTRUCTION_SET = "UNDERSTUDY_INSTRUCTION_SET"
"""The environment variable that forces an instruction set."""

_ACTIVATIONS = {Activation.GELU: 1, Activation.GELU_TANH: 2, Activation.RELU: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionSet:
    """Kernels that were built, and whether this machine can run them."""

    name: str
    """Name, as `UNDERSTUDY_INSTRUCTION_SET` accepts it."""
    usable: bool
    """Whether the processor and the operating system support it."""
    reason: str
    """Why it is usable, or what is missing."""


def is_built() -> bool:
    """Whether the native module is built; `pip install` builds it."""
    return _MISSING is None


def native_module() -> Path | None:
    """The file of the built engine; None if it is not built."""
    return None if _MISSING is not None else Path(_native.__file__)


def instruction_sets() -> tuple[InstructionSet, ...]:
    """The instruction sets that were built, fastest first; the first usable one is the default."""
    if _MISSING is not None:
        return ()
    return tuple(
        InstructionSet(name=name, usable=usable, reason=reason) for name, usable, reason in _native.instruction_sets()
    )


def engine_identity() -> str:
    """A key for caches of vectors and latencies: the engine's build and the instruction set that new engines take.

    It reads like `9f86d081884c7d65-avx512_vnni`. The build is a hash of the native sources, the compiler and its flags,
    so equal identities give the same vectors, bit for bit, and on one machine the same latencies but for noise. The
    instruction set is that of `UNDERSTUDY_INSTRUCTION_SET` or else the fastest; each call reads the variable again.
    Raises ValueError for an instruction set that is unknown or cannot be used here, RuntimeError if the engine is not
    built.
    """
    _require_build()
    return f"{_native.build_id()}-{_native.choose_instruction_set(os.environ.get(INSTRUCTION_SET, ''))}"


def _require_build() -> None:
    if _MISSING is not None:
        raise RuntimeError(
            f"the native engine is not built ({_MISSING}); install the package with pip and a C++ compiler"
        )


class Engine:
    """A student on the native engine; thread-safe."""

    def __init__(
        self,
        spec: StudentSpec,
        weights: Mapping[str, NDArray[np.float32]],
        *,
        tokenizer: SentenceTokenizer | None = None,
        are_checked: bool = False,
        instruction_set: str | None = None,
    ) -> None:
        """`weights` are the spec's tensors (see `runtime.folder`); without a tokenizer `encode` does not work.
        Those that `read_folder` returns are checked already.

        `instruction_set` None takes `UNDERSTUDY_INSTRUCTION_SET` or else the fastest. Raises ValueError for one that
        is unknown or cannot be used here, and for weights that are not the spec's.
        """
        _require_build()
        if not are_checked:
            check_weights(spec, weights, origin="weights")
        if tokenizer is not None:
            tokenizer.check_fits(spec)
        self.spec = spec
        self.tokenizer = tokenizer
        if instruction_set is None:
            instruction_set = os.environ.get(INSTRUCTION_SET, "")
        arrays = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in weights.items()}
        try:
            self._student = _native.Student(_shape(spec), arrays, instruction_set)
        except ValueError as error:  # an instruction set or weights that it cannot use
            raise UserError(str(error)) from error

    @property
    def instruction_set(self) -> str:
        """Name of the instruction set that it uses."""
        return self._student.instruction_set

    @property
    def n_bytes(self) -> int:
        """Bytes of packed weights."""
        return self._student.n_bytes

    @property
    def n_sparse_matrices(self) -> int:
        """Number of matrices whose zero blocks are skipped."""
        return self._student.n_sparse

    def encode(self, sentences: Sequence[str], *, batch_size: int = 256, n_threads: int = 1) -> Array:
        """One vector per sentence, in order: [n, output_dim]; an empty list gives [0, output_dim].

        `batch_size` sentences are tokenised and embedded at a time; it bounds memory and changes no vector.
        """
        if self.tokenizer is None:
            raise ValueError("this engine has no tokenizer; load a student folder, or call embed with token ids")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        vectors = np.empty((len(sentences), self.spec.output_dim), dtype=np.float32)
        for start in range(0, len(sentences), batch_size):
            token_ids = self.tokenizer.encode(sentences[start : start + batch_size])
            vectors[start : start + len(token_ids)] = self.encode_token_ids(token_ids, n_threads=n_threads)
        return vectors

    def encode_token_ids(self, token_ids: Sequence[NDArray[np.int32]], *, n_threads: int = 1) -> Array:
        """One vector per sentence of token ids, special tokens included, in order: [n, output_dim].

        Raises ValueError as `embed` does.
        """
        offsets = np.zeros(len(token_ids) + 1, dtype=np.int64)
        np.cumsum([len(ids) for ids in token_ids], out=offsets[1:])
        end_to_end = np.concatenate(token_ids) if token_ids else np.zeros(0, np.int32)
        return self.embed(end_to_end, offsets, n_threads=n_threads)

    def embed(self, token_ids: TokenIds, offsets: TokenIds, *, n_threads: int = 1) -> Array:
        """Concatenated token ids [n_tokens], sentence i starting at offsets[i], offsets [n + 1] -> [n, output_dim].

        Raises ValueError for offsets that do not fit, ids outside the vocabulary, and more tokens than positions.
        The arrays must not change meanwhile.
        """
        _check_fits(token_ids, np.int32, name="token_ids")
        _check_fits(offsets, np.int64, name="offsets")
        vectors: Array = self._student.embed(
            np.ascontiguousarray(token_ids, dtype=np.int32), np.ascontiguousarray(offsets, dtype=np.int64), n_threads
        )
        return vectors

    def forward(self, token_ids: TokenIds, mask: BooleanArray | None = None, *, n_threads: int = 1) -> Array:
        """Token ids [batch, tokens] and mask [batch, tokens] (None: every token counts) -> vectors [batch, output_dim].

        The tokens that count stand first in each row, as tokenizers pad.
        """
        if mask is None:
            offsets = np.arange(token_ids.shape[0] + 1, dtype=np.int64) * token_ids.shape[1]
            return self.embed(token_ids.reshape(-1), offsets, n_threads=n_threads)
        lengths = mask.sum(axis=1)
        if not np.array_equal(mask, np.arange(mask.shape[1]) < lengths[:, None]):
            raise ValueError("the tokens that count must stand first in each row; pad at the right")
        return self.embed(token_ids[mask], np.concatenate([[0], np.cumsum(lengths)]), n_threads=n_threads)


def _check_fits(values: TokenIds, kind: type[np.int32] | type[np.int64], *, name: str) -> None:
    """Raise ValueError or TypeError if a conversion to the integer type would change a value."""
    if values.dtype == kind:
        return
    if values.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {values.dtype}")
    limits = np.iinfo(kind)
    if values.size and not (int(values.min()) >= limits.min and int(values.max()) <= limits.max):
        raise ValueError(f"{name} must fit {limits.bits} bits, got {values.min()} to {values.max()}")


def _shape(spec: StudentSpec) -> dict[str, int | float | bool]:
    shape: dict[str, int | float | bool] = {
        "vocabulary_size": spec.vocabulary_size,
        "output_dim": spec.output_dim,
        "normalise": spec.normalise,
        "static_path": spec.static is not None,
        "static_dim": 0 if spec.static is None else spec.static.embedding_dim or 0,
    }
    return shape | _encoder_shape(spec.encoder)


def _encoder_shape(encoder: EncoderSpec | None) -> dict[str, int | float | bool]:
    if encoder is None:
        names = ("n_layers", "width", "n_heads", "head_width", "units", "n_experts", "max_tokens", "embedding_dim")
        nothing = {"first_token_pooling": False, "projection": False, "tanh": False, "activation": 1}
        return dict.fromkeys(names, 0) | nothing | {"layer_norm_epsilon": 1e-12}
    match encoder.feed_forward:
        case Dense(units=units):
            n_experts = 0
        case Switch(n_experts=n_experts, units=units):
            pass
        case _:
            assert_never(encoder.feed_forward)
    return {
        "n_layers": encoder.n_layers,
        "width": encoder.width,
        "n_heads": encoder.n_heads,
        "head_width": encoder.head_width,
        "units": units,
        "n_experts": n_experts,
        "max_tokens": encoder.max_tokens,
        "embedding_dim": encoder.embedding_dim or 0,
        "first_token_pooling": encoder.pooling is Pooling.CLS,
        "projection": encoder.projection is not None,
        "tanh": encoder.projection is Projection.TANH,
        "activation": _ACTIVATIONS[encoder.activation],
        "layer_norm_epsilon": encoder.layer_norm_epsilon,
    }
