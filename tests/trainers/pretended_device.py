# SPDX-License-Identifier: Apache-2.0
"""A second device on a machine that has none: tensors that say they are elsewhere, and compute on the CPU.

Torch's `meta` device lends its name. A tensor on it holds a tensor on the CPU, so results are real; but, as on a GPU,
an operation that mixes tensors of both devices is an error, and a tensor must be brought back before NumPy reads it.
While the device is in use, a network that runs on the CPU is an error, too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

ELSEWHERE = torch.device("meta")
_ATEN = torch.ops.aten
_COPIES = (_ATEN.copy_.default, _ATEN._to_copy.default)  # what may see two devices
_PARTS = (  # of a network
    *(_ATEN.mm, _ATEN.addmm, _ATEN.bmm, _ATEN.matmul, _ATEN.linear, _ATEN.layer_norm, _ATEN.native_layer_norm),
    *(_ATEN.embedding, _ATEN.embedding_bag, _ATEN._embedding_bag, _ATEN._embedding_bag_forward_only),
)


class Elsewhere(torch.Tensor):
    """A tensor that is not on the CPU, says torch; `inner` is, and has its values."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Elsewhere:
        """A tensor of the same shape, strides and type."""
        tensor: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=ELSEWHERE,
        )
        tensor.inner = inner
        return tensor

    def __repr__(self, **_: Any) -> str:
        """For messages of failed tests."""
        return f"Elsewhere({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation, on the CPU."""
        with torch.inference_mode(False), torch._C._AutoDispatchBelowAutograd():  # an inference tensor is no view
            return _run(function, args, kwargs or {})


class PretendedDevice(TorchDispatchMode):
    """While it lasts, the thread that entered it has the device `ELSEWHERE`."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation, on the CPU."""
        with torch.inference_mode(False), torch._C._AutoDispatchBelowAutograd():  # an inference tensor is no view
            return _run(function, args, kwargs or {})


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    pretended = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
    strangers = [tensor for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.dim() > 0]
    if pretended and strangers and function not in _COPIES:
        raise RuntimeError(f"{function}: tensors must be on one device, got {ELSEWHERE} and {strangers[0].device}")
    if not pretended and function.overloadpacket in _PARTS:
        raise RuntimeError(f"{function}: a network must run on {ELSEWHERE}, got one on the CPU")
    target = kwargs.get("device")
    goes_elsewhere = bool(pretended) if target is None else torch.device(target) == ELSEWHERE
    if function is _ATEN.copy_.default:
        goes_elsewhere = isinstance(args[0], Elsewhere)
    inner_args, inner_kwargs = tree_map(_inner, args), tree_map(_inner, kwargs)
    if target is not None:
        inner_kwargs["device"] = torch.device("cpu")
    result = function(*inner_args, **inner_kwargs)
    if not goes_elsewhere:
        return result
    result = tree_map(lambda value: Elsewhere(value) if isinstance(value, torch.Tensor) else value, result)
    return return_and_correct_aliasing(function, args, kwargs, result) if pretended else result


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, Elsewhere) else value
