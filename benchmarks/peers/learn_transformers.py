"""transformers' Llama under its `Trainer`, with that one's defaults: 8 rows a step, linear schedule, AdamW, clipping.

Texts are cut into blocks end to end, as its example `run_clm.py` does. It is given bfloat16, which is not its default.
"""

# Shape suffixes: B rows, T positions.

import os
import tempfile
import time
from typing import Any

import torch
from learning import PROBE, Blocks, Stopwatch, Task, report, steps_that_fit, summed_nll, task
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments


class Times(TrainerCallback):  # type: ignore[misc]
    """What each step took."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop it."""
        self.taken.append(time.perf_counter() - self._since)


def trainer_of(job: Task, model: Any, steps: int, times: Times) -> Any:
    """The peer's own trainer, silent."""
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(), max_steps=steps, learning_rate=job.lr, seed=job.seed, bf16=True, use_cpu=True,
        report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    return Trainer(model=model, args=arguments, train_dataset=Blocks(job, room=job.length), callbacks=[times])


def main() -> None:
    """Time a few steps, train for the time, score."""
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    job = task()
    config = LlamaConfig(
        vocab_size=job.vocab, hidden_size=job.width, intermediate_size=job.hidden, num_hidden_layers=job.layers,
        num_attention_heads=job.heads, num_key_value_heads=job.heads, max_position_embeddings=job.length,
        tie_word_embeddings=False, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    begun = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    probe = Times()
    trainer_of(job, model, PROBE, probe).train()
    model.load_state_dict(begun)
    steps = steps_that_fit(job, probe.taken)
    trainer = trainer_of(job, model, steps, Times())
    with Stopwatch() as watch:
        trainer.train()
    model.eval()

    def nll(inputs_BT: Tensor, targets_BT: Tensor) -> float:
        with torch.autocast("cpu", torch.bfloat16):
            return summed_nll(model(input_ids=inputs_BT).logits, targets_BT)

    report(job, watch, steps, steps * trainer.args.train_batch_size * job.length, nll)


if __name__ == "__main__":
    main()
