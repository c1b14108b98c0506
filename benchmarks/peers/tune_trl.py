"""TRL's SFTTrainer and DPOTrainer on a CPU with their defaults: 8 rows a step, padded, at most 1,024 tokens a row,
bfloat16, activations computed again in the backward pass; DPO's reference model beside the policy.

`packed` is its `packing=True`, with the rows a step that ours has; `kept` its `gradient_checkpointing=False`.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from common import Task, imported, peak_since_imports, task
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer


class Times(TrainerCallback):  # type: ignore[misc]
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note it."""
        self.ends.append(time.perf_counter())


class Counting(SFTTrainer):  # type: ignore[misc]
    """Also counts the tokens that each step trains on."""

    counts: list[int]

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **keys: Any) -> Any:
        """The peer's own loss."""
        self.counts.append(int((inputs["labels"][:, 1:] != -100).sum()))
        return super().compute_loss(model, inputs, *args, **keys)


def settings(job: Task) -> dict[str, Any]:
    """What is not left at its default: where to run and how long, and what the way says."""
    found: dict[str, Any] = dict(
        output_dir=tempfile.mkdtemp(), max_steps=job.warmup + job.steps, use_cpu=True, report_to="none",
        save_strategy="no", logging_strategy="no", disable_tqdm=True, learning_rate=job.lr, max_length=job.length,
    )  # fmt: skip
    if "kept" in job.way:
        found["gradient_checkpointing"] = False
    if "packed" in job.way:
        found |= {"packing": True, "per_device_train_batch_size": job.rows}
    return found


def main() -> None:
    """Train and report."""
    job = task()
    tokenizer = AutoTokenizer.from_pretrained(str(Path(job.tokens) / "tokenizer"))
    rows = [json.loads(line) for line in (Path(job.tokens) / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    data = Dataset.from_list(rows)
    config = LlamaConfig(
        vocab_size=job.vocab, hidden_size=job.width, intermediate_size=job.hidden, num_hidden_layers=job.layers,
        num_attention_heads=job.heads, num_key_value_heads=job.heads, max_position_embeddings=job.length,
        tie_word_embeddings=job.tied, bos_token_id=1, eos_token_id=5, pad_token_id=3,
    )  # fmt: skip
    imported()
    model, times = LlamaForCausalLM(config), Times()
    keys: dict[str, Any] = dict(train_dataset=data, processing_class=tokenizer, callbacks=[times])
    if job.objective == "dpo":
        model.save_pretrained(folder := tempfile.mkdtemp())  # the reference is read from where the model came from
        trainer = DPOTrainer(model=LlamaForCausalLM.from_pretrained(folder), args=DPOConfig(**settings(job)), **keys)
        counts = [trainer.args.per_device_train_batch_size] * (job.warmup + job.steps)
    else:
        trainer = Counting(model=model, args=SFTConfig(**settings(job)), **keys)
        trainer.counts = counts = []
    result = trainer.train()
    done, seconds = sum(counts[job.warmup :]), times.ends[-1] - times.ends[job.warmup - 1]
    print(json.dumps({"rate": done / seconds, "counted": done, "loss": result.training_loss, **peak_since_imports()}))


if __name__ == "__main__":
    main()
