"""AdamW in groups: decay on matrices, none on vectors."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from cirilla_cli.engine.config import AdamW8bitConfig, AdamWConfig


def groups(parameters: Iterable[nn.Parameter], config: AdamWConfig | AdamW8bitConfig) -> list[dict[str, Any]]:
    """Matrices with weight decay and vectors without; each group remembers its peak rate."""
    every = list(parameters)
    shared = {"lr": config.lr, "peak_lr": config.lr, "betas": (config.beta1, config.beta2), "eps": config.eps}
    matrices = {"params": [p for p in every if p.ndim >= 2], "weight_decay": config.weight_decay, **shared}
    vectors = {"params": [p for p in every if p.ndim < 2], "weight_decay": 0.0, **shared}
    return [group for group in (matrices, vectors) if group["params"]]


def adamw(config: AdamWConfig, model: nn.Module) -> torch.optim.Optimizer:
    """PyTorch's fused AdamW over all parameters (Loshchilov and Hutter, 2017, arXiv:1711.05101, algorithm 2)."""
    return torch.optim.AdamW(groups(model.parameters(), config), fused=True)
