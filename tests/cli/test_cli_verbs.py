"""What the verbs make of their words and options: the recipe that a dry run shows, and what a bare call looks for."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from program import CIRILLA, call, environment

from cirilla_cli.cli.app import program


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory: nothing has been made or trained yet."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(*words: str) -> Any:
    """The recipe that a call means."""
    done = call(*words, "--dry-run", "--json", "-q")
    assert done.code == 0, done
    return json.loads(done.out)["recipe"]


def means(verb: str, *words: str) -> Any:
    """The recipe that a call of a training verb means, by its data not being there."""
    from cirilla_cli.cli import verbs
    from cirilla_cli.recipe.load import Resolved

    found: list[Resolved] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verbs, "_planned", lambda resolved, flags: found.append(resolved))
        done = call(verb, *words, "--dry-run")
    assert done.code == 0, done
    return found[0].data


def test_every_option_of_generate_is_a_key_of_its_recipe(here: Path) -> None:
    words = "--chat --system s -n 3 -t 0.5 --top-k 4 --top-p 0.9 --min-p 0.1 --stop a --stop b --seed 5 --ignore-eos"
    section = shown("generate", *words.split(), "--dtype", "float64", "--device", "cpu")["generate"]
    given = {
        "chat": True, "system": "s", "max_new_tokens": 3, "temperature": 0.5, "top_k": 4, "top_p": 0.9, "min_p": 0.1,
        "stop": ["a", "b"], "seed": 5, "ignore_eos": True, "dtype": "float64",
    }  # fmt: skip
    assert {key: section[key] for key in given} == given
    bare, usual = shown("generate"), json.loads(call("recipe", "show", "default/generate", "--json").out)["recipe"]
    assert bare == usual
    assert shown("generate", "--system", "s")["generate"]["chat"] is True
    assert shown("generate", "--device", "cpu")["device"] == "cpu"


def test_every_option_of_scrape_is_a_key_of_its_recipe(here: Path) -> None:
    words = ["--api", "https://wiki.example.org/w/api.php", "--category", "C", "--permission", "p", "--contact", "c"]
    section = shown("scrape", *words, "--limit", "7", "--out", "o")["scrape"]
    assert (section["contact"], section["limit"]) == ("c", 7)
    source = {"kind": "mediawiki", "api": words[1], "category": "C", "permission": "p"}
    assert {key: section["source"][key] for key in source} == source
    assert shown("scrape", "--files", ".")["scrape"]["source"]["kind"] == "files"


def test_each_verb_takes_the_shared_options_that_mean_something_to_it() -> None:
    from typer.main import get_command

    commands: Any = get_command(program())
    shared = {"out", "device", "json", "quiet", "verbose", "dry_run", "fresh", "resume"}
    everywhere = {"json", "quiet", "verbose", "dry_run"}
    for names, more in {
        "run scrape synth tokenize": {"out", "fresh"}, "pretrain sft dpo": {"out", "device", "fresh", "resume"},
        "eval": {"out", "device"}, "generate push": {"device"},
    }.items():  # fmt: skip
        for name in names.split():
            options = {parameter.name for parameter in commands.commands[name].params}
            assert options & shared == everywhere | more, name


def test_the_one_input_of_a_bare_pretrain_takes_the_place_of_the_recipes_own(here: Path) -> None:
    Path("mine.jsonl").write_text("", encoding="utf-8")
    assert {n: s["path"] for n, s in means("pretrain", "mine.jsonl")["data"]["sources"].items()} == {
        "wiki": "mine.jsonl"
    }


def test_no_input_of_pretrain_is_lost_to_another_of_its_name(here: Path) -> None:
    for file in ("a/x y.jsonl", "b/x y.jsonl", "c/x y.jsonl", "wiki.jsonl"):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_text("", encoding="utf-8")
    files = ["a/x y.jsonl", "b/x y.jsonl", "c/x y.jsonl", "wiki.jsonl"]
    sources = means("pretrain", *files)["data"]["sources"]
    assert [source["path"] for source in sources.values()] == files
    assert list(sources) == ["wiki", "x_y", "x_y_2", "wiki_2"]
    named = means("pretrain", "quickstart", *files)["data"]["sources"]
    assert sorted(source["path"] for source in named.values()) == sorted(files), "an input takes the source of its name"


NOTHING_THERE = {
    "no run of `cirilla pretrain` under runs/": ["sft", "rows.jsonl"],
    "no run of `cirilla sft` under runs/": ["dpo", "data.path=[rows.jsonl]"],
    "no samples of kind chat under runs/": ["sft", "model.path=m"],
    "no samples of kind preference under runs/": ["dpo", "model.path=m"],
    "no tokenized text under runs/": ["pretrain", "model.path=m"],
}


@pytest.mark.parametrize("says", NOTHING_THERE)
def test_what_a_bare_training_verb_lacks_is_looked_for_under_runs(says: str, here: Path) -> None:
    Path("rows.jsonl").write_text("", encoding="utf-8")
    done = call(*NOTHING_THERE[says], "--dry-run")
    assert (done.code, says in done.err) == (1, True), done


@pytest.mark.parametrize(
    "words",
    [
        ["sft", "rows.jsonl", "model.path=m"],
        ["sft", "data.path=[rows.jsonl]", "model.path=m"],
        ["dpo", "rows.jsonl", "model.path=m"],
        ["pretrain", "rows.jsonl"],
        ["pretrain", "data.sources.wiki.path=rows.jsonl"],
        ["sft", "quickstart", "rows.jsonl"],
    ],
)
def test_what_the_call_names_is_not_looked_for(words: list[str], here: Path) -> None:
    Path("rows.jsonl").write_text("", encoding="utf-8")
    assert "rows.jsonl" in json.dumps(means(*words)["data"])


def test_ctrl_c_while_a_run_is_prepared_ends_it_at_once(lab: Path) -> None:
    row = '{"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ciri."}]}\n'
    Path("many.jsonl").write_text(row * 10_000, encoding="utf-8")
    words = ["sft", "quickstart", "many.jsonl", "model.path=runs/pre", "train.steps=100000", "--out", "new", "-v"]
    process = subprocess.Popen([str(CIRILLA), *words], stderr=subprocess.PIPE, text=True, env=environment())
    assert process.stderr is not None
    heard = ""
    while heard != "loading the tokenizer\n":
        heard = process.stderr.readline()
        assert heard, "the process ended before"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.endswith("interrupted; nothing was left to save\n")
    assert "sft 1/" not in err
    assert not list(Path("new").glob("checkpoints/step-*"))
