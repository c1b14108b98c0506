"""MODEL is a run, a checkpoint, a Hugging Face folder or a Hub name; everything else is refused by name."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from cirilla_cli.checkpoint import write_checkpoint
from cirilla_cli.errors import CirillaError
from cirilla_cli.loading import load_model, newest_model
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.progress import Silent

from .conftest import make_config, make_model


def save(run: Path, step: int) -> Decoder:
    model = make_model(make_config(), seed=step)
    optimizer = torch.optim.AdamW(model.parameters())
    state = {"step": step, "verb": "sft"}
    write_checkpoint(run, step, model, tokenizer=None, optimizer=optimizer, state=state, texts={})
    return model


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (1, 2, 3):
        save(tmp_path / "runs" / "a", step)
    return tmp_path / "runs" / "a"


def step_of(where: Path) -> int | None:
    return load_model(where, progress=Silent()).step


def index(run: Path, **entries: object) -> None:
    (run / "checkpoints" / "index.json").write_text(json.dumps(entries))


def test_a_run_gives_its_default_checkpoint(run: Path) -> None:
    assert step_of(run) == 3
    index(run, last="step-000003", best=None, default="last")
    assert step_of(run) == 3
    index(run, last="step-000003", best="step-000002", default="best")
    assert step_of(run) == 2
    index(run, last="step-000003", best="step-000001", default="best")
    assert step_of(run) == 1


def test_an_incomplete_default_gives_way_to_the_newest_complete_one(run: Path) -> None:
    index(run, last="step-000003", best=None, default="last")
    (run / "checkpoints" / "step-000003" / "model.safetensors").write_bytes(b"half")
    assert step_of(run) == 2
    (run / "checkpoints" / "step-000002" / "MANIFEST.json").unlink()
    assert step_of(run) == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"default": 3}', '{"default": "last", "last": {"step": 1}}'])
def test_a_damaged_index_gives_way_to_the_newest_complete_checkpoint(text: str, run: Path) -> None:
    (run / "checkpoints" / "index.json").write_text(text)
    assert step_of(run) == 3


def test_a_checkpoint_is_read_with_the_weights_it_was_written_with(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = save(run, 4)
    folder = run / "checkpoints" / "step-000004"
    loaded = load_model(folder, progress=Silent())
    assert (loaded.step, loaded.verb, loaded.run, loaded.tokenizer) == (4, "sft", run, None)
    assert not loaded.model.training
    for name, tensor in written.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name])
    assert step_of(run / "checkpoints") == 4
    monkeypatch.chdir(folder)
    assert step_of(Path()) == 4


def test_the_newest_model_is_the_run_that_saved_last(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "runs" / "deep" / "b"
    save(other, 1)
    for manifest in (tmp_path / "runs" / "a").rglob("MANIFEST.json"):
        os.utime(manifest, ns=(0, 0))
    assert newest_model(tmp_path / "runs") == other
    # A newer manifest whose files do not fit it does not count.
    (other / "checkpoints" / "step-000001" / "state.json").unlink()
    assert newest_model(tmp_path / "runs") == run


def test_without_any_model_the_quickstart_is_named(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(CirillaError) as caught:
            newest_model(root)
        assert caught.value.hint == "cirilla run quickstart"


@pytest.mark.parametrize("name", ["nothing", "runs/not/there", "../x", "a b/c"])
def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CirillaError, match="no such folder"):
        load_model(name, progress=Silent())


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("model-q4.gguf", "GGUF"),
        ("pytorch_model.bin", "never loaded"),
        ("epoch=1.ckpt", "never loaded"),
        ("notes.txt", "looked for"),
    ],
)
def test_a_folder_that_is_no_model_says_what_was_looked_for(tmp_path: Path, file: str, said: str) -> None:
    (tmp_path / file).write_bytes(b"x")
    with pytest.raises(CirillaError) as caught:
        load_model(tmp_path, progress=Silent())
    assert said in str(caught.value)
    assert "config.json" in str(caught.value)
    with pytest.raises(CirillaError):
        load_model(tmp_path / file, progress=Silent())


def test_weights_of_the_right_size_with_a_wrong_bit_are_no_model(run: Path) -> None:
    folder = run / "checkpoints" / "step-000003"

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)

    # Not read here; a run that continues reads it.
    flip(folder / "optimizer.safetensors")
    assert load_model(folder, progress=Silent()).step == 3
    flip(folder / "model.safetensors")
    with pytest.raises(CirillaError, match=r"step-000003: model.safetensors: damaged") as caught:
        load_model(folder, progress=Silent())
    assert "another checkpoint" in str(caught.value.hint)


def test_a_run_without_a_complete_checkpoint_says_so(run: Path) -> None:
    for manifest in run.rglob("MANIFEST.json"):
        manifest.unlink()
    with pytest.raises(CirillaError, match="no complete checkpoint"):
        load_model(run, progress=Silent())
    with pytest.raises(CirillaError, match="not complete"):
        load_model(run / "checkpoints" / "step-000003", progress=Silent())
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CirillaError, match="no model here"):
        load_model(run, progress=Silent())


def test_a_model_of_the_library_cirilla_is_refused_with_the_reason(tmp_path: Path) -> None:
    """Its config.json has the arguments under the first key; the weights are not looked at."""
    args = {"dim": 1024, "d_ff": 2048, "n_layers": 16, "context_window": 2048, "num_experts": 4, "k": 2, "soft_cap": 20}
    (tmp_path / "config.json").write_text(json.dumps({"args": args}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CirillaError, match=r"its experts \(4 a layer\) and its router have biases") as caught:
        load_model(tmp_path)
    assert [(where.key, where.value) for where in caught.value.where] == [("args.num_experts", 4)]
    (tmp_path / "config.json").write_text(json.dumps({"args": {"dim": 4}}))
    with pytest.raises(CirillaError, match="`model_type` is None"):
        load_model(tmp_path)
