"""litgpt's GPT in the shape of a Llama, compiled, in the loop of its `pretrain`, with that one's own parts.

Kept: weights as it draws them, AdamW (0.9, 0.95, decay 0.1), clipping at 1, cosine to 4e-5, 4 rows a pass. Changed,
because three minutes would not hold one step of them: 4 rows a step for 512, and a rise over a tenth of the run for
2,000 steps. It is given bfloat16, which it would not take on a CPU by itself.
"""

# Shape suffixes: B rows, T positions.

import itertools
import time
import warnings
from typing import Any

import lightning
import torch
from learning import PROBE, Blocks, Stopwatch, Task, order, report, steps_that_fit, summed_nll, task
from litgpt import GPT, Config
from litgpt.pretrain import get_lr, initialize_weights
from litgpt.utils import chunked_cross_entropy
from torch import Tensor

ROWS, LOWEST = 4, 4e-5


def config_of(job: Task) -> Config:
    """The shape that every system has."""
    return Config(
        block_size=job.length, vocab_size=job.vocab, padded_vocab_size=job.vocab, n_layer=job.layers, n_head=job.heads,
        n_embd=job.width, n_query_groups=job.heads, intermediate_size=job.hidden, rotary_percentage=1.0,
        parallel_residual=False, bias=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP",
    )  # fmt: skip


def fit(job: Task, fabric: Any, model: Any, steps: int, most: int) -> list[float]:
    """``most`` steps of a run of ``steps``, and what each took."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.lr, betas=(0.9, 0.95), weight_decay=0.1)
    optimizer = fabric.setup_optimizers(optimizer)
    blocks, taken = Blocks(job, room=job.length + 1), []
    places = order(len(blocks), job.seed)
    for step in range(most):
        started = time.perf_counter()
        lr = get_lr(job.lr, step + 1, steps // 10, steps, min(LOWEST, job.lr))
        for group in optimizer.param_groups:
            group["lr"] = lr
        rows_BT = torch.stack([blocks[i]["input_ids"] for i in itertools.islice(places, ROWS)])
        fabric.backward(chunked_cross_entropy(model(rows_BT[:, :-1].contiguous()), rows_BT[:, 1:].contiguous()))
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        taken.append(time.perf_counter() - started)
    return taken


def main() -> None:
    """Time a few steps, train for the time, score."""
    warnings.filterwarnings("ignore")
    job = task()
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    plain = GPT(config_of(job))
    initialize_weights(fabric, plain, n_layer=job.layers, n_embd=job.width)
    model = fabric.setup(torch.compile(plain))
    begun = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    steps = steps_that_fit(job, fit(job, fabric, model, 1000, PROBE))
    plain.load_state_dict(begun)
    with Stopwatch() as watch:
        fit(job, fabric, model, steps, steps)
    plain.eval()

    def nll(inputs_BT: Tensor, targets_BT: Tensor) -> float:
        with torch.autocast("cpu", torch.bfloat16):
            return summed_nll(plain(inputs_BT), targets_BT)

    report(job, watch, steps, steps * ROWS * job.length, nll)


if __name__ == "__main__":
    main()
