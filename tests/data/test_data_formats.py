"""Every format of earlier tools, as fixtures written by hand: what each file becomes, counted and read by eye."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cirilla_cli.data.inputs import check_inputs, read_inputs
from cirilla_cli.data.intake import Intake
from cirilla_cli.data.labelled import read_labelled
from cirilla_cli.data.rows import Document, Sample
from cirilla_cli.errors import CirillaError

HERE = Path(__file__).parent / "formats"

Said = list[tuple[str, ...]]


def said(*paths: Path, **how: Any) -> Said:
    """Each record as (title, text), (role, content, ...) or (role, content, ..., "+", chosen, "-", rejected)."""
    found: Said = []
    for record in read_inputs(paths, **how):
        if isinstance(record, Document):
            found.append((record.title, record.text))
            continue
        turns = tuple(part for m in record.messages for part in (m.role, m.content))
        pair = ("+", record.chosen or "", "-", record.rejected or "") if record.kind == "preference" else ()
        found.append((*turns, *pair))
    return found


ASKED = ("user", "Who is Ciri?", "assistant", "A witcher.")
TWICE = (*ASKED, "user", "Whose daughter?", "assistant", "Pavetta's.")
PAIR = ("user", "Who is Ciri?", "+", "A witcher.", "-", "A horse.")

FIXTURES: dict[str, Said] = {
    "cirilla.jsonl": [("Ciri", "A witcher.\n\nBorn in Cintra."), ("Ciri", "A list.\n\nOf two."), ASKED, TWICE, ASKED],
    "radovid-clean.jsonl": [ASKED],
    "qa/llama3.1:8b/Ciri.json": [ASKED],
    "qa/llama3.1:8b/Ciri_2.json": [("user", "Whose daughter?", "assistant", "Pavetta's.")],
    "turns/mistral/Ciri_1.json": [TWICE],
    "instruct/Ciri.json": [ASKED, ("user", "Whose daughter?", "assistant", "Pavettas.")],
    "pages/Kaer Morhen_Keep.txt": [("Kaer Morhen_Keep", "A keep.\nOld.\n")],
    "belle.json": [ASKED, TWICE],
    "sharegpt.json": [("system", "Be short.", *ASKED), TWICE],
    "seq-monkey.jsonl": [("", "One."), ("", "Two.")],
    "openai.jsonl": [ASKED],
    "alpaca.json": [ASKED, ("user", "Answer.\n\nWho is Ciri?", "assistant", "A witcher."), TWICE],
    "dolly.jsonl": [("user", "Who is Ciri?\n\nCiri is a witcher.", "assistant", "A witcher.")],
    "prompt-completion.jsonl": [ASKED, ASKED, ASKED],
    "trl.jsonl": [PAIR, PAIR, ("system", "Be short.", *PAIR)],
    "hh.jsonl": [(*ASKED, "user", "Sure?", "+", "Yes.", "-", "No.")],
    "ultrafeedback.jsonl": [PAIR],
    "ultrafeedback-binarized.jsonl": [PAIR],
}


@pytest.mark.parametrize("name", FIXTURES)
def test_a_fixture_of_an_earlier_tool_reads_as_written(name: str) -> None:
    assert said(HERE / name) == FIXTURES[name]
    assert check_inputs([HERE / name]) == len(FIXTURES[name])


def test_where_a_chat_comes_from_is_kept() -> None:
    samples = [r for r in read_inputs([HERE / "qa", HERE / "turns", HERE / "cirilla.jsonl"]) if isinstance(r, Sample)]
    kept = [(s.split_key, s.generator.teacher, s.parents) for s in samples]
    assert kept[:3] == [
        ("Ciri", "llama3.1:8b", ()), ("Ciri", "llama3.1:8b", ()), ("Cintra", "mistral", ("Cintra", "Pavetta"))
    ]  # fmt: skip
    assert kept[4] == ("Ciri", None, ("Cintra", "Pavetta"))


def test_lines_of_a_corpus_and_summaries_are_read_as_said() -> None:
    assert said(HERE / "corpus.txt", format="lines") == [("corpus 1", "First."), ("corpus 3", "Second.")]
    assert said(HERE / "corpus.txt") == [("corpus", "First.\n\nSecond.\n")]
    assert said(HERE / "summaries" / "mistral" / "Ciri.txt", format="summaries") == [
        ("user", "Tell me about Ciri.", "assistant", "A witcher.")
    ]


def test_a_summary_that_is_a_piece_of_the_page_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Ciri.txt").write_text("word " * 200)
    with pytest.raises(CirillaError, match="1000 characters that break off"):
        said(tmp_path / "Ciri.txt", format="summaries")


def test_grpo_prompts_meet_their_answers_by_id_whatever_the_order() -> None:
    prompts, answers = HERE / "grpo-prompts.jsonl", HERE / "grpo-answers.jsonl"
    assert said(prompts, answers) == [("user", "Whose daughter?", "assistant", "Pavetta's."), ASKED]
    with pytest.raises(CirillaError, match="a prompt without an answer") as caught:
        said(prompts)
    assert [where.line for where in caught.value.where] == [1, 2]
    assert said(answers, prompts) == said(prompts, answers)
    with pytest.raises(CirillaError, match="an answer to the prompt 1, which is not beside it: name the prompts' file"):
        said(answers)


def lines(path: Path, *values: Any) -> Path:
    text = "".join(f"{value if isinstance(value, str) else json.dumps(value)}\n" for value in values)
    path.write_text(text, encoding="utf-8")
    return path


def test_saved_answers_with_scores_become_pairs_and_those_without_chats(tmp_path: Path) -> None:
    """`saved_grpo_answers.jsonl` and `mistral_answers.jsonl`: arrays a line, beside the prompts."""
    prompts = HERE / "grpo-prompts.jsonl"
    saved = lines(tmp_path / "saved_grpo_answers.jsonl", [0, "A girl.", 4], [1, "Pavetta's.", 3.5], [0, "A horse.", 1])
    teacher = lines(tmp_path / "mistral_answers.jsonl", [0, "A witcher.", 9.5], [1, "Pavetta's own.", 3.5])
    with Intake(tmp_path / "bad.jsonl") as intake:
        found = said(prompts, saved, teacher, intake=intake)
    other = [("user", "Whose daughter?", "assistant", answer) for answer in ("Pavetta's.", "Pavetta's own.")]
    assert found == [PAIR, *other]
    assert check_inputs([prompts, saved, teacher]) == 3
    assert (intake.formats, intake.notes) == ({"grpo": 3}, {"answers between the best and the worst left out": 1})
    bare = lines(tmp_path / "bare.jsonl", [1, "Pavetta's."], [0, "A witcher."])
    assert said(prompts, bare) == [("user", "Whose daughter?", "assistant", "Pavetta's."), ASKED]
    one = lines(tmp_path / "one.jsonl", [0, "A witcher.", 7])
    assert said(prompts, one, bare)[-1] == ASKED
    assert said(prompts, lines(tmp_path / "list.json", [[0, "A witcher.", 7], [1, "Pavetta's.", 7]]))[0] == ASKED
    assert sorted(said(saved, prompts, teacher)) == sorted(found)


def test_saved_answers_that_are_wrong_are_set_aside_with_their_lines(tmp_path: Path) -> None:
    saved = lines(
        tmp_path / "saved.jsonl", [0, "A witcher.", 8], [0, "A horse."], [7, "Nobody's.", 1], [1, "", 2],
        '[1, "x", NaN]', [1, 5, 2], {"id": 1}, "[1,", [1, "Pavetta's.", 2],
    )  # fmt: skip
    with saved.open("a") as file:
        file.write('[1, "tor')
    with Intake(tmp_path / "bad.jsonl") as intake:
        found = said(HERE / "grpo-prompts.jsonl", saved, intake=intake)
    assert found == [
        ("user", "Who is Ciri?", "assistant", "A horse."),
        ASKED,
        ("user", "Whose daughter?", "assistant", "Pavetta's."),
    ]
    bad = {b["line"]: b for b in map(json.loads, (tmp_path / "bad.jsonl").read_text().splitlines())}
    expected = {
        3: "an answer to the prompt 7", 4: "`answer` is empty", 5: "`score` is nan", 6: "must be [id, answer]",
        7: "must be [id, answer]", 8: "not JSON", 10: "half-written",
    }  # fmt: skip
    assert bad.keys() == expected.keys()
    assert all(part in bad[line]["reason"] for line, part in expected.items())
    assert bad[8]["text"] == "[1,"


def test_a_grpo_database_of_odd_types_is_refused_row_by_row(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "grpo.db") as made:
        made.executescript((HERE / "grpo.sql").read_text())
        made.execute("UPDATE Generated_Dataset_Scores SET score = 'high' WHERE log_probs_id = 2")
        made.execute("INSERT INTO Generated_Dataset VALUES (5, '', 2), (6, 'Calanthe''s.', 2)")
    made.close()
    with Intake(tmp_path / "bad.jsonl") as intake:
        found = said(tmp_path / "grpo.db", intake=intake)
    assert [turns[3] for turns in found] == ["Pavetta's.", "Calanthe's."]
    reasons = [json.loads(row)["reason"] for row in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert ["`score` is 'high'" in reasons[0], "is empty" in reasons[1], "without an answer" in reasons[2]] == [
        True
    ] * 3


def test_a_grpo_database_gives_the_best_answer_against_the_worst(tmp_path: Path) -> None:
    path = tmp_path / "a #?grpo.db"
    with sqlite3.connect(path) as made:
        made.executescript((HERE / "grpo.sql").read_text())
    made.close()
    before = sorted(tmp_path.iterdir())
    with Intake(tmp_path / "bad.jsonl") as intake:
        assert said(path, intake=intake) == [PAIR, ("user", "Whose daughter?", "assistant", "Pavetta's.")]
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "bad.jsonl"])
    assert intake.notes == {"answers between the best and the worst left out": 1}
    assert json.loads((tmp_path / "bad.jsonl").read_text())["line"] == 3


@pytest.mark.parametrize(("name", "remedy"), {
    "titles.json": "a list of 2 titles, no rows; `cirilla scrape`",
    "nested-titles.json": "a list of 3 titles",
    "mixture.json": 'data.sources: {fineweb: {path: "fineweb", weight: 0.7}, c4: {path: "c4", weight: 0.3}}',
    "bert.jsonl": "data.kind=labelled_text",
    "kto.jsonl": "an undesirable answer",
    "questions.jsonl": "which `cirilla eval` reads",
}.items())  # fmt: skip
def test_what_is_no_text_to_learn_from_says_where_it_belongs(name: str, remedy: str) -> None:
    with pytest.raises(CirillaError) as caught:
        said(HERE / name)
    assert remedy in str(caught.value)
    assert f"{HERE / name}:" in str(caught.value)


def fineweb(path: Path, ids: list[int], count: int | None = None, version: int = 1) -> Path:
    """A file as modded-nanogpt's `get_fineweb10B.py` leaves it, written number by number."""
    header = [20240520, version, len(ids) if count is None else count, *[0] * 253]
    path.write_bytes(b"".join(n.to_bytes(4, "little") for n in header) + b"".join(i.to_bytes(2, "little") for i in ids))
    return path


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """A folder with a tokenizer of one id a letter, in which 0 ends a text."""
    from tokenizers import Tokenizer, decoders, models

    vocab = {"</s>": 0, **{letter: n for n, letter in enumerate("abcdefghijklmnopqrstuvwxyz ", 1)}}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.decoder = decoders.Fuse()
    made.add_special_tokens(["</s>"])
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return tmp_path


