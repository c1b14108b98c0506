"""The change that `plan` proposes, against every change there is, each with a walk of its own."""

import math
from itertools import product
from types import ModuleType
from typing import Any

import pytest

from cirilla_cli.engine.config import (
    FullCheckpointingConfig,
    MemoryConfig,
    PrecisionConfig,
    SelectiveCheckpointingConfig,
    TrainConfig,
)
from cirilla_cli.engine.forecast import Target, forecast

CONTEXT, VOCAB = 256, 16384
TOKENS = (2 * CONTEXT, CONTEXT)
LOGITS = (64 << 20, 16 << 20)
BLOCKS = {None: 1.0, SelectiveCheckpointingConfig(): 7 / 6, FullCheckpointingConfig(): 4 / 3}

Settings = tuple[int, int, Any]


def slower(tokens: int, logits: int, blocks: Any) -> float:
    """Over the recipe as it is: a pass costs 128 tokens more, each halving of a chunk a hundredth, a pass again 1/3."""
    passes = (1 + 128 / tokens) / (1 + 128 / TOKENS[0])
    return passes * (1 + 0.01 * math.log2(LOGITS[0] / logits)) * BLOCKS[blocks]


def test_the_change_is_the_cheapest_of_all_that_fit(tiny: ModuleType, tmp_path: Any) -> None:
    config = tiny.decoder(vocab_size=VOCAB, d_model=32, n_layers=6, context_length=CONTEXT)

    def of(settings: Settings, memory: int | None = None) -> dict[str, Any]:
        tokens, logits, blocks = settings
        timing = TrainConfig(steps=2, batch_tokens=TOKENS[0], micro_batch_tokens=tokens)
        job = tiny.job("pretrain", tmp_path, tmp_path, model=config, train=timing,
                       precision=PrecisionConfig(compute="float32"), objective=tiny.CrossEntropyConfig(),
                       memory=MemoryConfig(logits_bytes=logits, checkpointing=blocks))  # fmt: skip
        return forecast(job, target=Target("cuda", memory), rate=1.0)

    every: list[Settings] = list(product(TOKENS, LOGITS, BLOCKS))
    peaks = {settings: of(settings)["peak_bytes"] for settings in every}
    low, high = min(peaks.values()), peaks[every[0]]
    for share in (0.1, 0.5):
        memory = round(1.15 * (low + share * (high - low)))
        fitting = [settings for settings in every if 1.15 * peaks[settings] <= memory]
        best = min(fitting, key=lambda settings: slower(*settings))
        change = of(every[0], memory)["change"]
        assert change["peak_bytes"] == pytest.approx(peaks[best], rel=0.01)
        assert change["slower"] == pytest.approx(slower(*best))
    assert of(every[0], low // 20)["change"] is None
