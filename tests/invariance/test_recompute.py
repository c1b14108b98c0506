"""Activation checkpointing changes no bit of a step, whatever is trained, and holds less meanwhile."""

import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import gradients
import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cirilla_cli.config import Section
from cirilla_cli.engine.config import FullCheckpointingConfig, MemoryConfig, SelectiveCheckpointingConfig
from cirilla_cli.engine.parallel import ALONE
from cirilla_cli.engine.precision import forward_of
from cirilla_cli.engine.recompute import checkpoint_activations
from cirilla_cli.engine.run import train
from cirilla_cli.model.block import BLOCKS
from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.init import fresh
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.moe import MoE
from cirilla_cli.model.parts import Tally
from cirilla_cli.model.readout import TokenLoss
from cirilla_cli.model.sections import MoEConfig, SwiGLUConfig
from cirilla_cli.progress import Silent

VOCAB, T = 31, 20


def members(annotation: Any) -> list[Any]:
    """The types in a union, whatever it is wrapped in."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [m for part in get_args(annotation) for m in members(part)]
    return [annotation]


def sections(field: str) -> Iterator[Section]:
    """One section of each kind that a decoder's field takes."""
    annotation = typing.get_type_hints(DecoderConfig, include_extras=True)[field]
    if get_origin(annotation) is not None and field == "mixers":
        annotation = get_args(annotation)[1]
    for kind in members(annotation):
        if kind is not NoneType:
            needed = {n: 2 for n, f in kind.model_fields.items() if f.is_required()}
            yield kind.model_validate({**needed, **({"n_experts": 4} if kind is MoEConfig else {})})


PARTS = [{"mixers": {"A": section}} for section in sections("mixers")]
PARTS += [{"mlp": section} for section in sections("mlp")]
PARTS += [{"norm_placement": place} for place in BLOCKS]


def named(part: dict[str, Any]) -> str:
    value = next(iter(part.values()))
    return value if isinstance(value, str) else getattr(value, "kind", None) or value["A"].kind


def shape(**part: Any) -> DecoderConfig:
    """Three layers with dropout, so that a pass repeated with other random numbers shows."""
    keys: dict[str, Any] = {"mixers": {"A": AttentionConfig(n_heads=2)}, "mlp": SwiGLUConfig(d_ff=24), **part}
    return DecoderConfig(vocab_size=VOCAB, d_model=16, n_layers=3, context_length=T, dropout=0.3, init_std=0.3, **keys)


def packed() -> tuple[Tensor, Tensor]:
    """Rows of several documents."""
    rows = torch.randint(VOCAB, (2, T), generator=torch.Generator().manual_seed(3))
    return rows, torch.tensor([[0] * 7 + [1] * 13, [2] * 18 + [-1] * 2])


