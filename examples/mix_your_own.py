"""A decoder of your own pieces, in a training loop of your own.

    python examples/mix_your_own.py

Three Mamba-2 layers to one of attention, experts in all of them, and a step that predicts the token after the next. The
pieces are data: change a line and run again. What each can be is in docs/recipes.md, what each does in docs/model/.
"""

import torch

from cirilla_cli import Decoder, ModelConfig
from cirilla_cli.model.count import count
from cirilla_cli.model.init import initialise
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.parts import AfterStep, Tally
from cirilla_cli.model.readout import IGNORE, LastLogits, MultiToken, TokenLoss

TEXT = "The griffin guards the road, the witcher guards the inn, and the inn guards the ale. " * 8

CONFIG = ModelConfig.model_validate({
    "vocab_size": 256, "d_model": 64, "n_layers": 4, "context_length": 128,
    "mixers": {
        "M": {"kind": "mamba2", "n_heads": 4, "d_state": 16},
        "A": {"kind": "attention", "n_heads": 4, "n_kv_heads": 2, "qk_norm": True},
    },
    "pattern": "MMMA",
    "mlp": {"kind": "moe", "n_experts": 8, "top_k": 2, "d_ff": 64, "shared_d_ff": 64},
    "mtp": {"kind": "chained", "depth": 1},
})  # fmt: skip


def batch(step: int, rows: int = 8) -> torch.Tensor:
    """Rows of bytes from the text, a pure function of the step."""
    data = torch.tensor(list(TEXT.encode()))
    starts = torch.randint(len(data) - 128, (rows,), generator=torch.Generator().manual_seed(step))
    return torch.stack([data[start : start + 128] for start in starts])


def ahead(tokens_BT: torch.Tensor, by: int) -> torch.Tensor:
    """The targets: each position's token ``by`` places on."""
    return torch.nn.functional.pad(tokens_BT[:, by:], (0, by), value=IGNORE)


def train(model: Decoder, steps: int) -> None:
    """Mean loss of both distances, and what the routers ask for so that all experts are kept busy."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        tokens_BT, tally = batch(step), Tally()
        losses = MultiToken((TokenLoss(ahead(tokens_BT, 1)), TokenLoss(ahead(tokens_BT, 2))))
        first, second = model(tokens_BT, SequenceLayout.rows(*tokens_BT.shape), readout=losses, tally=tally)
        counts = {"rows": len(tokens_BT), "positions": tokens_BT.numel()}
        balance = sum(scale * total / counts[unit] for total, unit, scale in tally.sums.values())
        loss = first.loss / (127 * 8) + 0.3 * second.loss / (126 * 8) + balance
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        for module in model.modules():
            if isinstance(module, AfterStep):
                module.after_step(lambda total: total)
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step:3d}  next token {float(first.nll.detach()) / (127 * 8):.3f}")


@torch.inference_mode()
def answer(model: Decoder, prompt: str, length: int) -> str:
    """Greedy bytes through the caches: of attention, keys and values; of Mamba-2, a state that does not grow."""
    caches, ids = model.make_caches(128), list(prompt.encode())
    fresh = ids
    for _ in range(length):
        layout = SequenceLayout.rows(1, len(fresh), start=len(ids) - len(fresh))
        logits_V = model(torch.tensor([fresh]), layout, caches, readout=LastLogits())[0, 0]
        fresh = [int(logits_V.argmax())]
        ids += fresh
    return bytes(ids).decode(errors="replace")


def main(steps: int = 100) -> None:
    """Build, train, speak."""
    model = CONFIG.build()
    initialise(model, torch.Generator().manual_seed(0))
    counted = count(CONFIG)
    print(f"{counted.parameters:,} parameters, {counted.active:,} of them active for one token")
    train(model.train(), steps)
    print(answer(model.eval(), "The witcher ", 60))


if __name__ == "__main__":
    main()
