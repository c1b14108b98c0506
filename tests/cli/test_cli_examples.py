"""Every example runs, and does what it says."""

import runpy
from pathlib import Path

import pytest
import torch
from program import call

from cirilla_cli.loading import load_any
from cirilla_cli.model.layout import SequenceLayout

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_model_of_ones_own_pieces_learns_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "mix_your_own.py"))["main"](25)
    lines = capsys.readouterr().out.splitlines()
    losses = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("step")]
    assert losses[0] > 5.0
    assert losses[-1] < 0.5 * losses[0]
    assert lines[-1].startswith("The witcher ")


def test_a_pushed_model_is_read_and_talks(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("push", "runs/sft", "--to", "dir:hf-out", "-q").code == 0
    runpy.run_path(str(EXAMPLES / "read_a_checkpoint.py"))["main"]("hf-out")
    shown = capsys.readouterr().out
    assert "layer  0  attention      swiglu" in shown
    assert "parameters" in shown
    runpy.run_path(str(EXAMPLES / "talk.py"))["main"]("hf-out", "Who is Geralt?")
    assert capsys.readouterr().out.startswith("Who is Geralt?\n> ")


def test_texts_become_vectors(readers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By Hugging Face's recipe: the mean of a text's last hidden states, each text alone."""
    texts = ["The wolf is grey.", "A grey wolf.", "gold"]
    vectors = runpy.run_path(str(EXAMPLES / "vectors.py"))["main"](str(readers / "enc"), *texts)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("vectors of 32 numbers")
    assert [line.split()[i] for i, line in enumerate(lines[1:])] == ["1.000"] * 3
    loaded = load_any(readers / "enc")
    for text, vector in zip(texts, vectors, strict=True):
        ids = torch.tensor([loaded.tokenizer.document(loaded.tokenizer.encode(text))])  # type: ignore[union-attr]
        hidden = loaded.model.states(ids, SequenceLayout.rows(*ids.shape))  # type: ignore[operator]
        torch.testing.assert_close(vector, hidden[0].mean(0), rtol=0, atol=1e-5)


def test_a_reward_head_learns_which_text_is_better(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    assert runpy.run_path(str(EXAMPLES / "reward.py"))["main"](40) > 0.9
    before, after, values = capsys.readouterr().out.splitlines()
    assert int(before.split()[-1][:-1]) < int(after.split()[-1][:-1])
    assert values == "an untrained value head gives 12 numbers for 12 tokens"
