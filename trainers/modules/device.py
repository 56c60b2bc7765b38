# SPDX-License-Identifier: Apache-2.0
"""Between NumPy arrays and tensors on a device: everything in `trainers` that crosses does so here.

Text, targets and results are NumPy arrays; networks, losses and optimisers are tensors on the device of a
network's parameters. No tensor is made on torch's default device (tests/trainers/test_device.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

CPU = torch.device("cpu")


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's parameters. Raises ValueError if they lie on several devices, or there are none."""
    devices = {parameter.device for parameter in module.parameters()}
    if len(devices) != 1:
        found = ", ".join(sorted(map(str, devices))) or "none"
        raise ValueError(f"all parameters of a network must lie on one device, got {found}; move it with .to(device)")
    return devices.pop()


def to_tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array's values as a tensor on the device; on the CPU it shares the array's memory."""
    return torch.from_numpy(np.asarray(array)).to(device)


def to_array(tensor: Tensor) -> NDArray[Any]:
    """The tensor's values as an array; a tensor on the CPU shares its memory."""
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array
