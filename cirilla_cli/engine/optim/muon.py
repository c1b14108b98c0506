"""Muon for the matrices inside the blocks, batched over equal shapes; AdamW for all else in one optimizer."""

# Shape suffixes: G matrices of one shape, M rows, N columns, K of them side by side in one batch.

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw as adamw_update

from cirilla_cli.compat import has_fast_bfloat16
from cirilla_cli.engine.config import MuonConfig
from cirilla_cli.engine.optim.adamw import groups
from cirilla_cli.engine.optim.spread import local, of_whole
from cirilla_cli.model.block import Block
from cirilla_cli.model.mtp import Step
from cirilla_cli.model.parts import Fused

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Quintic Newton-Schulz iteration that pushes singular values towards one fast (Jordan et al., 2024)."""

_LARGE = 256
"""Least side of a matrix that is orthogonalised in bfloat16 on a CPU (benchmarks/profile_step.py muon)."""

Rows = tuple[int, ...]
"""Of the matrices that stand one above the other in a parameter."""


def orthogonalise(gradients_GMN: Tensor, steps: int) -> Tensor:
    """The nearest semi-orthogonal matrix of each gradient, about: singular values end between 0.7 and 1.2.

    Runs in bfloat16 where that is faster, else in the gradients' own precision; float64 stays what it is on a CPU.
    """
    a, b, c = _COEFFICIENTS
    x = gradients_GMN.bfloat16() if _in_bfloat16(gradients_GMN) else gradients_GMN
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    out: Tensor = (x.mT if tall else x).to(gradients_GMN.dtype)
    return out


def _in_bfloat16(gradients_GMN: Tensor) -> bool:
    """On CUDA; and on processors that multiply bfloat16, once matrices are so large that products take the time."""
    if gradients_GMN.is_cuda:
        return True
    large = min(gradients_GMN.shape[-2:]) >= _LARGE and gradients_GMN.dtype == torch.float32
    return large and has_fast_bfloat16(gradients_GMN.device)


def updates_of(gradients_GMN: Tensor, rows: Rows, steps: int) -> Tensor:
    """What is to be taken off, at a rate of one, for matrices of ``rows`` rows each that stand one above the other.

    Each is orthogonalised by itself, those of one shape in one batch, and scaled by sqrt(max(1, rows / columns)).
    """
    if not gradients_GMN.numel():
        return gradients_GMN
    parts = list(torch.split(gradients_GMN, list(rows), dim=-2))
    for size in set(rows):
        alike = [i for i, n in enumerate(rows) if n == size]
        made_KGMN = orthogonalise(torch.stack([parts[i] for i in alike]), steps)
        made_KGMN *= max(1.0, size / gradients_GMN.shape[-1]) ** 0.5
        for i, made_GMN in zip(alike, made_KGMN.unbind(), strict=True):
            parts[i] = made_GMN
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for groups marked ``muon`` (Jordan et al., 2024); AdamW for the others.

    The same update as `torch.optim.Muon` with ``adjust_lr_fn="original"``: Nesterov over an average of gradients, rate
    times sqrt(max(1, rows / columns)), decay by the unadjusted rate. Where a parameter holds several matrices, each is
    updated as if it were alone.

    Args:
        hidden: parameters ``[..., M, N]``, with the rows of the matrices that stand one above the other in each.
        rest: groups for AdamW.
    """

    def __init__(
        self, hidden: Sequence[tuple[nn.Parameter, Rows]], rest: list[dict[str, Any]], config: MuonConfig
    ) -> None:
        muon = {
            "params": [p for p, _ in hidden], "muon": True, "lr": config.lr, "peak_lr": config.lr,
            "momentum": config.momentum, "ns_steps": config.ns_steps, "weight_decay": config.weight_decay,
        }  # fmt: skip
        super().__init__([muon, *({**group, "muon": False} for group in rest)], {})
        self._rows = {id(p): rows for p, rows in hidden}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            if group["muon"]:
                self._muon(group)
            else:
                self._adamw(group)

    def _muon(self, group: dict[str, Any]) -> None:
        alike: dict[tuple[torch.Size, Rows], list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                alike[parameter.shape, self._rows[id(parameter)]].append(parameter)
        for (shape, rows), parameters in alike.items():
            work = partial(updates_of, rows=rows, steps=group["ns_steps"])
            momenta, own = [self._momentum(p, group) for p in parameters], [local(p) for p in parameters]
            # A stack is a batch already, and is spread over processes by whole matrices.
            updates = of_whole(work, momenta, parameters) if len(shape) == 2 else [work(m) for m in momenta]
            torch._foreach_mul_(own, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(own, list(updates), alpha=-group["lr"])

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


def hidden_matrices(model: nn.Module) -> dict[int, Rows]:
    """The parameters that map hidden states to hidden states, by identity, with the rows of the matrices in each.

    Weights of linear layers inside blocks and steps ahead, and what modules declare to hold several (`Fused`). Routers
    and convolutions are not among them, nor is what lies outside, such as embeddings and head.
    """
    inside = [m for part in model.modules() if isinstance(part, Block | Step) for m in part.modules()]
    found: dict[int, Rows] = {id(m.weight): (m.out_features,) for m in inside if isinstance(m, nn.Linear)}
    for module in model.modules():
        if isinstance(module, Fused):
            named = module.matrices().items()
            found |= {id(module.get_parameter(name)): tuple(rows) for name, rows in named}
    return found


def muon(config: MuonConfig, model: nn.Module) -> Muon:
    """Every parameter in exactly one group: hidden matrices to Muon, the rest to AdamW."""
    matrices = hidden_matrices(model)
    hidden = [(p, matrices[id(p)]) for p in model.parameters() if id(p) in matrices]
    return Muon(hidden, groups([p for p in model.parameters() if id(p) not in matrices], config.adamw), config)
