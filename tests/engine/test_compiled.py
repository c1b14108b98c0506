"""Compiled blocks: the eager run within rounding, said aloud, and refused where there is nothing to compile with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch._inductor.config
from safetensors.torch import load_file

from cirilla_cli.compat import compiling
from cirilla_cli.engine.config import EvaluationConfig, FullCheckpointingConfig, MemoryConfig, PrecisionConfig
from cirilla_cli.engine.run import plan, train
from cirilla_cli.errors import CirillaError, InterruptedRun
from cirilla_cli.progress import Silent

pytestmark = pytest.mark.slow

LOSS, WEIGHT = 1e-5, 5e-5
"""Relative for losses, absolute for weights: float32 in another order."""

SHOWN = EvaluationConfig(every=2, prompts=("griffin",), sample_tokens=3)


@pytest.fixture
def job(tiny: ModuleType, data: Path) -> Callable[..., Any]:
    """A run of packed rows, without dropout: compiled code draws other masks."""

    def make(out: Path, *, compiled: bool, **changes: Any) -> Any:
        changes = {"model": tiny.decoder(n_layers=2, dropout=0.0), "eval": SHOWN, **changes}
        made = tiny.job("pretrain", out, data, **changes)
        return replace(made, compile=compiled, resolved={**made.resolved, "compile": compiled})

    return make


def weights(tiny: ModuleType, out: Path) -> dict[str, torch.Tensor]:
    found = tiny.saved(out)
    return dict(load_file(found[max(found)] / "model.safetensors"))


@pytest.mark.parametrize("again", [False, True])
def test_a_compiled_run_learns_what_an_eager_one_does(
    again: bool, job: Callable[..., Any], memory: Path, tiny: ModuleType
) -> None:
    keys = {"memory": MemoryConfig(checkpointing=FullCheckpointingConfig() if again else None)}
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    listener = tiny.Listener()
    train(job(memory / "compiled", compiled=True, **keys), listener)
    train(job(memory / "eager", compiled=False, **keys), Silent())
    curves = [[loss for _, loss in tiny.curve(memory / name)] for name in ("compiled", "eager")]
    assert curves[0] == pytest.approx(curves[1], rel=LOSS)
    found, expected = weights(tiny, memory / "compiled"), weights(tiny, memory / "eager")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=WEIGHT)
    # Said once, and before the first step: neither evaluation nor generation compiles anything.
    said = [text for text in listener.said if text.startswith("compil") or "compiled" in text]
    assert said[0] == "compiling the blocks (compile: true)"
    assert len(said) == 2
    assert int(said[1].split()[1]) > 0
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == int(said[1].split()[1])


def test_a_compiled_run_in_bfloat16_with_dropout_continues_to_the_bit(
    job: Callable[..., Any], memory: Path, tiny: ModuleType
) -> None:
    keys = {"precision": PrecisionConfig(compute="bfloat16"), "model": tiny.decoder(n_layers=2)}
    straight, stopped = (job(memory / name, compiled=True, **keys) for name in ("straight", "stopped"))
    train(straight, Silent())
    with pytest.raises(InterruptedRun):
        train(stopped, tiny.interrupt_after(3))
    torch._dynamo.reset()
    train(stopped, Silent())
    assert tiny.final_digests(memory / "stopped") == tiny.final_digests(memory / "straight")


def test_a_run_that_began_compiled_goes_on_compiled(job: Callable[..., Any], out: Path) -> None:
    train(job(out, compiled=False), Silent())
    with pytest.raises(CirillaError, match=r"`compile` was False, is True"):
        train(job(out, compiled=True), Silent())


def test_without_a_compiler_the_run_is_refused_before_anything_is_written(job: Callable[..., Any], out: Path) -> None:
    from torch._inductor import cpp_builder

    cpp_builder.cpp_compiler_search.cache_clear()
    with torch._inductor.config.patch({"cpp.cxx": ("/nowhere/c++",)}):
        for would in (train, plan):
            with pytest.raises(CirillaError, match=r"`compile` is true, but there is no C\+\+ compiler") as refusal:
                would(job(out, compiled=True), Silent())
            assert "compile=false" in str(refusal.value.hint)
    assert not out.exists()
    cpp_builder.cpp_compiler_search.cache_clear()


def test_code_that_is_compiled_again_and_again_ends_the_run_and_is_not_left_eager() -> None:
    grown = torch.compile(lambda x: x + 1, backend="eager", dynamic=False)

    def grow() -> None:
        with compiling(True):
            for size in range(2, 40):
                grown(torch.zeros(size))

    with pytest.raises(CirillaError, match="cannot be compiled here") as refusal:
        grow()
    assert refusal.value.hint == "compile=false"
    torch._dynamo.reset()


def test_a_block_that_is_compiled_in_pieces_says_where(
    job: Callable[..., Any], out: Path, tiny: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cirilla_cli.model.mlp import Gated

    whole = Gated.forward

    def broken(self: Gated, *given: Any) -> torch.Tensor:
        torch._dynamo.graph_break()
        return whole(self, *given)

    monkeypatch.setattr(Gated, "forward", broken)
    torch._dynamo.reset()
    listener = tiny.Listener()
    train(job(out, compiled=True, model=tiny.decoder(dropout=0.0), eval=None), listener)
    assert any(text.startswith("note: a block is compiled in pieces: ") for text in listener.said)
