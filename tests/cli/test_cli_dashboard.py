"""What a terminal shows of work under way, as rich records it, and that pipes never see it."""

import io
import os
import pty
import subprocess
from pathlib import Path

import pytest
from program import CIRILLA, environment
from rich.console import Console

from cirilla_cli.cli.dashboard import Board, Curve, flow
from cirilla_cli.engine.metrics import sparkline

FIGURES = {"tok/s": 3610.0, "mfu": 0.43, "memory": 1.5 * 2**30, "lr": 3e-4, "norm": 0.8125}
SHOWN = ["sft", "110/200", "55%", "1 min 30 s left", "loss 1.5", "val 1.75", "3.61k tok/s", "43% mfu", "1.5 GiB",
         "lr 0.0003", "norm 0.8125"]  # fmt: skip


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def recorded(width: int) -> Console:
    return Console(width=width, record=True, force_terminal=True, file=io.StringIO(), legacy_windows=False)


def drawn(board: Board, console: Console) -> list[str]:
    """The lines of the view."""
    console.print(board)
    return console.export_text().splitlines()


def training(width: int) -> tuple[Board, Console, Clock]:
    """A run that went on after step 100 and did ten steps in ten seconds."""
    console, clock = recorded(width), Clock()
    board = Board(console, clock)
    board.step("sft", 100, 200, loss=5.0, val=1.75)
    for step in range(101, 111):
        clock.now += 1.0
        board.step("sft", step, 200, loss=4.0 - 0.25 * (step - 100), **FIGURES)
    return board, console, clock


@pytest.mark.parametrize("width", [60, 80, 120])
def test_everything_is_shown_and_nothing_is_cut_off(width: int) -> None:
    board, console, _ = training(width)
    lines = drawn(board, console)
    assert max(map(len, lines)) <= width
    assert len(lines) == 3
    text = "\n".join(lines)
    assert [part for part in SHOWN if part not in text] == []
    assert "…" not in text
    curve = next(line for line in lines if "loss" in line).split()[2]
    assert (curve[0], curve[-1], len(curve)) == ("█", "▁", 11)


def test_a_very_narrow_terminal_keeps_to_its_width() -> None:
    board, console, _ = training(24)
    lines = drawn(board, console)
    assert max(map(len, lines)) <= 24
    assert "loss 1.5" in "\n".join(lines)


def test_time_left_goes_by_the_steps_of_this_sitting() -> None:
    """Ten steps took ten seconds, ninety are left; by all 110 it would be eight seconds."""
    board, _, clock = training(80)
    assert board.works["sft"].left(clock()) == "1 min 30 s left"


def test_finished_work_leaves_the_view_and_words_stay() -> None:
    board, console, _ = training(80)
    board.say("[bold]:smile: [/]")
    board.step("prompts", 3)
    board.step("sft", 200, 200, loss=1.0)
    assert drawn(board, console) == ["[bold]:smile: [/]", "prompts 3"]


def test_what_is_no_number_does_not_stop_the_view() -> None:
    console = recorded(80)
    board = Board(console, Clock())
    board.step("sft", 1, 0, loss=float("nan"), mfu=float("inf"))
    board.step("sft", 2, 3, loss=float("inf"), norm=float("nan"))
    assert "loss inf" in "\n".join(drawn(board, console))


def test_a_terminal_without_unicode_gets_none() -> None:
    board, _, _ = training(80)
    raw = io.BytesIO()
    console = Console(width=80, force_terminal=True, color_system=None, file=io.TextIOWrapper(raw, encoding="ascii"))
    console.print(board)
    console.file.flush()
    lines = raw.getvalue().decode("ascii").splitlines()
    assert "#" in lines[0]
    assert "loss 1.5" in lines[1]


def test_a_long_curve_is_joined_into_means() -> None:
    """Sixteen values in room for eight: means of two after eight, of four after sixteen."""
    curve = Curve(most=8)
    for value in range(16):
        curve.add(float(value))
    assert curve.values == [1.5, 5.5, 9.5, 13.5]


def test_a_sparkline_is_as_wide_as_asked_and_falls_where_values_do() -> None:
    assert sparkline([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]) == "█▇▆▅▄▃▂▁"
    assert sparkline([float(n) for n in range(79)], 40)[0] == "▁"
    assert {len(sparkline([1.0] * n, 40)) for n in (40, 41, 79, 80, 81, 500)} == {40}
    assert sparkline([float("nan")]) == ""
    assert len(sparkline([1.0, float("inf"), 2.0])) == 2


def test_parts_flow_onto_as_few_lines_as_hold_them() -> None:
    assert flow(["ab", "cd", "ef"], 7) == ["ab   cd", "ef"]


def on_a_terminal(*words: str, **more: str) -> tuple[str, str]:
    """Standard output, a pipe, and what a terminal on standard error saw of `cirilla WORDS`."""
    ours, theirs = pty.openpty()
    env = {k: v for k, v in environment().items() if k != "NO_COLOR"} | {"TERM": "xterm", **more}
    with subprocess.Popen([str(CIRILLA), *words], stdout=subprocess.PIPE, stderr=theirs, env=env) as process:
        os.close(theirs)
        seen = b""
        try:
            while block := os.read(ours, 4096):
                seen += block
        except OSError:  # how Linux says that the other side is closed
            pass
        assert process.stdout is not None
        out = process.stdout.read().decode()
    os.close(ours)
    assert process.returncode == 0, seen
    return out, seen.decode()


def test_a_view_on_the_terminal_leaves_the_pipe_alone(lab: Path) -> None:
    asked = [
        "generate",
        "runs/pre",
        "--prompt",
        "Geralt",
        "--max-new-tokens",
        "2",
        "--temperature",
        "0",
        "--ignore-eos",
    ]
    out, seen = on_a_terminal(*asked)
    assert out.strip()
    assert out.strip() not in seen


def test_training_draws_on_a_terminal_and_writes_lines_without_colour(lab: Path) -> None:
    train = ["pretrain", "tiny.yaml", "train.steps=3", "log.plot=false", "--out"]
    _, seen = on_a_terminal(*train, "runs/drawn")
    assert "\x1b[" in seen  # the cursor is moved
    _, seen = on_a_terminal(*train, "runs/lines", NO_COLOR="1")
    assert "\x1b" not in seen
    assert "pretrain 3/3  loss " in seen
