"""Defaults < extends < file < overrides, and the origin of every value."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cirilla_cli.errors import CirillaError
from cirilla_cli.recipe.load import Resolved, load_recipe

Write = Callable[..., Path]


def origins(resolved: Resolved, *keys: str) -> list[str]:
    return [str(resolved.origins[key]) for key in keys]


def refusal(path: Path) -> str:
    with pytest.raises(CirillaError) as caught:
        load_recipe(path, "pretrain")
    return str(caught.value)


def test_each_layer_wins_over_those_below_and_is_named_as_origin(write: Write, good: str) -> None:
    write(good, "base.yaml")
    write("recipe: 1\nseed: 1\nlog: {every: 7, plot: false}\noptim: {beta1: 0.8, beta2: 0.9}", "parts/more.yaml")
    path = write("extends: [base.yaml, parts/more.yaml]\nrecipe: 1\noptim:\n  beta2: 0.7\n  lr: 2e-3\n")
    resolved = load_recipe(path, "pretrain", ["optim.lr=3e-3"])
    optim = resolved.data["optim"]
    assert (optim["lr"], optim["beta1"], optim["beta2"], optim["eps"]) == (3e-3, 0.8, 0.7, 1e-8)
    assert resolved.data["seed"] == 1
    assert resolved.data["log"] == {"every": 7, "plot": False, "tensorboard": False, "wandb": None}
    assert origins(resolved, "optim.lr", "optim.beta1", "optim.beta2", "optim.eps", "seed", "model.d_model") == [
        "override `optim.lr=3e-3`", "parts/more.yaml:4", "toy.yaml:4", "default", "parts/more.yaml:2", "base.yaml:5",
    ]  # fmt: skip


def test_extends_is_relative_to_the_file_that_says_it(write: Write, good: str) -> None:
    write(good, "a/base.yaml")
    write("recipe: 1\nextends: ../base.yaml\nseed: 4", "a/b/middle.yaml")
    assert load_recipe(write("recipe: 1\nextends: b/middle.yaml", "a/top.yaml"), "pretrain").data["seed"] == 4


def test_the_later_of_two_extended_files_wins_and_a_shared_base_is_no_circle(write: Write, good: str) -> None:
    write(good, "base.yaml")
    write("recipe: 1\nextends: base.yaml\nseed: 1", "one.yaml")
    write("recipe: 1\nextends: base.yaml\nseed: 2", "two.yaml")
    assert load_recipe(write("recipe: 1\nextends: [one.yaml, two.yaml]"), "pretrain").data["seed"] == 2
    assert load_recipe(write("recipe: 1\nextends: [two.yaml, one.yaml]"), "pretrain").data["seed"] == 1


def test_a_circle_is_refused_with_its_chain(write: Write) -> None:
    write("recipe: 1\nextends: b.yaml", "a.yaml")
    write("recipe: 1\n\nextends: [c.yaml]", "b.yaml")
    write("recipe: 1\nextends: b.yaml", "c.yaml")
    assert "c.yaml:2: `extends` goes in a circle: b.yaml -> c.yaml -> b.yaml" in refusal(Path("a.yaml"))
    write("recipe: 1\nextends: self.yaml", "self.yaml")
    assert "self.yaml:2: `extends` goes in a circle: self.yaml -> self.yaml" in refusal(Path("self.yaml"))


def test_what_extends_names_must_exist(write: Write, good: str) -> None:
    write(good, "base.yaml")
    assert "toy.yaml:2: `extends` names `bass.yaml`, which does not exist; did you mean `base.yaml`?" in refusal(
        write("recipe: 1\nextends: bass.yaml")
    )
    assert "toy.yaml:2: `extends` is 3, must be a path or a built-in name" in refusal(write("recipe: 1\nextends: 3"))


@pytest.mark.parametrize(
    ("extends", "said"),
    [
        ("''", "is '', must be a path or a built-in name such as base/pretrain"),
        ("[~]", "is null, must be a path or a built-in name such as base/pretrain"),
        ("gone.yaml", "names `gone.yaml`, which does not exist"),
        ("toy.yaml", "goes in a circle: toy.yaml -> toy.yaml"),
    ],
)
def test_what_a_base_that_is_not_there_would_have_given_is_not_said_to_be_missing(
    write: Write, extends: str, said: str
) -> None:
    path = write(f"recipe: 1\nextends: {extends}\ntrain: {{batch_tokens: 64}}\noptim: {{lr: high}}")
    wrong, more = refusal(path).splitlines()
    assert wrong.startswith(f"toy.yaml:2: `extends` {said}")
    assert more.startswith("toy.yaml:4: `optim.lr` is 'high'")
    with pytest.raises(CirillaError) as caught:
        load_recipe(write(f"recipe: 1\nextends: {extends}"))
    assert str(caught.value).startswith(f"toy.yaml:2: `extends` {said}"), "which verb it is for is not asked"


def test_mistakes_of_extended_files_stand_at_their_own_lines(write: Write, good: str) -> None:
    write(good.replace("lr: 1e-3", "lrr: 1e-3").replace("recipe: 1\n", ""), "base.yaml")
    text = refusal(write("recipe: 1\nextends: base.yaml\nseeed: 3"))
    assert text.splitlines() == [
        "base.yaml:2: `recipe` is missing: begin the file with `recipe: 1`",
        "base.yaml:16: `optim.lrr` is not a key here; did you mean `lr`?",
        "toy.yaml:3: `seeed` is not a key here; did you mean `seed`?",
    ]


def test_lists_are_replaced(write: Write) -> None:
    write("recipe: 1\ntokenize: {inputs: [a, b]}", "base.yaml")
    path = write("recipe: 1\nextends: base.yaml\ntokenize: {inputs: [c]}")
    assert load_recipe(path, "tokenize").data["tokenize"]["inputs"] == ["c"]


def test_a_section_whose_kind_changes_is_replaced_whole(write: Write, good: str) -> None:
    write(good, "base.yaml")
    path = write("recipe: 1\nextends: base.yaml\noptim: {kind: muon}")
    resolved = load_recipe(path, "pretrain")
    assert resolved.data["optim"]["lr"] == 0.02
    assert origins(resolved, "optim.kind", "optim.lr") == ["toy.yaml:3", "default"]
    same = load_recipe(write("recipe: 1\nextends: base.yaml\noptim: {kind: adamw, beta1: 0.8}"), "pretrain")
    assert (same.data["optim"]["lr"], same.data["optim"]["beta1"]) == (1e-3, 0.8)


@pytest.mark.parametrize(
    "given", [("optim.kind=muon", "optim.momentum=0.5"), ("optim.momentum=0.5", "optim.kind=muon")]
)
def test_an_override_of_kind_replaces_the_section_in_any_order(write: Write, good: str, given: tuple[str, ...]) -> None:
    optim = load_recipe(write(good), "pretrain", given).data["optim"]
    assert (optim["kind"], optim["lr"], optim["momentum"]) == ("muon", 0.02, 0.5)


def test_part_of_a_default_section_keeps_the_rest_of_the_default(write: Write, good: str) -> None:
    path = write(good.replace("optim:\n  kind: adamw\n  lr: 1e-3\n", ""))
    optim = load_recipe(path, "pretrain", ["optim.kind=muon", "optim.adamw.beta1=0.5"]).data["optim"]
    assert (optim["adamw"]["lr"], optim["adamw"]["weight_decay"], optim["adamw"]["beta1"]) == (3e-3, 0.0, 0.5)
    assert load_recipe(path, "pretrain", ["optim.lr=1e-2"]).data["optim"]["kind"] == "adamw"


def test_null_switches_a_section_off_and_a_key_switches_it_on_again(write: Write, good: str) -> None:
    off = write(good + "eval: null\n")
    assert load_recipe(off, "pretrain").data["eval"] is None
    assert load_recipe(write(good), "pretrain", ["eval=null"]).recipe.model_dump()["eval"] is None
    assert load_recipe(off, "pretrain", ["eval.every=5"]).data["eval"]["every"] == 5


@pytest.mark.parametrize("key", ["steps", "tokens", "epochs"])
@pytest.mark.parametrize("later", ["steps", "tokens", "epochs"])
def test_a_later_length_of_training_unsets_the_earlier(write: Write, good: str, key: str, later: str) -> None:
    write(good.replace("steps: 10", f"{key}: 10"), "base.yaml")
    path = write(f"recipe: 1\nextends: base.yaml\ntrain: {{{later}: 20}}")
    for resolved in (load_recipe(path, "pretrain"), load_recipe("base.yaml", "pretrain", [f"train.{later}=20"])):
        lengths = {name: resolved.data["train"][name] for name in ("steps", "tokens", "epochs")}
        assert {name: value for name, value in lengths.items() if value} == {later: 20}


def test_of_the_same_override_the_last_counts(write: Write, good: str) -> None:
    assert load_recipe(write(good), "pretrain", ["seed=1", "seed=2"]).data["seed"] == 2


def test_out_on_the_command_line_wins_and_is_text(write: Write, good: str) -> None:
    resolved = load_recipe(write(good + "out: runs/file\n"), "pretrain", out="2024")
    assert resolved.out == resolved.data["out"] == "2024"
    assert str(resolved.origins["out"]) == "override `--out 2024`"
    assert load_recipe(write(good), "pretrain", ["out=here"], out="here").out == "here"


def test_out_given_twice_and_differently_is_a_usage_error(write: Write, good: str) -> None:
    with pytest.raises(CirillaError, match="`--out here` and `out=there`") as caught:
        load_recipe(write(good), "pretrain", ["out=there"], out="here")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("file", "name"),
    [("ciri.yaml", "ciri"), ("my model/pretrain.yaml", "my-model"), ("x/resolved.yaml", "x"), ("a b.c.yaml", "a-b.c")],
)
def test_a_recipe_without_a_name_has_its_files(write: Write, good: str, file: str, name: str) -> None:
    resolved = load_recipe(write(good, file), "pretrain")
    assert (resolved.name, resolved.out) == (name, f"runs/{name}-pretrain")
    assert resolved.data["name"] == name


def test_the_verb_follows_from_the_sections(write: Write, good: str) -> None:
    assert load_recipe(write(good), None).verb == "pretrain"
    assert load_recipe(write(good), None, ["data={kind: preferences, path: x}", "objective.kind=dpo"]).verb == "dpo"
    assert load_recipe(write("recipe: 1\neval: {tasks: {a: {kind: text, path: x.txt}}}"), None).verb == "eval"
    assert load_recipe(write("recipe: 1\nmodel: runs/x"), "generate").data["model"] == "runs/x"
