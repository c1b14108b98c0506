"""Recipes shown, explained, compared, listed, and described for editors."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cirilla_cli.errors import CirillaError
from cirilla_cli.recipe import builtin
from cirilla_cli.recipe.docs import reference_markdown
from cirilla_cli.recipe.explain import Difference, diff, explain, json_schema, show
from cirilla_cli.recipe.load import load_recipe
from cirilla_cli.recipe.schema import VERBS, schema_for

Write = Callable[..., Path]
ODD = [
    "no",
    "1e3",
    "012",
    "",
    " a",
    "a: b",
    "# c",
    "x\ny",
    "\u2028",
    "é😀",
    "'",
    '"',
    "null",
    "2024-01-02",
    "-",
    "1:30",
]


def test_a_shown_recipe_loads_to_an_equal_one(write: Write, good: str) -> None:
    given = ["optim.kind=muon", "eval.early=1"][:1]
    first = load_recipe(write(good), "pretrain", [*given, f"eval.prompts={json.dumps(ODD, ensure_ascii=False)}"])
    assert first.data["eval"]["prompts"] == ODD
    for why in (False, True):
        again = load_recipe(write(show(first, why), "shown.yaml"), "pretrain")
        assert again.recipe == first.recipe
        assert again.data == first.data
        assert again.hash == first.hash


def test_a_shown_recipe_means_the_same_to_a_yaml_1_1_reader(write: Write, good: str) -> None:
    resolved = load_recipe(write(good), "pretrain", [f"eval.prompts={json.dumps(ODD, ensure_ascii=False)}"])
    assert yaml.safe_load(show(resolved, why=True)) == resolved.data


def test_why_names_the_origin_of_every_value(write: Write, good: str) -> None:
    lines = show(load_recipe(write(good), "pretrain", ["seed=3"]), why=True).splitlines()
    by_key = {line.split(":")[0].strip(): line.rpartition("# ")[2] for line in lines if "#" in line}
    assert by_key["seed"] == "override `seed=3`"
    assert by_key["d_model"] == "toy.yaml:5"
    assert by_key["tie_embeddings"] == "default"
    assert all("#" in line or line.endswith(":") for line in lines)


def test_diff_lists_every_key_that_differs(write: Write, good: str) -> None:
    a = load_recipe(write(good), "pretrain").data
    b = load_recipe(write(good), "pretrain", ["optim.lr=5", "train.tokens=7", "data.sources={x: {path: y}}"]).data
    assert diff(a, a) == []
    assert diff(a, b) == [
        Difference("train.steps", 10, None),
        Difference("train.tokens", None, 7),
        Difference("optim.lr", 1e-3, 5.0),
        Difference("data.sources.x.path", None, "y"),
        Difference("data.sources.x.weight", None, 1.0),
    ]


@pytest.mark.parametrize(
    ("verb", "key", "said"),
    [
        (
            "pretrain",
            "train.batch_tokens",
            ["a count such as 4096, 64Ki or 200M, more than 0; default 32768", "one opti"],
        ),
        (None, "optim.lr", ["(kind adamw): a number, more than 0; default 0.0003", "(kind muon)", "default 0.02"]),
        ("sft", "schedule.shape", ["one of linear, sqrt; default linear"]),
        ("pretrain", "data.sources.wiki.weight", ["Share of the rows this source gives"]),
        ("pretrain", "data.sources.*.weight", ["Share of the rows this source gives"]),
        ("pretrain", "schedule.warmup", ["over which the learning rate rises"]),
        (
            "pretrain",
            "optim",
            ["a section; default {kind: adamw}", "kind muon: Muon for the hidden matrices", "ns_steps"],
        ),
        ("eval", "eval.tasks.a.limit", ["(kind questions)", "(kind choices)"]),
        ("eval", "eval.tasks", ["kind reasoning_gym"]),
        (None, "stages.x.with", ["Overrides by dotted key"]),
        (None, "seed", ["a whole number, at least 0 and at most 4294967295; default 0"]),
    ],
)
def test_explain_says_what_a_key_takes(verb: str | None, key: str, said: list[str]) -> None:
    text = explain(verb, key)
    for part in said:
        assert part in text


@pytest.mark.parametrize(
    ("verb", "key", "hint"),
    [("pretrain", "optim.lrr", "optim.lr"), (None, "train.lr", "optim.lr"), ("push", "to", "push.to")],
)
def test_explaining_what_is_no_key_suggests_one(verb: str | None, key: str, hint: str) -> None:
    with pytest.raises(CirillaError) as caught:
        explain(verb, key)
    assert caught.value.hint == f"did you mean `{hint}`?"


def fits(value: Any, part: dict[str, Any], root: dict[str, Any]) -> bool:
    """A small JSON Schema checker: the keywords our schemas use."""
    if "$ref" in part:
        return fits(value, root["$defs"][part["$ref"].rpartition("/")[2]], root)
    types = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
    if "anyOf" in part and not any(fits(value, one, root) for one in part["anyOf"]):
        return False
    if "const" in part and value != part["const"] or "enum" in part and value not in part["enum"]:
        return False
    if "type" in part and part["type"] == "null":
        return value is None
    if "type" in part and (
        not isinstance(value, types[part["type"]]) or isinstance(value, bool) != (part["type"] == "boolean")
    ):
        return False
    if isinstance(value, list) and "items" in part:
        return all(fits(item, part["items"], root) for item in value)
    if not isinstance(value, dict):
        return True
    known, rest = part.get("properties", {}), part.get("additionalProperties", True)
    if set(part.get("required", ())) - set(value) or (rest is False and set(value) - set(known)):
        return False
    return all(fits(v, known.get(k, rest if isinstance(rest, dict) else {}), root) for k, v in value.items())


def test_the_schema_takes_good_recipes_and_refuses_others(write: Write, good: str) -> None:
    text = yaml.safe_load(good.replace("1e-3", "0.001").replace("  kind: adamw\n", ""))
    for data in (text, load_recipe(write(good), "pretrain").data):
        assert fits(data, json_schema("pretrain"), json_schema("pretrain"))
        assert fits(data, json_schema(), json_schema())
        assert not fits(data, json_schema("push"), json_schema("push"))
        assert not fits({**data, "sead": 1}, json_schema(), json_schema())
        assert not fits({**data, "seed": "x"}, json_schema("pretrain"), json_schema("pretrain"))


def test_the_schema_of_parts_requires_nothing_but_knows_every_key() -> None:
    part = {"extends": "base/pretrain", "model": {"n_layers": 4}, "optim": {"lr": 0.1}, "train": {"tokens": "5M"}}
    assert fits(part, json_schema("pretrain", partial=True), json_schema("pretrain", partial=True))
    assert not fits(part, json_schema("pretrain"), json_schema("pretrain"))
    assert not fits({"mdel": {}}, json_schema("pretrain", partial=True), json_schema("pretrain", partial=True))
    assert '"required": [' not in json.dumps(json_schema(partial=True))


@pytest.mark.parametrize("verb", VERBS)
def test_every_key_is_documented_in_schema_and_reference(verb: str) -> None:
    schema = json_schema(verb)
    markdown = reference_markdown()
    assert markdown.count(f"## cirilla {verb}\n") == 1
    for name, part in [*schema["$defs"].items(), ("", schema)]:
        for key, info in part.get("properties", {}).items():
            assert info.get("description"), f"{verb}: {name}.{key} has no string under it"
            assert key == "kind" or f"| `{key}` |" in markdown


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: str) -> Path:
    """A folder of built-in recipes in place of the real one."""
    root = tmp_path / "library"
    for name, text in {
        "base/pretrain.yaml": good,
        "tiny/pretrain.yaml": "# A tiny model,\n# for tests.\nrecipe: 1\nextends: base/pretrain\nseed: 5\n",
        "tiny/push.yaml": "# yaml-language-server: x\n# Publish it.\nrecipe: 1\npush: {to: 'dir:x'}\n",
        "tiny/pipeline.yaml": "recipe: 1\nstages: {a: {verb: pretrain, recipe: tiny}}\n",
        "other/pretrain.yaml": good,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(builtin, "ROOTS", (tmp_path / "absent", root))
    return root


def test_built_in_recipes_are_listed_with_what_they_say_of_themselves(library: Path) -> None:
    listed = builtin.list_recipes()
    assert [(one["name"], one["verb"], one["about"]) for one in listed] == [
        ("other", "pretrain", "A model for tests."),
        ("tiny", "pretrain", "A tiny model, for tests."),
        ("tiny", "push", "Publish it."),
        ("tiny", "run", ""),
    ]
    assert listed[1]["path"] == str(library / "tiny/pretrain.yaml")


def test_built_in_recipes_are_found_by_name_and_extend_each_other(library: Path) -> None:
    resolved = load_recipe("tiny", "pretrain")
    assert (resolved.name, resolved.data["seed"], resolved.data["model"]["d_model"]) == ("tiny", 5, 64)
    assert load_recipe("tiny", "run").verb == "run"
    assert load_recipe("tiny/push").verb == "push"
    assert str(resolved.origins["model.d_model"]) == f"{library / 'base/pretrain.yaml'}:5"


def test_an_unknown_built_in_name_is_answered_with_those_there_are(library: Path) -> None:
    for name, verb, message, hint in (
        ("tinny", "pretrain", "no built-in recipe is called `tinny`; did you mean `tiny`?", "cirilla recipe list"),
        ("zzz", "pretrain", "no built-in recipe is called `zzz`; there are other, tiny", "cirilla recipe list"),
        ("tiny", "sft", "the built-in recipe `tiny` has none for `cirilla sft`; it has pretrain, push, run", None),
        ("../library/tiny", "pretrain", "no built-in recipe is called `../library/tiny`", "cirilla recipe list"),
        ("tiny", None, "the built-in recipe `tiny` has several files", None),
    ):
        with pytest.raises(CirillaError) as caught:
            load_recipe(name, verb)
        assert str(caught.value).startswith(message)
        assert hint is None or caught.value.hint == hint


def test_every_recipe_that_ships_is_good() -> None:
    for one in builtin.list_recipes():
        resolved = load_recipe(one["path"], one["verb"])
        assert one["about"], f"{one['path']} does not begin with a comment"
        data = yaml.safe_load(show(resolved))
        assert fits(data, json_schema(one["verb"]), json_schema(one["verb"]))


def test_checking_a_recipe_imports_nothing_heavy(write: Write, good: str) -> None:
    path = write(good).resolve()
    code = f"""
import sys
from cirilla_cli.recipe.load import load_recipe
load_recipe({str(path)!r}, "pretrain")
heavy = {{"torch", "numpy", "rich", "requests", "transformers", "datasets", "bs4", "typer"}} & set(sys.modules)
others = [m for m in sys.modules if m.startswith(("cirilla_cli.scrape", "cirilla_cli.synth", "cirilla_cli.evals"))]
print(heavy, others)
"""
    root = Path(builtin.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "set() []"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_recipe_with_the_common_scalars(verb: str) -> None:
    fields = set(schema_for(verb).model_fields)
    assert {"recipe", "extends", "name", "seed", "out"} <= fields
    assert ("device" in fields) == (verb in {"pretrain", "sft", "dpo", "eval", "generate", "push"})
