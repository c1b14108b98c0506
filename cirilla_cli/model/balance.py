"""Losses that keep experts equally busy; each is least, 1 or 0 a row, where all are chosen equally often."""

# Shape suffixes: B rows, T positions, K experts of one token, E experts.

from typing import NamedTuple

import torch
from torch import Tensor

from cirilla_cli.model.parts import Tally
from cirilla_cli.model.routers import Routing
from cirilla_cli.model.routing import (
    BalanceSection,
    BatchBalanceConfig,
    ImportanceBalanceConfig,
    SequenceBalanceConfig,
)


class Shares(NamedTuple):
    """What balance losses are made of; padding and registers, which are no tokens, count nowhere."""

    chosen_BE: Tensor
    """How often each expert was chosen in a row."""
    probability_BE: Tensor
    """Sum over a row of each expert's probability."""
    tokens_B: Tensor
    """Positions of a row that hold a token."""

    @classmethod
    def of(cls, routing: Routing, counted_BT: Tensor) -> "Shares":
        """The sums over the counted positions of each row."""
        B, T = counted_BT.shape
        real_BT1 = counted_BT.to(routing.logits_ME.dtype)[..., None]
        probability_BE = (routing.probabilities_ME.view(B, T, -1) * real_BT1).sum(1)
        experts, real = routing.experts_MK.reshape(B, -1), real_BT1.expand(B, T, routing.experts_MK.shape[1])
        chosen_BE = torch.zeros_like(probability_BE).scatter_add(1, experts, real.reshape(B, -1))
        return cls(chosen_BE, probability_BE, real_BT1.sum((1, 2)))


def tell(tally: Tally, config: BalanceSection, shares: Shares, top_k: int) -> None:
    """Add a layer's balance loss."""
    match config:
        case SequenceBalanceConfig():
            tally.add("moe/balance", sequence_balance(shares, top_k), unit="rows", scale=config.weight)
        case ImportanceBalanceConfig():
            tally.add("moe/importance", importance(shares), unit="rows", scale=config.weight)
        case BatchBalanceConfig():
            tally.add("moe/batch_balance", batch_balance(shares, top_k), unit="positions", scale=config.weight)


def sequence_balance(shares: Shares, top_k: int) -> Tensor:
    """Sum over rows of E sum_e f_e P_e (DeepSeek-AI, 2024, arXiv:2412.19437, equations 17 to 20), ``[]``.

    f_e is the share of a row's choices that fell on expert e, P_e its mean probability: 1 if both are uniform.
    """
    tokens = shares.tokens_B.clamp(min=1)[:, None]
    return shares.chosen_BE.shape[1] * (shares.chosen_BE / (top_k * tokens) * shares.probability_BE / tokens).sum()


def importance(shares: Shares) -> Tensor:
    """Sum over rows of log E - H(P), the divergence of the mean probabilities from uniform, ``[]``.

    In place of the squared variation of the mean gates (Shazeer et al., 2017, arXiv:1701.06538, equation 7); of all
    probabilities, not of the chosen ones alone, so that experts that are never chosen are pulled up too.
    """
    mean_BE = shares.probability_BE / shares.tokens_B.clamp(min=1)[:, None]
    # Of a row of padding nothing is left, and it must not give minus infinity.
    return (mean_BE * (mean_BE.clamp(min=1e-30) * mean_BE.shape[1]).log()).sum()


def batch_balance(shares: Shares, top_k: int) -> Tensor:
    """Tokens times E sum_e f_e P_e over all rows (Fedus et al., 2021, arXiv:2101.03961, equations 4 to 6), ``[]``.

    Divided by the step's positions it is the mean of the micro-batches' losses, so it depends on their cut.
    """
    chosen_E, probability_E = shares.chosen_BE.sum(0), shares.probability_BE.sum(0)
    tokens = shares.tokens_B.sum().clamp(min=1)
    return len(chosen_E) * (chosen_E / top_k * probability_E).sum() / tokens


def squared_partition(routing: Routing, counted_BT: Tensor) -> Tensor:
    """Sum over positions of the squared log-partition (Zoph et al., 2022, arXiv:2202.08906, equation 5), ``[]``."""
    return (routing.logits_ME.logsumexp(dim=-1).square() * counted_BT.flatten()).sum()


def load_figures(chosen_E: Tensor) -> dict[str, Tensor]:
    """How evenly a step's choices fell: 1 and 1 if evenly, E / k and log k / log E if on k experts alone."""
    share_E = chosen_E / chosen_E.sum().clamp(min=1)
    entropy = torch.special.entr(share_E).sum() / torch.log(torch.tensor(float(max(2, len(chosen_E)))))
    return {
        "moe/load_max": share_E.max() * len(chosen_E), "moe/load_entropy": entropy,
        "moe/dead": (chosen_E == 0).sum().to(share_E.dtype),
    }  # fmt: skip
