"""YAML 1.2 scalars, and the traps of YAML 1.1 and of YAML at large."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cirilla_cli.errors import CirillaError
from cirilla_cli.recipe.load import load_recipe
from cirilla_cli.recipe.tree import BadYaml, parse

Write = Callable[..., Path]


def read(text: str) -> Any:
    mistakes: list[Any] = []
    value = parse(text, "f.yaml", mistakes).plain()
    assert mistakes == []
    return value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("012", 12), ("0o17", 15), ("0x1F", 31), ("-7", -7), ("+7", 7),
        ("1e-4", 1e-4), ("1E6", 1e6), ("1.", 1.0), (".5", 0.5), ("-0.5e+3", -500.0),
        ("1:30", "1:30"), ("2024-01-02", "2024-01-02"), ("2024-01-02 03:04:05", "2024-01-02 03:04:05"),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("Off", "Off"), ("y", "y"), ("NO", "NO"),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("Null", None),
        ("1_000", "1_000"), ("0b1", "0b1"), ("1e", "1e"), (".", "."), ("-", [None]), ("1.2.3", "1.2.3"),
        (".inf", ".inf"), (".nan", ".nan"), ("=", "="), ("200M", "200M"), ("1%", "1%"),
        ("'012'", "012"), ('"null"', "null"), ("'true'", "true"), ("9" * 5000, "9" * 5000),
    ],
)  # fmt: skip
def test_scalars_are_read_as_yaml_1_2(text: str, value: Any) -> None:
    got = read(f"k: {text}" if value != [None] else "k: [~]")["k"]
    assert got == value
    assert type(got) is type(value)


def test_keys_are_words_whatever_they_look_like() -> None:
    assert read("{1: a, no: b, null: c, 2024-01-02: d}") == {"1": "a", "no": "b", "null": "c", "2024-01-02": "d"}


def test_anchors_and_aliases_are_fine() -> None:
    assert read("a: &x {k: [1, 2]}\nb: *x\nc: &y 3\nd: [*y, *y]") == {
        "a": {"k": [1, 2]}, "b": {"k": [1, 2]}, "c": 3, "d": [3, 3],
    }  # fmt: skip


def test_block_text_and_comments_are_fine() -> None:
    assert read("# c\na: |\n  x\n  y\nb: >-\n  x\n  y # z\n") == {"a": "x\ny\n", "b": "x y # z"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "a: !!python/object/apply:os.system [ls]",
            "f.yaml:1: the tag `tag:yaml.org,2002:python/object/apply:os.system`",
        ),
        ("a: 1\nb: !!str 2", "f.yaml:2: the tag `tag:yaml.org,2002:str`: recipes have no tags; remove it"),
        ("a: ! 2", "f.yaml:1: the tag `!`"),
        ("a: &x [*x]", "f.yaml:1: `*x` stands before its anchor `&x` is complete"),
        ("a: *nobody", "f.yaml:1: `*nobody` stands before its anchor"),
        ("a: {k: 1}\nb:\n  <<: {j: 2}", "f.yaml:3: merge keys (`<<`) are not YAML 1.2; use `extends`"),
        ("? [1, 2]\n: x", "f.yaml:1: a key must be a single word"),
        ("a:\n\tb: 1", "f.yaml:2: not YAML: the line is indented with a tab; use spaces"),
        ("a: b: c", "f.yaml:1: not YAML: "),
        ("a: [1, 2", "not YAML: "),
        ("a: 'x", "not YAML: "),
        ("a: 1\n---\nb: 2", "f.yaml:2: a second document begins here"),
        ("a: 1\nb: \x07", "f.yaml:2: not YAML: a control character"),
        ("a: " + "[" * 60 + "]" * 60, "f.yaml:1: more than 100000 values or 40 levels"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
            + "\n".join(f"{n}: &{n} [{', '.join([f'*{m}'] * 10)}]" for m, n in zip("abcdef", "bcdefg", strict=True)),
            "more than 100000 values",
        ),
    ],
    ids=range(15),
)
def test_what_has_no_tree_is_refused_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(BadYaml) as caught:
        parse(text, "f.yaml", [])
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_duplicate_key_is_reported_at_any_depth() -> None:
    mistakes: list[Any] = []
    parse("a: 1\nb:\n  c: 1\n  c: 2\na: 3", "f.yaml", mistakes)
    assert [str(m) for m in mistakes] == [
        "f.yaml:4: `c` is given twice; the first is at f.yaml:3",
        "f.yaml:5: `a` is given twice; the first is at f.yaml:1",
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "toy.yaml:1: the recipe is empty; begin it with `recipe: 1`"),
        ("# only a comment\n", "toy.yaml:1: the recipe is empty; begin it with `recipe: 1`"),
        ("just words", "toy.yaml:1: the recipe is 'just words', must be a mapping of sections"),
        ("- recipe: 1", "toy.yaml:1: the recipe is a list, must be a mapping of sections"),
        ("recipe: 1\nfoo: [", "toy.yaml:3: not YAML: "),
    ],
)
def test_a_file_that_is_no_mapping_is_the_one_complaint(write: Write, text: str, complaint: str) -> None:
    with pytest.raises(CirillaError) as caught:
        load_recipe(write(text), "pretrain", ["train.steps=3"])
    assert str(caught.value).startswith(complaint.split(":3")[0])
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.where[0].file == "toy.yaml"


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path, good: str) -> None:
    path = tmp_path / "toy.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + good.replace("\n", "\r\n").encode())
    resolved = load_recipe(path, "pretrain")
    assert resolved.data["train"]["batch_tokens"] == 1024
    assert resolved.origins["optim.lr"].line == 17


def test_overrides_read_scalars_lists_and_mappings_alike(write: Write, good: str) -> None:
    given = ["optim.lr=1e-4", "data.sources={b: {path: y, weight: 2}}", "eval.prompts=[no, '1', \"x=y\"]", "name=no"]
    data = load_recipe(write(good), "pretrain", given).data
    assert data["optim"]["lr"] == 1e-4
    assert list(data["data"]["sources"]) == ["wiki", "b"]
    assert data["eval"]["prompts"] == ["no", "1", "x=y"]
    assert data["name"] == "no"
