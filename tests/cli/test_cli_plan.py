"""`cirilla plan`: the numbers of a recipe's model, against the model itself."""

import json
from pathlib import Path
from typing import Any

import pytest
from program import call

from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.readout import LastLogits
from cirilla_cli.recipe.load import load_recipe


def figures(*words: str) -> dict[str, Any]:
    done = call("plan", *words, "--json")
    assert done.code == 0, done
    found: dict[str, Any] = json.loads(done.out)
    return found


@pytest.mark.parametrize("name", ["gpt2", "deepseek-v3", "granite-hybrid", "modernbert"])
def test_parameters_are_those_of_the_built_model(name: str) -> None:
    import torch

    # Few and short rows: the walk of a step takes its time, and what is counted here does not depend on them.
    words = [name, "model.context_length=256", "train.batch_tokens=512", "train.micro_batch_tokens=512"]
    model = load_recipe(name, "pretrain", words[1:]).recipe.model  # type: ignore[attr-defined]
    with torch.device("meta"):
        built = model.changed(vocab_size=32768).build()
    found = figures(*words)
    assert found["parameters"] == sum(p.numel() for p in built.parameters())
    assert found["memory"]["parameters"] >= 4 * found["parameters"] == found["memory"]["gradients"]


def test_the_cache_is_what_generating_allocates() -> None:
    """Two layers, one key/value head 16 wide, 64 tokens, two numbers of two bytes: and so it is when it is done."""
    import torch

    words = ["qwen3", "model.d_model=32", "model.n_layers=2", "model.context_length=64", "model.vocab_size=50"]
    words += ["model.mixers.A.n_heads=2", "model.mixers.A.n_kv_heads=1", "model.mixers.A.head_dim=16"]
    shape = load_recipe(words[0], "pretrain", words[1:]).recipe.model  # type: ignore[attr-defined]
    assert isinstance(shape, DecoderConfig)
    model = shape.build().bfloat16()
    caches = model.make_caches(64)
    model(torch.zeros(1, 64, dtype=torch.long), SequenceLayout.rows(1, 64), caches, readout=LastLogits())
    positions = sum(64 * 8 for _ in caches)
    assert figures(*words)["cache_bytes"] == 2 * 2 * 64 * 16 * 2 == sum(c.nbytes for c in caches) - positions


def test_compute_of_the_whole_run_is_that_of_a_token_times_its_tokens() -> None:
    found = figures("llama3", "train.tokens=1M")
    whole_steps = -(-1_000_000 // found["tokens_per_step"]) * found["tokens_per_step"]
    assert (found["tokens"], found["train_flops"]) == (whole_steps, found["train_flops_per_token"] * whole_steps)
    assert found["train_flops_per_token"] == pytest.approx(
        found["forward_flops_per_token"] + found["backward_flops_per_token"]
    )
    assert figures("llama3", "train.steps=3", "train.batch_tokens=4096")["tokens"] == 3 * 4096


def test_time_is_compute_over_the_given_rate() -> None:
    found = figures("llama3", "train.steps=3", "train.batch_tokens=4096", "--rate", "1e12")
    assert found["seconds"] == pytest.approx(found["train_flops"] / 1e12)
    assert found["rate_source"] == "given"


TINY = ["qwen3", "model.d_model=64", "model.n_layers=2", "model.context_length=256", "model.vocab_size=500",
        "model.mixers.A.n_heads=2", "model.mixers.A.n_kv_heads=1", "model.mlp.d_ff=128", "train.batch_tokens=4096",
        "train.micro_batch_tokens=4096", "precision.compute=float32"]  # fmt: skip


def test_what_does_not_fit_is_given_a_smaller_micro_batch_that_does() -> None:
    whole = figures(*TINY, "--device", "cpu:64GiB", "--rate", "1")
    assert (whole["fits"], whole["change"]) == (True, None)
    short = figures(*TINY, "--device", f"cpu:{int(1.15 * whole['peak_bytes']) - 5_000_000}", "--rate", "1")
    assert short["fits"] is False
    settings = short["change"]["settings"]
    again = figures(*TINY, *(f"{key}={value}" for key, value in settings.items()), "--device", "cpu", "--rate", "1")
    assert again["peak_bytes"] == short["change"]["peak_bytes"] <= short["device_bytes"] / 1.15 < whole["peak_bytes"]
    assert settings["train.micro_batch_tokens"] < 4096
    assert figures(*TINY, "--device", "cpu:1MiB", "--rate", "1")["change"] is None


def test_a_card_that_is_not_here_is_planned_for() -> None:
    found = figures(*TINY, "--device", "16GiB")
    assert (found["device"], found["fits"], found["seconds"]) == ("cuda", True, None)
    assert "--rate" in found["rate_source"]


def test_a_checkpoint_is_planned_for_without_its_weights(lab: Path) -> None:
    weights = next(lab.glob("runs/pre/checkpoints/step-*/model.safetensors"))
    before = figures("quickstart/sft", "model.path=runs/pre")
    assert before["parameters"] > 1000
    assert weights.is_file()


@pytest.mark.parametrize("change", [["optim.kind=adamw", "optim.lr=1e-3"], ["memory.checkpointing={kind: full}"]])
def test_a_card_is_planned_for_with_any_optimizer_and_recomputed_blocks(change: list[str]) -> None:
    usual, changed = figures(*TINY, "--device", "16GiB"), figures(*TINY, *change, "--device", "16GiB")
    assert changed["fits"] is True
    assert changed["peak_bytes"] < 2 * usual["peak_bytes"]


def test_where_nothing_fits_a_card_no_change_is_proposed() -> None:
    found = figures(*TINY, "--device", "1KiB", "--rate", "1")
    assert (found["fits"], found["change"]) == (False, None)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["quickstart/scrape"], "which trains no model"),
        (["quickstart/sft", "model.path=nowhere"], "there is no such folder"),
        (["qwen3", "tokenizer=null"], "nothing says how large it is"),
        (["qwen3", "model.d_modle=3"], "did you mean `d_model`"),
        (["qwen3", "--device", "16XB"], "`--device` is '16XB'"),
        (["qwen3", "--device", "tpu:3GiB"], "a size, a name (cpu, cuda), or both"),
        (["qwen3", "--device", "cpu:"], "`--device` is 'cpu:'"),
        (["qwen3", "--rate", "nan"], "`--rate` is nan: must be a finite number"),
        (["qwen3", "--rate", "inf"], "`--rate` is inf: must be a finite number"),
        (["qwen3", "--vocab", "500", "train.batch_tokens=1000000000000000"], "fit into no memory"),
        (["qwen3", "--rate", "-1"], "`--rate` is -1: must be above 0"),
    ],
)
def test_what_cannot_be_planned_is_said(words: list[str], says: str) -> None:
    done = call("plan", *words)
    assert (done.code, says in done.err) == (1, True), done


def test_a_check_says_what_a_batch_wide_balance_loss_depends_on() -> None:
    batch = "model.mlp.balance={kind: batch}"
    assert "note" not in call("recipe", "check", "mixtral").out
    assert "note: `model.mlp.balance` of kind batch" in call("recipe", "check", "mixtral", batch).out
    assert "note" not in call("recipe", "check", "mixtral", batch, "train.micro_batch_tokens=null").out
