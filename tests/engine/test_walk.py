"""The walk through a step without memory, against the record of torch's own allocator on the same step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from cirilla_cli.data.batches import Cut, TokenBatch
from cirilla_cli.engine.build import trainer_of
from cirilla_cli.engine.config import (
    AdamWConfig,
    MemoryConfig,
    MuonConfig,
    PrecisionConfig,
    SelectiveCheckpointingConfig,
    TrainConfig,
)
from cirilla_cli.engine.footprint import DeviceClass, Outline, footprint, outlined, shallow, whole
from cirilla_cli.engine.job import Job
from cirilla_cli.engine.trainer import Trainer
from cirilla_cli.engine.walk import Hollow, Ledger
from cirilla_cli.model.config import DecoderConfig, EncoderConfig
from cirilla_cli.model.init import fresh
from cirilla_cli.model.mixers.config import AttentionConfig, Mamba2Config
from cirilla_cli.model.routers import Router
from cirilla_cli.model.sections import MoEConfig, SwiGLUConfig

CPU = torch.device("cpu")


@dataclass
class Given:
    """One micro-batch in the first step, two in the second."""

    batches: Sequence[TokenBatch]
    rows_per_epoch: int = 1

    def step(self, index: int) -> list[TokenBatch]:
        """The micro-batches of a step."""
        return list(self.batches[: index + 1])

    def validation(self, most_tokens: int) -> Any:
        """None."""
        return iter(())


def batch(rows: int, length: int, vocab: int, documents_of: int) -> TokenBatch:
    tokens = torch.randint(0, vocab, (rows, length), generator=torch.Generator().manual_seed(0))
    documents = (torch.arange(length) // documents_of).expand(rows, length).contiguous()
    return TokenBatch(tokens, tokens.clone(), documents)


def shape(kind: str, **changes: Any) -> Any:
    attention = AttentionConfig(n_heads=4, n_kv_heads=2, causal=kind != "encoder")
    mixers: dict[str, Any] = {"A": attention}
    if kind == "hybrid":
        mixers["M"] = Mamba2Config(n_heads=4, head_dim=32, d_state=16)
    mlp = MoEConfig(n_experts=4, top_k=2, d_ff=64) if kind == "experts" else SwiGLUConfig(d_ff=160)
    keys: dict[str, Any] = {"vocab_size": 300, "d_model": 64, "n_layers": 2, "context_length": 128, "mixers": mixers,
                            "pattern": "MA" if kind == "hybrid" else "A", "mlp": mlp}  # fmt: skip
    return (EncoderConfig if kind == "encoder" else DecoderConfig)(**{**keys, **changes})


def recorded(trainer: Trainer) -> int:
    """The most that torch's allocator held at once while the trainer ran, beyond what there was before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        trainer.fit()
    held = most = 0
    events = prof.profiler.kineto_results.experimental_event_tree()  # type: ignore[union-attr]
    changes: list[tuple[int, int]] = []
    while events:
        event = events.pop()
        if event.tag.name == "Allocation":
            changes.append((event.start_time_ns, event.extra_fields.alloc_size))
        events.extend(event.children)
    for _, size in sorted(changes, key=lambda change: change[0]):
        held += size
        most = max(most, held)
    return most


def counting(given: TokenBatch) -> TokenBatch:
    """The same with every row 0, 1, 2, ..."""
    return replace(given, tokens_BT=torch.arange(given.tokens_BT.shape[1]).expand_as(given.tokens_BT).contiguous())


def spread_evenly(model: torch.nn.Module) -> None:
    """Token t goes to experts 2t and 2t + 1 of four, in every block: blocks add nothing, and routers read four axes."""
    named = dict(model.named_parameters())
    embedding = next(value for name, value in named.items() if "embed_tokens" in name)
    token = torch.arange(len(embedding))
    with torch.no_grad():
        embedding[:, :4] = 0
        embedding[token, 2 * token % 4], embedding[token, (2 * token + 1) % 4] = 30.0, 20.0
        for name, value in named.items():
            if name.endswith("mlp.gate.weight"):
                value.zero_()[:, :4] = torch.eye(4)
            elif "o_proj" in name or "down_proj" in name:
                value.zero_()


def watched_loads(model: torch.nn.Module) -> list[list[int]]:
    """How many tokens each expert gets, of every router and pass to come."""
    loads: list[list[int]] = []

    def note(module: torch.nn.Module, given: Any, routing: Any) -> None:
        loads.append(torch.bincount(routing.experts_MK.flatten(), minlength=4).tolist())

    for module in model.modules():
        if isinstance(module, Router):
            module.register_forward_hook(note)
    return loads