def test_token_files_are_split_at_their_ends_of_text_and_decoded(letters: Path) -> None:
    ids = [0, 3, 9, 18, 9, 0, 12, 5, 15]
    path = fineweb(letters / "shard.bin", ids)
    assert said(path) == [("shard 1", "ciri"), ("shard 2", "leo")]
    bare = letters / "train.bin"
    np.asarray(ids, "<u2").tofile(bare)
    assert said(bare) == [("train 1", "ciri"), ("train 2", "leo")]
    assert len(said(letters)) == 4  # the tokenizer's own files are no rows


def test_token_files_that_do_not_fit_are_refused(letters: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    cases = {
        "its header says 9 tokens, it holds 2": fineweb(letters / "cut.bin", [1, 2], count=9),
        "version 7 of this format": fineweb(letters / "new.bin", [1], version=7),
        "token 1 has the id 900, and the tokenizer beside it knows 28": fineweb(letters / "other.bin", [1, 900]),
        "no tokenizer in": fineweb(tmp_path_factory.mktemp("bare") / "x.bin", [1]),
    }
    for expected, path in cases.items():
        with pytest.raises(CirillaError, match=expected):
            said(path)


def test_tables_hold_the_same_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    rows = [{"messages": [{"role": "user", "content": "Who is Ciri?"}, {"role": "assistant", "content": "A witcher."}]}]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert said(tmp_path / "a.parquet") == [ASKED]
    cut = tmp_path / "cut.parquet"
    cut.write_bytes((tmp_path / "a.parquet").read_bytes()[:-30])
    with pytest.raises(CirillaError, match="cut.parquet: not a whole Parquet file"):
        said(cut)


@pytest.mark.parametrize("held", [b"", b"neither rows nor a table"], ids=["empty", "text"])
@pytest.mark.parametrize(("ending", "kind"), [("parquet", "Parquet"), ("arrow", "Arrow")])
def test_what_is_only_named_as_a_table_is_said(held: bytes, ending: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / f"a.{ending}").write_bytes(held)
    with pytest.raises(CirillaError, match=f"a.{ending}: not a whole {kind} file"):
        said(tmp_path / f"a.{ending}")


def test_a_saved_dataset_is_read_and_of_splits_one_must_be_named(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    one = Dataset.from_list([{"text": "One."}, {"text": "Two."}])
    one.save_to_disk(str(tmp_path / "one"))
    DatasetDict({"train": one, "test": one}).save_to_disk(str(tmp_path / "both"))
    one.select([1]).save_to_disk(str(tmp_path / "picked"))
    assert said(tmp_path / "one") == said(tmp_path / "both" / "train") == [("", "One."), ("", "Two.")]
    with pytest.raises(CirillaError, match="holds the splits train, test") as caught:
        said(tmp_path / "both")
    assert str(tmp_path / "both" / "train") in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("state.json", "{}", "`_data_files` is None: must be a list"),
        ("state.json", '{"_data_files": [5]}', "must be a list"),
        ("state.json", '{"_data_files": [{"filename": "gone.arrow"}]}', "gone.arrow: not there"),
        ("dataset_dict.json", '{"splits": 5}', "`splits` is 5: must be a list"),
        ("dataset_dict.json", '{"splits": ["train"]}', "state.json: not there"),
    ],
)
def test_a_dataset_that_is_not_whole_is_refused(tmp_path: Path, name: str, content: str, expected: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CirillaError, match=expected) as caught:
        said(tmp_path)
    assert "save_to_disk" in str(caught.value.hint)


