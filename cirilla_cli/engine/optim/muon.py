"""Muon for attention's and feed-forwards' matrices, batched over equal shapes; AdamW for all else in one optimizer."""

# Shape suffixes: G matrices of one shape, M rows, N columns.

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw as adamw_update

from cirilla_cli.engine.config import MuonConfig
from cirilla_cli.engine.optim.adamw import groups
from cirilla_cli.engine.optim.spread import local, of_whole

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Quintic Newton-Schulz iteration that pushes singular values towards one fast (Jordan et al., 2024)."""

_HIDDEN, _ROUTER = {"self_attn", "mlp"}, "gate"


def orthogonalise(gradients_GMN: Tensor, steps: int) -> Tensor:
    """The nearest semi-orthogonal matrix of each gradient, about: singular values end between 0.7 and 1.2.

    Runs in bfloat16 on CUDA; elsewhere in the gradients' own precision, which costs little next to the backward pass
    and is fast on processors without bfloat16 products.
    """
    a, b, c = _COEFFICIENTS
    x = gradients_GMN.bfloat16() if gradients_GMN.is_cuda else gradients_GMN
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    out: Tensor = (x.mT if tall else x).to(gradients_GMN.dtype)
    return out


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for groups marked ``muon`` (Jordan et al., 2024); AdamW for the others.

    The same update as `torch.optim.Muon` with ``adjust_lr_fn="original"``: Nesterov over an average of gradients, rate
    times sqrt(max(1, rows / columns)), decay by the unadjusted rate.
    """

    def __init__(self, hidden: list[nn.Parameter], rest: list[dict[str, Any]], config: MuonConfig) -> None:
        muon = {
            "params": hidden, "muon": True, "lr": config.lr, "peak_lr": config.lr, "momentum": config.momentum,
            "ns_steps": config.ns_steps, "weight_decay": config.weight_decay,
        }  # fmt: skip
        super().__init__([muon, *({**group, "muon": False} for group in rest)], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            if group["muon"]:
                self._muon(group)
            else:
                self._adamw(group)

    def _muon(self, group: dict[str, Any]) -> None:
        shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                shapes[parameter.shape].append(parameter)
        for shape, parameters in shapes.items():
            momenta = [self._momentum(p, group) for p in parameters]
            updates = of_whole(lambda g_GMN: orthogonalise(g_GMN, group["ns_steps"]), momenta, parameters)
            rate, own = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5, [local(p) for p in parameters]
            torch._foreach_mul_(own, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(own, list(updates), alpha=-rate)

    def _momentum(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """What is to be orthogonalised: all of it, or its rows in this process."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum, gradient = local(state["momentum"]), local(parameter.grad)
        momentum.lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(momentum, group["momentum"])

    def _adamw(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter].update(
                    exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter), step=torch.tensor(0.0)
                )
        states = [self.state[p] for p in parameters]
        beta1, beta2 = group["betas"]
        adamw_update(
            [local(p) for p in parameters], [local(p.grad) for p in parameters if p.grad is not None],
            [local(s["exp_avg"]) for s in states], [local(s["exp_avg_sq"]) for s in states], [],
            [s["step"] for s in states], foreach=True, amsgrad=False,
            beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
            maximize=False,
        )  # fmt: skip


def muon(config: MuonConfig, model: nn.Module) -> Muon:
    """Every parameter in exactly one group: attention's and feed-forwards' matrices to Muon, the rest to AdamW.

    The rest are also stacked experts, routers, and the matrices of recurrent mixers.
    """
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        parts = set(name.split("."))
        is_hidden = parameter.ndim == 2 and bool(_HIDDEN & parts) and _ROUTER not in parts
        (hidden if is_hidden else rest).append(parameter)
    return Muon(hidden, groups(rest, config.adamw), config)
