"""A reward model on pairs of answers: a number for each whole text, higher for the better one (arXiv:1706.03741).

    python examples/reward.py

Toy texts of random ids, of which the better ends in a token that the worse does not; the pairwise loss of Bradley and
Terry, -log sigmoid(better - worse), trains decoder and head together. `ValueHead` is used the same way and gives a
number for each token.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cirilla_cli import Decoder, ModelConfig
from cirilla_cli.model.heads import RewardHead, ValueHead
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.readout import Hidden

CONFIG = ModelConfig.model_validate({
    "vocab_size": 64, "d_model": 32, "n_layers": 2, "context_length": 24,
    "mixers": {"A": {"kind": "attention", "n_heads": 4}}, "mlp": {"kind": "swiglu", "d_ff": 64},
})  # fmt: skip
GOOD, LENGTH = 7, 12


def pairs(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Better and worse texts ``[B, T]``: the same but for one token in the last half."""
    worse = torch.randint(8, 64, (count, LENGTH), generator=generator)
    place = torch.randint(LENGTH // 2, LENGTH, (count, 1), generator=generator)
    return worse.scatter(1, place, GOOD), worse


def rewards(model: Decoder, head: RewardHead, texts_BT: Tensor) -> Tensor:
    """One number a text, ``[B]``."""
    layout = SequenceLayout.rows(*texts_BT.shape)
    return head(model(texts_BT, layout, readout=Hidden()), layout)


def accuracy(model: Decoder, head: RewardHead) -> float:
    """How often the better of two new texts gets the higher reward."""
    with torch.inference_mode():
        better, worse = (rewards(model, head, texts) for texts in pairs(256, torch.Generator().manual_seed(1)))
    return (better > worse).float().mean().item()


def main(steps: int = 60) -> float:
    """Train, and print how often the better text wins before and after; returns the latter."""
    model, generator = fresh(CONFIG, seed=0), torch.Generator().manual_seed(0)
    head = RewardHead(CONFIG.d_model)
    print(f"better text wins: {accuracy(model, head):.0%}")
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(steps):
        better, worse = (rewards(model, head, texts) for texts in pairs(64, generator))
        loss = -F.logsigmoid(better - worse).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"better text wins: {accuracy(model, head):.0%}")
    layout = SequenceLayout.rows(1, LENGTH)
    values = ValueHead(CONFIG.d_model)(model(pairs(1, generator)[0], layout, readout=Hidden()))
    print(f"an untrained value head gives {values.shape[1]} numbers for {LENGTH} tokens")
    return accuracy(model, head)


if __name__ == "__main__":
    main()