def walked(job: Job, config: Any, batches: Sequence[TokenBatch], dtype: torch.dtype) -> tuple[int, int]:
    """The peak of a walk beyond the model, and that of the model alone."""
    ledger = Ledger(config.vocab_size, CPU)
    with ledger:
        model = config.build()
        before = ledger.walked.peak()[1]
        trainer_of(job, model, Given(batches), 2, CPU, dtype).fit()
    return ledger.walked.peak()[1] - before, before


@pytest.mark.parametrize("kind", ["dense", "experts", "hybrid", "encoder"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("optim", [AdamWConfig(), MuonConfig()], ids=["adamw", "muon"])
def test_a_walk_holds_what_torch_holds(kind: str, dtype: str, optim: Any, tiny: ModuleType, tmp_path: Any) -> None:
    """Within one in a hundred: what kernels take for a moment inside is not in a walk.

    A walk gives all experts equally many tokens, so that is what they are given here.
    """
    config = shape(kind)
    job = tiny.job("pretrain", tmp_path, tmp_path, model=config, optim=optim, objective=tiny.CrossEntropyConfig())
    batches = [batch(8, 128, 300, 50)] * 2
    said, weights = walked(job, config, batches, getattr(torch, dtype))
    model = fresh(config, seed=0)
    assert weights == sum(x.numel() * x.element_size() for x in (*model.parameters(), *model.buffers()))
    if kind == "experts":
        batches = [counting(each) for each in batches]
        spread_evenly(model)
    loads = watched_loads(model)
    truth = recorded(trainer_of(job, model, Given(batches), 2, CPU, getattr(torch, dtype)))
    assert said == pytest.approx(truth, rel=0.01)
    assert loads == ([[8 * 128 * 2 // 4] * 4] * 6 if kind == "experts" else [])


def test_recomputed_blocks_keep_less(tiny: ModuleType, tmp_path: Any) -> None:
    config, batches = shape("dense", n_layers=6), [batch(8, 128, 300, 50)] * 2

    def peak(memory: MemoryConfig) -> int:
        job = tiny.job("pretrain", tmp_path, tmp_path, model=config, memory=memory)
        return walked(job, config, batches, torch.float32)[0]

    every, some = peak(MemoryConfig()), peak(MemoryConfig(checkpointing=SelectiveCheckpointingConfig(every=2)))
    assert some < 0.8 * every


@pytest.mark.parametrize("optim", [AdamWConfig(), MuonConfig()], ids=["adamw", "muon"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_update_within_the_backward_pass_holds_fewer_gradients(
    dtype: torch.dtype, optim: Any, tiny: ModuleType, tmp_path: Any
) -> None:
    """Few tokens, so that gradients matter: at least half of them less in float32, and what torch's allocator says."""
    config, batches = shape("dense", n_layers=6), [batch(1, 32, 300, 32)] * 2
    count = sum(p.numel() for p in config.build().parameters())
    peaks = []
    for memory in (MemoryConfig(fused_backward=True), MemoryConfig()):
        timing = TrainConfig(steps=2, batch_tokens=32, max_grad_norm=None)
        job = tiny.job("pretrain", tmp_path, tmp_path, model=config, optim=optim, train=timing, memory=memory,
                       objective=tiny.CrossEntropyConfig())  # fmt: skip
        said, _ = walked(job, config, batches[:1] if memory.fused_backward else batches, dtype)
        given = Given(batches[:1] if memory.fused_backward else batches)
        truth = recorded(trainer_of(job, fresh(config, seed=0), given, 2, CPU, dtype))
        assert said == pytest.approx(truth, rel=0.01)
        peaks.append(said)
    assert peaks[0] < peaks[1] - 2 * count


def test_what_is_held_is_named(tiny: ModuleType, tmp_path: Any) -> None:
    """Weights, gradients and two moments of four bytes a parameter each; casts of two; logits of four a counted one."""
    config, cut = shape("dense"), Cut(128, 16, 8, 0, 0)
    job = tiny.job("pretrain", tmp_path, tmp_path, model=config, optim=AdamWConfig(),
                   precision=PrecisionConfig(compute="bfloat16"), objective=tiny.CrossEntropyConfig())  # fmt: skip
    found = footprint(job, config, [batch(8, 128, 300, 128)] * 2, cut, "cpu").parts
    count = sum(p.numel() for p in config.build().parameters())
    steps = 4 * sum(1 for _ in config.build().parameters())
    assert found["parameters"] == found["gradients"] == 4 * count
    assert found["optimizer"] == pytest.approx(8 * count + steps, abs=64)
    assert found["casts"] == 2 * count
    assert found["batch"] == 3 * 8 * 16 * 128


def most(found: Outline) -> int:
    return max(sum(window.values()) for window in found.windows)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """With more, a scan's stretches are longer, and and two shallow hybrids say up to a fifth too much."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("recomputed", [None, SelectiveCheckpointingConfig(every=2)], ids=str)
@pytest.mark.parametrize(("kind", "device"), [("dense", "cpu"), ("experts", "cuda"), ("hybrid", "cpu")])
def test_two_shallow_models_say_what_a_deep_one_holds(
    kind: str, device: DeviceClass, recomputed: Any, tiny: ModuleType, tmp_path: Any
) -> None:
    config, batches = shape(kind, n_layers=12), [batch(8, 128, 300, 128)] * 2
    job = tiny.job("pretrain", tmp_path, tmp_path, model=config, memory=MemoryConfig(checkpointing=recomputed))
    assert shallow(config, recomputed) is not None
    said, truth = outlined(job, config, batches, device), whole(job, config, batches, device)
    assert most(said) == pytest.approx(most(truth), rel=0.01)
    assert said.saved == pytest.approx(truth.saved, rel=0.01)


@pytest.mark.parametrize("recomputed", [None, SelectiveCheckpointingConfig(every=2)], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_experts_on_a_cpu_grow_by_the_same_bytes_with_every_block(
    threads: int, recomputed: Any, tiny: ModuleType, tmp_path: Any
) -> None:
    """To the byte, in the sorted form of one thread and in the padded one of several."""
    before, batches = torch.get_num_threads(), [batch(8, 128, 300, 128)] * 2
    job = tiny.job("pretrain", tmp_path, tmp_path, memory=MemoryConfig(checkpointing=recomputed))
    torch.set_num_threads(threads)
    try:
        few, more, deep = (whole(job, shape("experts", n_layers=n), batches, "cpu") for n in (2, 4, 6))
    finally:
        torch.set_num_threads(before)
    assert most(deep) - most(more) == most(more) - most(few) > 0
    assert deep.saved - more.saved == more.saved - few.saved > 0


def test_plans_for_experts_on_a_cpu_are_walked_in_full(tiny: ModuleType, tmp_path: Any) -> None:
    """A third of a pass ends at another place of a block in each depth, which on several threads is 13% of a peak."""
    config, batches = shape("experts", n_layers=8), [batch(2, 32, 300, 32)] * 2
    job = tiny.job("pretrain", tmp_path, tmp_path, model=config)
    assert shallow(config, None) is not None
    assert outlined(job, config, batches, "cpu") == whole(job, config, batches, "cpu")


def operations(x: torch.Tensor) -> list[torch.Tensor]:
    """Results whose formats, strides and places differ by little in what is asked."""
    turned, part = x.t(), x[1:]
    asked = [x + 1, x + 1.0, x + True, turned + 1, turned + 1.0, part + 1, part.t() + 1.0, x.sum(0), x.sum(1)]
    asked += [x.to(torch.bool), x.to(torch.bfloat16), *x.max(0), *x.max(1), part, turned, part.add_(1), x.add_(2.0)]
    return [*asked, torch.empty_like(turned), torch.cat([x, part]), torch.cat([part, part])]


def test_a_walk_asked_again_says_what_torch_says() -> None:
    """Of everything that is asked, and again from memory; what it made before stays apart from what it makes then."""
    truth = operations(torch.ones(4, 5))
    with Ledger(300, CPU) as ledger:
        x = torch.empty(4, 5, device="meta")
        turns = [operations(x) for _ in range(3)]
        count = len({id(each.bare.untyped_storage()) for said in turns for each in said if isinstance(each, Hollow)})
    forms = [(each.shape, each.stride(), each.storage_offset(), each.dtype) for each in truth]
    for said in turns:
        assert [(each.shape, each.stride(), each.storage_offset(), each.dtype) for each in said] == forms
    shared = 4
    own = sum(isinstance(each, Hollow) for each in turns[0]) - shared
    assert count == 3 * own + 1
    assert ledger.walked.peak()[1] > 0


def test_whole_numbers_and_fractions_are_not_taken_for_each_other() -> None:
    """1, 1.0 and True are equal in Python, and make three formats of whole numbers and truths."""
    whole = Hollow(torch.empty(4, dtype=torch.int64, device="meta"), CPU)
    with Ledger(300, CPU):
        truth = whole > 0
        said = [truth + True, truth + 1, truth + 1.0, whole + True, whole + 1.0]
    assert [each.dtype for each in said] == [torch.bool, torch.int64, torch.float32, torch.int64, torch.float32]
