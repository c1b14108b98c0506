"""Training runs small enough to be run dozens of times: made-up rows, their shards, and jobs with every section."""

import json
import os
import random
import signal
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from cirilla_cli.data.config import (
    ConversationsConfig,
    PackedTextConfig,
    PreferencesConfig,
    SentencePieceConfig,
    TextSourceConfig,
    TokenizeConfig,
)
from cirilla_cli.data.run import tokenize
from cirilla_cli.engine.config import (
    AdamWConfig,
    CheckpointingConfig,
    ConstantConfig,
    CrossEntropyConfig,
    DPOConfig,
    LogConfig,
    MemoryConfig,
    MuonConfig,
    PrecisionConfig,
    TrainConfig,
)
from cirilla_cli.engine.run import Job
from cirilla_cli.model.config import CheckpointConfig, DecoderConfig
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.sections import SwiGLUConfig
from cirilla_cli.progress import Silent

CONTEXT = 32
SECTIONS = ("model", "tokenizer", "data", "objective", "train", "optim", "schedule", "precision", "memory")
LATER = ("checkpoint", "eval", "log", "seed", "device")


class Listener(Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[tuple[str, float]] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
        self.steps.append((what, done))


def rows(seed: int = 0) -> list[dict[str, Any]]:
    """Documents, chats and preferences of a few words each."""
    rng = random.Random(seed)
    words = ["griffin", "silver", "sword", "road", "inn", "moon", "river", "witch", "potion", "horse", "rain", "gold"]

    def text(least: int, most: int) -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randint(least, most)))

    made: list[dict[str, Any]] = [{"id": f"d{i}", "title": f"d{i}", "text": text(3, 40)} for i in range(40)]
    for i in range(40):
        ask = {"role": "user", "content": text(1, 2)}
        said = [{"role": "assistant", "content": text(1, 3)}, {"role": "user", "content": text(1, 1)}]
        common = {"id": f"s{i}", "split_key": f"s{i}", "source": "made up", "generator": {"strategy": "tiny"}}
        turns = [ask, *(said if i % 3 == 0 else []), {"role": "assistant", "content": text(1, 4)}]
        made.append({"kind": "chat", "messages": turns, **common})
        made.append({"kind": "preference", "messages": [ask], "chosen": text(1, 2), "rejected": text(1, 3), **common})
    return made


def make_data(folder: Path) -> Path:
    """A folder with ``tokenizer`` and ``shards/{text,chat,preference}``; context 32 holds most of it."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    config = TokenizeConfig(inputs=(source,), tokenizer=SentencePieceConfig(vocab_size=340), val=0.2)
    tokenize(config, folder, Silent())
    return folder


def decoder(**changes: Any) -> DecoderConfig:
    """The smallest model that has everything; with dropout, so that a step's randomness matters."""
    keys: dict[str, Any] = {
        "d_model": 16, "n_layers": 1, "context_length": CONTEXT, "mixers": {"A": AttentionConfig(n_heads=2)},
        "mlp": SwiGLUConfig(d_ff=24), "dropout": 0.1,
    }  # fmt: skip
    return DecoderConfig(**{**keys, **changes})


def _data(verb: str, data: Path) -> Any:
    match verb:
        case "pretrain":
            return PackedTextConfig(sources={"wiki": TextSourceConfig(path=data)})
        case "sft":
            return ConversationsConfig(path=(data,))
        case _:
            return PreferencesConfig(path=(data,))


def job(verb: str, out: Path, folder: Path, /, *, start: Path | None = None, **changes: Any) -> Job:
    """A job of few steps; ``changes`` replace sections or scalars."""
    made: dict[str, Any] = {
        "model": decoder() if start is None else CheckpointConfig(path=str(start), context_length=2 * CONTEXT),
        "tokenizer": None,
        "data": _data(verb, folder),
        "objective": DPOConfig(sft_weight=0.1) if verb == "dpo" else CrossEntropyConfig(label_smoothing=0.1),
        "train": TrainConfig(steps=6, batch_tokens=8 * CONTEXT, micro_batch_tokens=4 * CONTEXT),
        "optim": AdamWConfig(lr=3e-3) if verb == "sft" else MuonConfig(lr=0.01),
        "schedule": ConstantConfig(warmup=1),
        "precision": PrecisionConfig(compute="float32"),
        "memory": MemoryConfig(),
        "checkpoint": CheckpointingConfig(every=2, every_time=None),
        "eval": None,
        "log": LogConfig(every=1, plot=False),
        "seed": 0,
        "device": "cpu",
    }
    made.update(changes)
    resolved = {key: made[key] if key in ("seed", "device") else _plain(made[key]) for key in (*SECTIONS, *LATER)}
    return Job(verb=verb, out=out, resolved=resolved, texts={"recipe.yaml": "recipe: 1\n"}, **made)


def _plain(section: Any) -> Any:
    return None if section is None else section.model_dump(mode="json")


def metrics(out: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics, read without the code that wrote them."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def curve(out: Path) -> list[tuple[int, float]]:
    """Step and loss of each line."""
    return [(line["step"], line["loss"]) for line in metrics(out)]


def saved(out: Path) -> Mapping[int, Path]:
    """The checkpoint folders of a run, by step."""
    return {int(path.name[5:]): path for path in (out / "checkpoints").glob("step-*")}


def final_digests(out: Path) -> tuple[str, str]:
    """Weights and optimizer state of the newest checkpoint, as the digests of their bytes."""
    last = saved(out)[max(saved(out))]
    return digest(last / "model.safetensors"), digest(last / "optimizer.safetensors")


def digest(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits: a failing test is told in a line, not in megabytes."""
    return sha256(path.read_bytes()).hexdigest()


def interrupt_after(step: int) -> Silent:
    """A listener that sends this process SIGTERM after a step, as a batch system would."""

    class Listener(Silent):
        def step(self, what: str, done: float, total: float | None = None, **figures: float) -> None:
            if done == step:
                os.kill(os.getpid(), signal.SIGTERM)

    return Listener()
