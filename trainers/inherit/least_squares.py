# SPDX-License-Identifier: Apache-2.0
"""Refits in closed form: a linear layer or a layer norm's gain, from calibration rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

RIDGE = 0.2  # of the mean square of an input column: how strongly a refit stays with the inherited weights


def refit(
    linear: nn.Linear,
    inputs: Float[Tensor, "rows inputs"],
    targets: Float[Tensor, "rows outputs"],
    *,
    scale: Float[Tensor, "rows 1"] | None = None,
    ridge: float,
) -> None:
    """Move a linear layer, in place, to the ridge regression of targets on inputs, centred on its present weights.

    With `scale`, each row's output counts times its scale (a router's gate).
    """
    design = torch.cat([inputs, torch.ones(len(inputs), 1, device=inputs.device)], dim=1)
    if scale is not None:
        design = design * scale
    weights = torch.cat([linear.weight, linear.bias[:, None]], dim=1)
    residual = targets - design @ weights.T
    with float32_products("medium"):  # sums over thousands of rows: the ridge is far above their rounding
        gram, moments = (design.T @ design).double(), (design.T @ residual).double()
    gram.diagonal().add_(ridge * gram.diagonal().mean() + 1e-8)
    change = torch.cholesky_solve(moments, torch.linalg.cholesky(gram)).to(weights.dtype)
    weights = weights + change.T
    linear.weight.copy_(weights[:, :-1])
    linear.bias.copy_(weights[:, -1])


def fit_gain(norm: nn.LayerNorm, inputs: Float[Tensor, "rows width"], targets: Float[Tensor, "rows width"]) -> None:
    """Set a layer norm's gain and bias, in place, to the regression of each target column on the normalised one."""
    normalised = torch.nn.functional.layer_norm(inputs, norm.normalized_shape, eps=norm.eps)
    mean, target_mean = normalised.mean(dim=0), targets.mean(dim=0)
    covariance = ((normalised - mean) * (targets - target_mean)).mean(dim=0)
    gain = covariance / (normalised.var(dim=0, unbiased=False) + 1e-6)
    norm.weight.copy_(gain)
    norm.bias.copy_(target_mean - gain * mean)


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Within the block float32 matrix products are computed at torch's `medium` or `highest` precision.

    Medium is three times as fast on a CPU with bfloat16 units: enough to rank heads and units and to refit, not for
    what is copied.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
