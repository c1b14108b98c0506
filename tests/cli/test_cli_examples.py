"""Every example runs, and does what it says."""

import runpy
from pathlib import Path

import pytest
from program import call

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
