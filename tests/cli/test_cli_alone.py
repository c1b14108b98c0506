"""One command at a time in one place: a second is refused by name, and touches nothing."""

import sys
from pathlib import Path

import pytest
from program import call

from cirilla_cli.held import held

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no locks that go with their process")

CALLS = {
    "synth into a folder": ("synth documents.jsonl --out made", "made"),
    "synth into a file": ("synth documents.jsonl --out made.jsonl", "made.synth"),
    "tokenize": ("tokenize samples.jsonl tokenize.tokenizer.vocab_size=400 --out made", "made"),
    "tokenize of a pipe": ("tokenize - tokenize.tokenizer.vocab_size=400 --out made", "made"),
    "run": ("run p.yaml --out made", "made"),
}
PIPELINE = "recipe: 1\nname: p\nstages:\n  synth: {verb: synth, with: {synth.inputs: [documents.jsonl]}}\n"


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", CALLS)
def test_a_second_command_in_one_place_is_refused_and_touches_nothing(name: str, lab: Path) -> None:
    words, place = CALLS[name]
    Path("p.yaml").write_text(PIPELINE, encoding="utf-8")
    rows = Path("samples.jsonl").read_text(encoding="utf-8")
    with held(Path(place)):
        before = everything(lab)
        done = call(*words.split(), stdin=rows)
        assert (done.code, f"{place}: is being written already, by process" in done.err) == (1, True), done
        assert everything(lab) == before
    done = call(*words.split(), stdin=rows)
    assert done.code == 0, done
    assert not list(lab.rglob(".running"))
