"""Each family's recipe, made small, learns: one batch by heart, and a toy corpus to a stated loss."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cirilla_cli.data.batches import IGNORE
from cirilla_cli.model.config import DecoderConfig, EncoderConfig
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.readout import MultiToken, TokenLoss
from cirilla_cli.recipe.builtin import list_recipes
from cirilla_cli.recipe.load import load_recipe

sys.path.insert(0, str(Path(__file__).parent))

from test_recipes_builtin import shrunk  # noqa: E402

VOCAB, ROWS, T = 40, 4, 24
SHAPES = ("quickstart", "witcher")
FAMILIES = [r["name"] for r in list_recipes() if r["verb"] == "pretrain" and not r["name"].startswith(SHAPES)]


def shape_of(name: str) -> DecoderConfig | EncoderConfig:
    """The recipe's model, 32 wide and a few layers deep, for a vocabulary of forty."""
    resolved = load_recipe(name, "pretrain")
    overrides = [o for o in shrunk(resolved) if o.startswith("model.")]
    model = load_recipe(name, "pretrain", [*overrides, f"model.vocab_size={VOCAB}"]).recipe.model  # type: ignore[attr-defined]
    assert isinstance(model, DecoderConfig | EncoderConfig)
    return model


def sums(model: torch.nn.Module, shape: DecoderConfig | EncoderConfig, tokens: Tensor) -> tuple[Tensor, int]:
    """Summed loss and number of targets: the next token, further ones where the model has steps, or every third one."""
    layout = SequenceLayout.rows(*tokens.shape)
    if isinstance(shape, EncoderConfig):
        hidden = torch.arange(tokens.shape[1]) % 3 == 1
        targets = torch.where(hidden, tokens, IGNORE)
        loss = model(torch.where(hidden, 0, tokens), layout, readout=TokenLoss(targets)).loss
        return loss, int((targets != IGNORE).sum())
    following = torch.nn.functional.pad(tokens[:, 1:], (0, 1), value=IGNORE)
    if shape.mtp is None:
        return model(tokens, layout, readout=TokenLoss(following)).loss, int((following != IGNORE).sum())
    after = torch.nn.functional.pad(tokens[:, 2:], (0, 2), value=IGNORE)
    both = model(tokens, layout, readout=MultiToken((TokenLoss(following), TokenLoss(after))))
    return both[0].loss + both[1].loss, int((following != IGNORE).sum() + (after != IGNORE).sum())


def trained(name: str, batches: list[Tensor], steps: int) -> tuple[float, float]:
    """Mean loss at the first and over the last steps; at the end the rate falls to nothing: the last are no chance."""
    shape = shape_of(name)
    model = fresh(shape, seed=0).train()
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0), []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1.0, 4 * (1 - step / steps))
        total, count = sums(model, shape, batches[step % len(batches)])
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total.detach()) / count)
    return losses[0], sum(losses[-4:]) / 4


def test_there_are_the_families_of_the_library() -> None:
    wanted = "gpt2 llama3 qwen3 qwen3-moe mistral mixtral deepseek-v3 kimi-k2 granite-hybrid modernbert cirilla"
    assert set(FAMILIES) >= set(wanted.split())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_begins_at_chance_and_learns_one_batch_by_heart(name: str) -> None:
    tokens = torch.randint(1, VOCAB, (ROWS, T), generator=torch.Generator().manual_seed(1))
    first, last = trained(name, [tokens], 110)
    assert abs(first - math.log(VOCAB)) < 0.05 * math.log(VOCAB)
    assert last < 0.15


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_learns_a_toy_language_to_a_stated_loss(name: str) -> None:
    """Each token but the first two follows from the one two places before it: at best 0.17, at chance ln 40 = 3.69."""
    generator, batches = torch.Generator().manual_seed(2), []
    for _ in range(60):
        rows = torch.zeros(16, T, dtype=torch.long)
        rows[:, :2] = torch.randint(1, 8, (16, 2), generator=generator)
        for t in range(2, T):
            rows[:, t] = 1 + rows[:, t - 2] % 7
        batches.append(rows)
    first, last = trained(name, batches, 180)
    assert first > 3.3
    assert last < 0.6
