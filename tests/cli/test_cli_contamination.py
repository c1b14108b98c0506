"""What a pipeline measures and what it trains on: compared before anything is trained."""

import json
from pathlib import Path
from typing import Any

import pytest
from program import RECIPE, call

ASKED = "How many stones did the smith Odo carry over the hill in the spring?"
LEAK = {"kind": "chat", "id": "leak", "split_key": "x", "source": "elsewhere", "generator": {"strategy": "by hand"}}
FILES = {
    "tokenize.yaml": "recipe: 1\ntokenize: {inputs: [words.txt], tokenizer: {kind: sentencepiece, vocab_size: 320}}\n",
    "pretrain.yaml": RECIPE,
    "sft.yaml": "recipe: 1\nextends: base/sft\nmodel: {kind: checkpoint, path: x}\n"
    "data: {path: [rows.jsonl], val: 0.0}\ntrain: {steps: 2, batch_tokens: 256}\neval: null\n",
    "eval.yaml": "recipe: 1\neval: {tasks: {bench: {kind: questions, path: bench.jsonl, max_new_tokens: 2}}}\n",
    "p.yaml": """\
recipe: 1
name: toy
out: out
stages:
  tokenize: {verb: tokenize, recipe: tokenize.yaml}
  pretrain: {verb: pretrain, recipe: pretrain.yaml, with: {data.sources.wiki.path: "{tokenize}"}}
  sft: {verb: sft, recipe: sft.yaml, with: {model.path: "{pretrain}"}}
  eval: {verb: eval, recipe: eval.yaml, with: {eval.model: "{sft}"}}
""",
}


def chat(asks: str, **more: str) -> str:
    turns = [{"role": "user", "content": asks}, {"role": "assistant", "content": "Nine."}]
    return json.dumps(LEAK | {"messages": turns} | more) + "\n"


def bench(*, seen: bool, asks: str = ASKED) -> None:
    row = {"question": asks, "answers": ["nine"], "seen": seen, "split_key": "q"}
    Path("bench.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline whose benchmark stands in one of two rows of its fine-tuning."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text, encoding="utf-8")
    Path("words.txt").write_text(
        "".join(f"The mill of year {n} stood by a river, and it was old.\n" for n in range(200)), encoding="utf-8"
    )
    Path("rows.jsonl").write_text(
        chat("Who is Odo, whom the miller sees?", id="good") + chat(f"Well: {ASKED.lower()}"), encoding="utf-8"
    )
    bench(seen=False)
    return tmp_path


def found() -> dict[str, Any]:
    """What is on record, by stage."""
    return {one["stage"]: one for one in json.loads(Path("out/contamination.json").read_text(encoding="utf-8"))}


def test_a_leaked_benchmark_stops_the_pipeline_before_the_stage_that_would_learn_it(toy: Path) -> None:
    done = call("run", "p.yaml")
    assert done.code == 1, done
    assert "stage `sft` trains on 1 of 2 rows that hold what is measured: 1 of 1 texts of eval.bench" in done.err
    assert "contamination=report" in done.err
    assert "verb: curate" in done.err
    assert not Path("out/sft").exists()
    assert found()["tokenize"]["leaking"] == 0
    (row,) = found()["sft"]["first"]
    assert (row["dropped"], row["source"], row["set"], row["text"]) == (
        "leak",
        "rows.jsonl",
        "eval.bench",
        "bench.jsonl:1",
    )


def test_report_goes_on_and_says_so(toy: Path) -> None:
    done = call("run", "p.yaml", "contamination=report")
    assert done.code == 0, done
    assert "1 of 1 texts of eval.bench" in done.err
    assert Path("out/eval/scores.json").is_file()


def test_what_is_marked_seen_is_exempt_and_a_set_that_changes_is_compared_before_it_is_measured(toy: Path) -> None:
    bench(seen=True)
    assert call("run", "p.yaml").code == 0
    assert found()["sft"]["sets"]["eval.bench"] == {
        "texts": 1, "seen": 1, "leaked": 0, "leaked_share": 0.0, "resembled": 0, "resembled_share": 0.0, "rows": 0,
    }  # fmt: skip
    bench(seen=False)
    done = call("run", "p.yaml")
    assert done.code == 1, done
    assert "stage `sft` trains on 1 of 2 rows" in done.err


def test_rows_that_are_tokenized_for_pretraining_are_compared(toy: Path) -> None:
    bench(seen=False, asks="The mill of year 7 stood by a river, and it was old.")
    done = call("run", "p.yaml")
    assert done.code == 1, done
    assert "stage `tokenize` trains on 1 of 1 rows" in done.err
    assert not Path("out/tokenize").exists()


CURATED = """\
recipe: 1
name: toy
out: out
stages:
  curate: {verb: curate, recipe: curate.yaml}
  sft:
    verb: sft
    recipe: sft.yaml
    with: {data.path: ["{curate}/samples.jsonl", more.jsonl]}
"""


def test_what_a_curate_stage_is_told_of_is_looked_for_in_rows_that_pass_it_by(toy: Path) -> None:
    """By that stage's own measure, which the rows that it kept have passed."""
    words = [f"word{n}" for n in range(60)]
    bench(seen=False, asks=f"Why {' '.join(words)}?")
    # Nine tenths of it: a leak by the usual measure, and none by that of the stage.
    part = chat(f"Why {' '.join(words[:54])}, and more?")
    Path("rows.jsonl").write_text(chat("Who is Odo, whom the miller sees?", id="good") + part, encoding="utf-8")
    curate = "recipe: 1\ncurate: {sources: {rows: {path: rows.jsonl}}, evaluation: {bench: bench.jsonl}"
    Path("curate.yaml").write_text(f"{curate}, contamination: {{span: 100}}}}\n", encoding="utf-8")
    Path("p.yaml").write_text(CURATED, encoding="utf-8")
    Path("more.jsonl").write_text(chat(f"Well, why {' '.join(words)}?", id="more"), encoding="utf-8")
    done = call("run", "p.yaml")
    assert done.code == 1, done
    assert "stage `sft` trains on 1 of 3 rows that hold what is measured: 1 of 1 texts of curate.bench" in done.err
    assert [row["source"] for row in found()["sft"]["first"]] == ["more.jsonl"]
    assert not Path("out/sft").exists()
