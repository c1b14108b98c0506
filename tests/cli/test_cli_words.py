"""How the words after a verb are read, one row a rule."""

import json
from pathlib import Path

import pytest
from program import call

from cirilla_cli.cli.words import read_words
from cirilla_cli.errors import CirillaError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file and folders whose names could be taken for something else."""
    for folder in ("witcher-16gb", "owner/name", "data", "a=b"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("rows.jsonl", "mine.yaml", "data/x=1.jsonl", "a=b/rows.jsonl"):
        (tmp_path / file).write_text("x", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


RULES = [
    ("train.steps=10", "override"),
    ("seed=1", "override"),
    ("adapter=null", "override"),
    ("model.mixers.A.n_heads=2", "override"),
    ("out=a=b", "override"),
    ("out=runs/x.yaml", "override"),
    ("mine.yaml", "recipe"),
    ("absent.yaml", "recipe"),
    ("absent.yml", "recipe"),
    ("./mine.yaml", "recipe"),
    ("../elsewhere.yaml", "recipe"),
    ("quickstart", "recipe"),
    ("quickstart/pretrain", "recipe"),
    ("./quickstart/pretrain", "input"),
    ("witcher-16gb", "input"),
    ("./quickstart", "input"),
    ("rows.jsonl", "input"),
    ("data", "input"),
    ("-", "input"),
    ("owner/name", "input"),
    ("someone/model-1.5B", "input"),
    ("data/x=1.jsonl", "input"),
    ("./a=b", "input"),
    ("/absent", "input"),
]


@pytest.mark.parametrize(("word", "meaning"), RULES)
def test_a_word_is_read_by_one_rule(word: str, meaning: str) -> None:
    reading = read_words([word], "pretrain")
    assert {"override": reading.overrides, "recipe": [reading.recipe], "input": reading.inputs}[meaning] == [word]
    assert len(reading.overrides) + len(reading.inputs) + (reading.recipe is not None) == 1


def test_words_come_in_any_order() -> None:
    reading = read_words(["seed=1", "rows.jsonl", "quickstart", "-", "train.steps=2"], "sft")
    assert (reading.recipe, reading.inputs) == ("quickstart", ["rows.jsonl", "-"])
    assert reading.overrides == ["seed=1", "train.steps=2"]


def test_a_built_in_name_is_a_recipe_only_for_verbs_that_have_one() -> None:
    assert read_words(["wikipedia-witcher"], "scrape").recipe == "wikipedia-witcher"
    with pytest.raises(CirillaError, match="no built-in recipe of `sft`"):
        read_words(["wikipedia-witcher"], "sft")


def test_a_part_of_a_built_in_recipe_is_a_recipe_for_its_own_verb() -> None:
    assert read_words(["quickstart/tasks"], "synth").recipe == "quickstart/tasks"
    assert read_words(["witcher-16gb/corpus"], "scrape").recipe == "witcher-16gb/corpus"
    assert read_words(["quickstart/pipeline"], "run").recipe == "quickstart/pipeline"
    with pytest.raises(CirillaError, match="`quickstart/tasks/x`: no override"):
        read_words(["quickstart/tasks/x"], "synth")
    Path("quickstart/tasks").mkdir(parents=True)
    assert read_words(["quickstart/tasks"], "synth").inputs == ["quickstart/tasks"]


@pytest.mark.parametrize(("word", "own"), [("quickstart/sft", "sft"), ("quickstart/tasks", "synth")])
def test_a_part_of_a_built_in_recipe_is_no_repository_for_other_verbs(word: str, own: str) -> None:
    for verb in ("pretrain", "generate", "push"):
        with pytest.raises(CirillaError, match=f"`{word}` is a built-in recipe of `{own}`, not of `{verb}`"):
            read_words([word], verb)
    assert read_words([f"./{word}"], "generate").inputs == [f"./{word}"]


def test_an_address_on_the_hub_is_an_input() -> None:
    assert read_words(["hf://datasets/a/b/data/train-*"], "curate").inputs == ["hf://datasets/a/b/data/train-*"]


def test_the_home_folder_is_written_out() -> None:
    assert read_words(["~/x"], "tokenize").inputs == [str(Path("~/x").expanduser())]


@pytest.mark.parametrize("word", ["quikstart", "", "x" * 5000, "no such", "a/b/c", "a--b/c", "a/b..c", "--", "=", "=5"])
def test_anything_else_is_refused_with_what_was_tried(word: str) -> None:
    with pytest.raises(CirillaError) as caught:
        read_words([word], "pretrain")
    for tried in (
        "no override",
        "no recipe file",
        "no file or folder",
        "no built-in recipe of `pretrain` (",
        "no OWNER/NAME",
        "no hf://datasets/OWNER/NAME",
    ):
        assert tried in str(caught.value)
    assert caught.value.hint is not None
    assert "cirilla recipe list" in caught.value.hint


def test_the_nearest_built_in_name_is_offered() -> None:
    with pytest.raises(CirillaError, match="did you mean `quickstart`"):
        read_words(["quikstart"], "pretrain")


def test_every_unknown_word_is_named_at_once() -> None:
    with pytest.raises(CirillaError) as caught:
        read_words(["nonsense", "seed=1", "rubbish"], "pretrain")
    assert [line[:10] for line in str(caught.value).splitlines()] == ["`nonsense`", "`rubbish`:"]


def test_two_recipes_are_refused() -> None:
    with pytest.raises(CirillaError, match="two recipes are named: `quickstart` and `mine.yaml`"):
        read_words(["quickstart", "mine.yaml"], "pretrain")


@pytest.mark.parametrize(("given", "code"), [("out=a", 0), ("out=b", 2)])
def test_out_and_its_short_form_must_agree(given: str, code: int) -> None:
    done = call("scrape", "quickstart", "--out", "a", given, "--dry-run", "-q")
    assert done.code == code
    assert ("`--out a` and `out=b` contradict each other" in done.err) == (code == 2)


def test_dry_runs_show_the_recipe_and_the_origin_of_each_value(lab: Path) -> None:
    done = call("pretrain", "tiny.yaml", "train.steps=7", "--out", "elsewhere", "--dry-run")
    assert done.code == 0
    assert "steps: 7  " in done.out
    assert "# override `train.steps=7`" in done.out
    assert "# override `--out elsewhere`" in done.out
    assert not Path("elsewhere").exists()


def test_a_dry_run_of_training_says_what_would_happen_in_comments_under_the_recipe(lab: Path) -> None:
    done = call("pretrain", "tiny.yaml", "--dry-run", "--out", "elsewhere", "-q")
    told = [line for line in done.out.splitlines() if line.startswith("# ")][-5:]
    assert [line.split(":")[0] for line in told] == [
        "# pretrain would begin in elsewhere", "# model", "# data wiki", "# length", "# disk",
    ]  # fmt: skip
    assert told[3].startswith("# length: 2 steps of 256 tokens, ")
    assert json.loads(call("pretrain", "tiny.yaml", "--dry-run", "--json").out)["plan"]["steps"] == 2
    before = sorted(Path().rglob("*"))
    words = ("pretrain", "tiny.yaml", "--dry-run", "--out", "runs/pre")
    assert "# pretrain is done already in runs/pre, at step 2" in call(*words).out
    assert "# pretrain would forget the run in runs/pre and start over" in call(*words, "--fresh").out
    assert sorted(Path().rglob("*")) == before


def test_a_dry_run_of_what_would_be_refused_shows_the_recipe_and_fails(lab: Path) -> None:
    done = call("pretrain", "tiny.yaml", "data.sources.wiki.path=nope", "--dry-run")
    assert (done.code, "nope: no such file or folder" in done.err) == (1, True)
    assert "path: nope" in done.out
    done = call("pretrain", "tiny.yaml", "optim.lr=0.5", "--out", "runs/pre", "--dry-run", "--json")
    assert done.code == 1
    assert "`optim.lr` was 0.02, is 0.5" in json.loads(done.out)["error"]
