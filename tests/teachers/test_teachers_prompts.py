"""Prompts of the user's own: one way for every strategy, refused before the first request where they would not do."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError
from scripted import STRATEGIES, Server, config, prompt_of, rows
from test_teachers_resume import RUNS

from cirilla_cli.data.parts import Share
from cirilla_cli.data.rows import Document
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import Silent
from cirilla_cli.recipe.fields import doc
from cirilla_cli.synth.config import StrategySection, SynthConfig
from cirilla_cli.synth.run import synthesize
from cirilla_cli.synth.shared import synth_share

SECTIONS: dict[str, Any] = {one.model_fields["kind"].default: one for one in get_args(get_args(StrategySection)[0])}
MARK = "Mind these words. "
RAW = {"magpie": {"template": "chatml"}}
WAYS = [*((name, {}) for name in STRATEGIES), *RAW.items()]


def built_in(name: str) -> dict[str, str]:
    """The prompts of a strategy, by name."""
    return dict(SECTIONS[name]().build(100).prompts)


def asked_for(name: str, options: dict[str, Any]) -> dict[str, str]:
    """Those that a strategy puts under these options."""
    idle = ("ask" if options else "opened") if name == "magpie" else ""
    return {which: prompt for which, prompt in built_in(name).items() if which != idle}


def own(folder: Path, prompts: dict[str, str]) -> dict[str, str]:
    """Files that hold these prompts."""
    for name, prompt in prompts.items():
        (folder / f"{name}.txt").write_text(prompt, encoding="utf-8")
    return {name: str(folder / f"{name}.txt") for name in prompts}


def section(folder: Path, server: Server, name: str, **options: Any) -> SynthConfig:
    strategy = {"kind": name, **RUNS[name][3], **options}
    return config(folder, server.teacher("openai"), 2, 12, strategy=strategy, chunk_chars=300, max_tokens=512)


def made_by(out: Path) -> set[str]:
    return {row["generator"]["prompt_sha"] for row in rows(out / "samples.jsonl")}


@pytest.mark.parametrize(("name", "options"), WAYS)
def test_all_that_is_asked_is_asked_in_the_user_s_words_and_its_answers_and_rows_are_other_ones(
    tmp_path: Path, serve: Callable[..., Server], name: str, options: dict[str, Any]
) -> None:
    server, theirs = serve(), {which: MARK + prompt for which, prompt in asked_for(name, options).items()}
    synthesize(section(tmp_path, server, name, **options), tmp_path / "out", Silent())
    plain, before = [prompt_of(body) for body in server.bodies], made_by(tmp_path / "out")
    server.bodies.clear()
    more = section(tmp_path, server, name, **options, prompts=own(tmp_path, theirs))
    synthesize(more, tmp_path / "out", Silent())
    prompts = [prompt_of(body) for body in server.bodies]
    assert all(prompt.count(MARK) == 1 for prompt in prompts)
    assert sorted(prompt.replace(MARK, "") for prompt in prompts) == sorted(plain)
    assert len(before) == len(made_by(tmp_path / "out")) == 1
    assert before != made_by(tmp_path / "out")


EVERY = [(name, which) for name in STRATEGIES for which in built_in(name)]


@pytest.mark.parametrize(("name", "which"), EVERY)
def test_a_prompt_that_lacks_a_placeholder_or_has_another_is_refused_before_the_first_request(
    tmp_path: Path, serve: Callable[..., Server], name: str, which: str
) -> None:
    server, options = serve(), RAW["magpie"] if which == "opened" else {}
    holes = re.findall(r"\{(\w+)\}", built_in(name)[which])
    wrong = built_in(name)[which].replace(f"{{{holes[-1]}}}", "{another}")
    with pytest.raises(CirillaError) as caught:
        synthesize(
            section(tmp_path, server, name, **options, prompts=own(tmp_path, {which: wrong})),
            tmp_path / "out",
            Silent(),
        )
    said = f"`synth.source.strategy.prompts.{which}` is {tmp_path / which}.txt: must hold {{{holes[-1]}}}; nothing is"
    assert str(caught.value) == f"{said} known to put into {{another}}"
    assert all(f"{{{hole}}}" in str(caught.value.hint) for hole in holes)
    assert caught.value.exit_code == 1
    assert not server.bodies


def test_all_mistakes_in_prompts_are_told_at_once(tmp_path: Path, serve: Callable[..., Server]) -> None:
    (tmp_path / "wrong.txt").write_bytes(b"\xff")
    prompts = {"ask": str(tmp_path / "gone.txt"), "wrong": str(tmp_path / "wrong.txt")}
    with pytest.raises(CirillaError) as caught:
        synthesize(section(tmp_path, serve(), "preferences", prompts=prompts), tmp_path / "out", Silent())
    first, second = str(caught.value).splitlines()
    assert "prompts.ask` is" in first
    assert "No such file" in first
    assert "prompts.wrong` is" in second
    assert "cannot be read as a prompt" in second


def test_braces_in_a_page_are_its_own(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server, text = serve(), "It is written {count} and {title} and {nobody} on the wheel of the mill, by the river."
    prompts = own(tmp_path, {"ask": "{title}: {count}\n{text} { so }"})
    asking = section(tmp_path, server, "qa", pairs=7, prompts=prompts)
    (tmp_path / "documents.jsonl").write_text(Document(id="0", title="Mill {text}", text=text).line() + "\n")
    pair = '{"question": "Where is the mill?", "answer": "By the river.", "evidence": "by the river"}'
    server.fault = lambda prompt, n: f'{{"pairs": [{pair}]}}'
    synthesize(asking, tmp_path / "out", Silent())
    said = re.sub(r"\[\[(end of )?page \w+\]\]", "", prompt_of(server.bodies[0]))
    assert said.startswith(f"Mill {{text}}: 7\n\n{text}\n {{ so }}\nReply with JSON")


def test_another_prompt_is_another_work_to_share(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server, prompts = serve(), own(tmp_path, built_in("cot"))
    parts = section(tmp_path, server, "cot", prompts=prompts)
    for words, more in ((built_in("cot")["ask"], True), (built_in("cot")["ask"], False), (MARK, True)):
        own(tmp_path, {"ask": words if words != MARK else MARK + built_in("cot")["ask"]})
        sent = len(server.bodies)
        synth_share(parts, tmp_path / "shared", Share(1, 2), Silent())
        assert (len(server.bodies) > sent) == more
    assert MARK in prompt_of(server.bodies[-1])


@pytest.mark.parametrize(
    ("name", "options", "which"),
    [
        ("magpie", {}, "opened"),
        ("magpie", {"template": "llama3"}, "ask"),
        ("multi_turn", {"new_context": 0.0}, "switch"),
        ("multi_turn", {"min_turns": 1, "max_turns": 1}, "follow_up"),
    ],
)
def test_a_prompt_that_nothing_would_be_asked_with_is_refused(name: str, options: dict[str, Any], which: str) -> None:
    with pytest.raises(ValidationError, match=rf"prompts\.{which} is given"):
        SECTIONS[name](**options, prompts={which: "mine.txt"})


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_recipe_s_keys_and_their_text_are_those_of_the_prompts_built_in(name: str) -> None:
    field = SECTIONS[name].model_fields["prompts"].annotation
    assert set(field.model_fields) == set(built_in(name))
    holes = {hole for prompt in built_in(name).values() for hole in re.findall(r"\{\w+\}", prompt)}
    assert set(re.findall(r"\{\w+\}", doc(SECTIONS[name], "prompts"))) == holes