def gradients_of(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Of two micro-batches with every loss that layers add."""
    forward, (rows, documents) = forward_of(model.train(), dtype), packed()
    for _ in range(2):
        torch.manual_seed(5)
        tally = Tally()
        loss = forward(rows, documents, TokenLoss(rows), tally).loss
        loss = loss + sum(part.total * part.scale for part in tally.sums.values())
        loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("part", PARTS, ids=named)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_gradient_is_the_same_to_the_bit_for_every_kind_of_layer(part: dict[str, Any], dtype: torch.dtype) -> None:
    kept = gradients_of(fresh(shape(**part), seed=1), dtype)
    for config in (FullCheckpointingConfig(), SelectiveCheckpointingConfig(every=2)):
        model = fresh(shape(**part), seed=1)
        checkpoint_activations(model, config)
        found = gradients_of(model, dtype)
        assert found.keys() == kept.keys()
        assert all(torch.equal(found[name], kept[name]) for name in kept)


@pytest.mark.parametrize("short", [False, True], ids=["float64", "bfloat16"])
@pytest.mark.parametrize("case", gradients.CASES)
def test_a_step_is_the_same_to_the_bit_for_every_objective(case: str, short: bool) -> None:
    """Terms, means, gradients, and expert biases, which follow from loads."""
    kept, found = (gradients.step_of(case, ALONE, short=short, every=every) for every in (0, 1))
    assert found.keys() == kept.keys()
    assert all(torch.equal(found[name], kept[name]) for name in kept)


@pytest.mark.parametrize(("processes", "sharded"), [(2, False), (2, True)])
@pytest.mark.parametrize("case", ["pairs", "experts", "states", "steps ahead"])
def test_processes_that_share_a_step_compute_it_again(
    case: str, processes: int, sharded: bool, order: Callable[..., list[int]], memory: Path
) -> None:
    path = memory / "again.safetensors"
    keys = {"ranks": processes, "sharded": sharded, "short": False, "every": 1}
    assert order(case=case, out=str(path), **keys) == [0] * processes
    found, expected = load_file(path), gradients.step_of(case, ALONE)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("ranks", [1, 2])
def test_sharded_weights_are_cast_again_as_before(ranks: int, order: Callable[..., list[int]], memory: Path) -> None:
    kept, again = memory / "kept.safetensors", memory / "again.safetensors"
    for path, every in ((kept, 0), (again, 1)):
        keys = {"ranks": ranks, "sharded": True, "short": True, "every": every}
        assert order(case="experts", out=str(path), **keys) == [0] * ranks
    first, second = load_file(kept), load_file(again)
    assert all(torch.equal(second[name], first[name]) for name in first)


def test_loads_and_balance_losses_are_counted_once() -> None:
    rows, documents = packed()
    model = fresh(shape(mlp=MoEConfig(n_experts=4, top_k=2, d_ff=8, z_loss=0.1)), seed=1)
    checkpoint_activations(model, FullCheckpointingConfig())
    tally = Tally()
    loss = forward_of(model.train(), torch.float32)(rows, documents, TokenLoss(rows), tally).loss
    told = {name: float(part.total.detach()) for name, part in tally.sums.items()}
    (loss + sum(part.total for part in tally.sums.values())).backward()
    assert {name: float(part.total.detach()) for name, part in tally.sums.items()} == told
    for module in model.modules():
        if isinstance(module, MoE):
            assert module._chosen_E is not None
            assert float(module._chosen_E.sum()) == 2 * int((documents >= 0).sum())


class _Kept:
    """Bytes that autograd keeps for the backward pass, each memory once, without the parameters'."""

    def __init__(self, model: nn.Module) -> None:
        self._known = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.total = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor


def kept_bytes(config: Any, layers: int) -> int:
    model, (rows, documents) = fresh(shape().changed(n_layers=layers), seed=1), packed()
    if config is not None:
        checkpoint_activations(model, config)
    seen = _Kept(model)
    with torch.autograd.graph.saved_tensors_hooks(seen.pack, lambda tensor: tensor):
        forward_of(model.train(), torch.float32)(rows, documents, TokenLoss(rows))
    return seen.total


def test_of_a_block_its_input_alone_is_kept() -> None:
    """Four bytes a number; selective checkpointing keeps one block in two as it is."""
    full, some, none = FullCheckpointingConfig(), SelectiveCheckpointingConfig(every=2), None
    grown = [kept_bytes(config, 6) - kept_bytes(config, 4) for config in (full, some, none)]
    assert grown[0] == 2 * 4 * 2 * T * 16
    assert grown[1] == (grown[0] + grown[2]) // 2
    assert grown[2] > 10 * grown[0]


@torch.no_grad()
def test_names_and_decoding_are_those_of_the_model() -> None:
    model, other = fresh(shape(), seed=1).eval(), fresh(shape(), seed=1).eval()
    checkpoint_activations(other, FullCheckpointingConfig())
    assert list(other.state_dict()) == list(model.state_dict())
    rows, documents = packed()
    both = [forward_of(m, torch.float32)(rows, documents, TokenLoss(rows)).loss for m in (model, other)]
    assert torch.equal(both[0], both[1])


@pytest.mark.parametrize("verb", ["pretrain", "dpo"])
def test_a_run_is_the_same_to_the_bit(verb: str, data: Path, memory: Path) -> None:
    """With dropout in its model, and a resumption."""
    start = memory / "start-of-recompute"
    train(tiny.job("pretrain", start, data), Silent())
    ends = []
    for name, config in (("kept", None), ("again", FullCheckpointingConfig())):
        changes = {"start": start} if verb == "dpo" else {}
        out = memory / f"{verb}-{name}"
        train(tiny.job(verb, out, data, memory=MemoryConfig(checkpointing=config), **changes), Silent())
        ends.append(tiny.final_digests(out))
    assert ends[0] == ends[1]