AMBIGUOUS: dict[str, tuple[dict[str, Any], str]] = {
    "two conversations": (
        {"messages": [{"role": "user", "content": "a"}], "instruction": "a", "output": "b"},
        "could be messages or alpaca: `format` says which (format: messages)",
    ),
    "pair and turns": (
        {"prompt": "a", "chosen": "b", "rejected": "c", "completion": "d"}, "could be preference or prompt-completion",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("row", "expected"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_a_row_that_could_be_two_things_names_both(tmp_path: Path, row: dict[str, Any], expected: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(CirillaError) as caught:
        said(path)
    assert expected in str(caught.value)


def test_saying_the_format_settles_it(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    row = {**AMBIGUOUS["two conversations"][0], "text": "c"}
    path.write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    assert said(path, format="alpaca") == [("user", "a", "assistant", "b")] * 2
    assert said(path, format="text") == [("", "c")] * 2
    with pytest.raises(CirillaError, match="is not of the format dolly"):
        said(path, format="dolly")


def test_files_that_could_be_two_things_name_both(tmp_path: Path) -> None:
    rows, bare, pairs = tmp_path / "rows.txt", tmp_path / "corpus", tmp_path / "pairs.json"
    rows.write_text('{"text": "a"}\n{"text": "b"}\n')
    bare.write_text("Words.\n")
    pairs.write_text('[{"question": "a", "answer": "b"}, {"question": "c", "answer": "d"}]')
    for path, expected in (
        (rows, "text \\(one document\\) or rows"), (bare, "lines \\(a document a line\\)"), (pairs, "or conversation"),
    ):  # fmt: skip
        with pytest.raises(CirillaError, match=expected):
            said(path)
    assert said(rows, format="rows") == [("", "a"), ("", "b")]
    assert said(bare, format="text") == [("corpus", "Words.\n")]
    assert said(pairs, format="conversation") == [("user", "a", "assistant", "b", "user", "c", "assistant", "d")]
    assert len(said(pairs, format="question-answer")) == 2


def test_nothing_is_dropped_without_being_counted(tmp_path: Path) -> None:
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "lang": "en"}
    lines = [
        json.dumps(good), "nonsense", json.dumps({"messages": [{"role": "wizard", "content": "x"}]}),
        json.dumps({**good, "messages": [*good["messages"], {"role": "user", "content": "c"}]}),
    ]  # fmt: skip
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "in" / "y.jsonl").write_bytes(b'{"text": "caf\xe9"}\n{"text": "fine"}\n')
    (tmp_path / "in" / "picture.png").write_bytes(b"\x89PNG")
    with Intake(tmp_path / "bad.jsonl") as intake:
        assert len(said(tmp_path / "in", intake=intake)) == 3
    assert intake.formats == {"messages": 2, "text": 1}
    assert intake.notes == {
        "key `lang` left out": 2, "turns behind the last answer cut": 1, "file passed over: .png": 1
    }  # fmt: skip
    bad = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [(Path(b["file"]).name, b["line"], b["text"]) for b in bad] == [
        ("x.jsonl", 2, "nonsense"), ("x.jsonl", 3, lines[2]), ("y.jsonl", 1, '{"text": "caf\\xe9"}'),
    ]  # fmt: skip
    assert sum(intake.rejected.values()) == 3


def test_labelled_texts_of_earlier_tools_are_read_for_classifiers() -> None:
    assert [(row.text, row.label) for row in read_labelled([HERE / "bert.jsonl"])] == [("A keep.", 1)]
