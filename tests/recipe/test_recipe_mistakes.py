"""Every mistake in a recipe is placed, explained, and reported together with the others."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cirilla_cli.errors import CirillaError, UsageError
from cirilla_cli.recipe.load import load_recipe

Write = Callable[..., Path]


def complaints(path: Path | str, verb: str | None = "pretrain", overrides: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(CirillaError) as caught:
        load_recipe(path, verb, overrides)
    assert caught.value.exit_code == 1
    assert not isinstance(caught.value, UsageError)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("d_model: 64", "d_model: wide", "5: `model.d_model` is 'wide', must be a whole number, more than 0"),
        ("d_model: 64", "d_model: true", "5: `model.d_model` is true, must be a whole number, more than 0"),
        ("d_model: 64", "d_model: -1", "5: `model.d_model` is -1, must be more than 0"),
        ("d_model: 64", "d_model:", "5: `model.d_model` is null, must be a whole number, more than 0"),
        ("d_model: 64", "d_mdoel: 64", "5: `model.d_mdoel` is not a key here; did you mean `d_model`?"),
        ("  d_model: 64\n", "", "3: `model.d_model` is missing; it is a whole number, more than 0"),
        (
            "n_kv_heads: 2",
            "n_head_kv: 2",
            "8: `model.mixers.A.n_head_kv` is not a key here; did you mean `n_kv_heads`?",
        ),
        ("n_kv_heads: 2", "n_kv_heads: 3", "8: `model.mixers.A`: n_heads (4) must be a multiple of n_kv_heads (3)"),
        (
            "d_ff: 176",
            "d_ff: 1.5",
            "9: `model.mlp.d_ff` is 1.5, must be a count such as 4096, 64Ki or 200M, more than 0",
        ),
        (
            "d_ff: 176",
            "d_ff: 176x",
            "9: `model.mlp.d_ff` is '176x', must be a number with or without a unit, such as 4096, 64Ki or 200M",
        ),
        (
            "{wiki: {path: runs/wiki}}",
            "[runs/wiki]",
            "12: `data.sources` is a list, must be a mapping from names to values",
        ),
        ("path: runs/wiki", "path: 7", "12: `data.sources.wiki.path` is 7, must be a path"),
        ("kind: cross_entropy", "kind: ppo", "13: `objective.kind` is 'ppo', must be cross_entropy"),
        ("{steps: 10, ", "{", "14: `train`: give exactly one of steps, tokens and epochs; given: none"),
        ("{steps: 10, ", "{steps: 10, tokens: 5, ", "14: `train`: give exactly one of steps, tokens and epochs; "),
        ("{steps: 10, ", "{steps: 10, lr: 1, ", "14: `train.lr` is not a key here; did you mean `optim.lr`?"),
        (
            "kind: adamw",
            "kind: adamv",
            "16: `optim.kind` is 'adamv', must be adamw or muon or adamw_8bit; did you mean `adamw`?",
        ),
        ("kind: adamw", "kin: adamw", "16: `optim.kin` is not a key here; did you mean `kind`?"),
        ("kind: adamw", "type: adamw", "16: `optim.type` is not a key here; did you mean `kind`?"),
        ("lr: 1e-3", "lr: no", "17: `optim.lr` is 'no', must be a number, more than 0"),
        ("lr: 1e-3", "lr: 0", "17: `optim.lr` is 0, must be more than 0"),
        ("lr: 1e-3", "lr: 1e999", "17: `optim.lr` is '1e999', must be a number, "),
        ("lr: 1e-3", "lx: 1e-3", "17: `optim.lx` is not a key here; did you mean `lr`?"),
        ("lr: 1e-3", "learning_rate: 1e-3", "17: `optim.learning_rate` is not a key here; did you mean `lr`?"),
        ("lr: 1e-3", "momentum: 0.9", "17: `optim.momentum` is not a key here; did you mean kind muon?"),
        ("lr: 1e-3", "zzz: 0.9", "17: `optim.zzz` is not a key here; known keys: kind, lr, beta1,"),
        ("recipe: 1", "recipe: 2", "2: `recipe` is 2, must be 1"),
        ("recipe: 1", "seed: 1", "2: `recipe` is missing: begin the recipe with `recipe: 1`"),
        ("recipe: 1", "recipe: 1\nname: ../x", "3: `name` is '../x', must be letters, digits, `.`, `_` and `-`"),
        ("recipe: 1", "recipe: 1\nname: 2024", "3: `name` is 2024, must be text, or null; put it in quotes"),
        (
            "recipe: 1",
            "recipe: 1\nprecision: {compute: bf16}",
            "3: `precision.compute` is 'bf16', must be one of auto,",
        ),
        (
            "recipe: 1",
            "recipe: 1\nmemory: null",
            "3: `memory` is null, must be a mapping with the keys checkpointing, logits_bytes, fused_backward",
        ),
        ("recipe: 1", "recipe: 1\neval: 5", "3: `eval` is 5, must be a mapping with the keys every, "),
        ("recipe: 1", "recipe: 1\neval: {prompts: [a, 1]}", "3: `eval.prompts.1` is 1, must be text; put it in quotes"),
        ("schedule:", "shedule:", "18: `shedule` is not a key here; did you mean `schedule`?"),
        ("lr: 1e-3", "lr: 1e-3\n  lr: 2e-3", "18: `lr` is given twice; the first is at toy.yaml:17"),
    ],
)
def test_a_mistake_is_placed_and_explained(write: Write, good: str, old: str, new: str, complaint: str) -> None:
    assert old in good
    found = complaints(write(good.replace(old, new, 1)))
    assert len(found) == 1, found
    assert found[0].startswith(f"toy.yaml:{complaint}")


def test_all_that_a_fused_backward_pass_cannot_be_combined_with_is_named_at_once(write: Write, good: str) -> None:
    text = good.replace("{steps: 10, ", "{steps: 10, micro_batch_tokens: 512, ") + (
        "memory: {fused_backward: true}\nprecision: {compute: float16}\nparallel: {kind: fsdp}\n"
    )
    fused = "with memory.fused_backward"
    assert [line.partition(fused)[0] for line in complaints(write(text))] == [
        f"toy.yaml:{said} "
        for said in (
            "14: `train.max_grad_norm` is 1, must be null",
            "14: `train.micro_batch_tokens` is 512, must be null or train.batch_tokens (1024)",
            "20: `precision.compute` is 'float16', must be bfloat16 or float32",
            "21: `parallel.kind` is 'fsdp', must be ddp, with one process,",
        )
    ]
    assert load_recipe(
        write(good.replace("{steps: 10, ", "{steps: 10, max_grad_norm: null, ") + "memory: {fused_backward: true}\n"),
        "pretrain",
    ).recipe.memory.fused_backward


@pytest.mark.parametrize(
    ("every", "length", "refused"),
    [("10", "steps", True), ("100%", "steps", True), ("1.0", "tokens", True), ("0", "steps", True)]
    + [("0%", "tokens", True), ("9", "steps", False), ("25%", "tokens", False), ("10", "tokens", False)],
)
def test_a_way_back_needs_checkpoints_before_the_end(
    every: str, length: str, refused: bool, write: Write, good: str
) -> None:
    """A run of 10 steps, which is saved at its end in any case."""
    train = f"{{divergence: {{action: rollback}}, {length}: {10 if length == 'steps' else '10Ki'}, "
    recipe = write(good.replace("{steps: 10, ", train) + f"checkpoint: {{every: {every}, every_time: 1min}}\n")
    if not refused:
        load_recipe(recipe, "pretrain")
        return
    with pytest.raises(
        CirillaError, match=r"`checkpoint.every` is .*, must be (shorter than the run|more than 0) with"
    ):
        load_recipe(recipe, "pretrain")


def test_the_recipe_the_mistakes_are_made_in_has_none(write: Write, good: str) -> None:
    assert load_recipe(write(good), "pretrain").recipe.seed == 0


def test_all_mistakes_are_reported_at_once_in_the_order_of_lines(write: Write, good: str) -> None:
    text = good
    for old, new in (
        ("recipe: 1", "recipe: 1\nsead: 3"),
        ("d_model: 64", "d_model: wide"),
        ("kind: cross_entropy", "kind: ppo"),
        ("steps: 10", "stepz: 10"),
        ("lr: 1e-3", "lr: -1\n  lr: -1"),
    ):
        text = text.replace(old, new, 1)
    found = complaints(write(text), overrides=("schedule.warmpu=2", "nonsense"))
    assert [line.split(" ")[0] for line in found[:6]] == [f"toy.yaml:{n}:" for n in (3, 6, 14, 15, 19, 19)]
    assert found[6:] == [
        "override `nonsense`: must be `key=value`, such as `train.steps=100`",
        "override `schedule.warmpu=2`: `schedule.warmpu` is not a key here; did you mean `warmup`?",
    ]


def test_machines_get_the_same_places(write: Write, good: str) -> None:
    path = write(good.replace("d_model: 64", "d_model: wide").replace("lr: 1e-3", "lrr: 1"))
    with pytest.raises(CirillaError) as caught:
        load_recipe(path, "pretrain", ["train.steps=-1"])
    first, second, third = caught.value.where
    assert (first.file, first.line, first.key, first.value) == ("toy.yaml", 5, "model.d_model", "wide")
    assert first.expected == "a whole number, more than 0"
    assert (second.line, second.key, second.expected) == (17, "optim.lrr", "lr")
    assert (third.file, third.line, third.key, third.value) == ("override `train.steps=-1`", None, "train.steps", -1)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("train.steps=-1", "override `train.steps=-1`: `train.steps` is -1, must be more than 0"),
        ("train.steps.x=1", "override `train.steps.x=1`: `train.steps` is 10, no section; it has no key `x`"),
        ("optim.lr=", "override `optim.lr=`: `optim.lr` has no value; null switches a section off"),
        ("optim..lr=1", "override `optim..lr=1`: must be `key=value`"),
        ("optim.lr=[1", "override `optim.lr=[1`: not YAML: "),
        (
            "optim.lr=!!float 1",
            "override `optim.lr=!!float 1`: the tag `tag:yaml.org,2002:float`: recipes have no tags",
        ),
        (
            "data=null",
            "override `data=null`: `data` is null, must be a mapping with kind packed_text or masked_text; this ",
        ),
        ("lr=1", "override `lr=1`: `lr` is not a key here; did you mean `optim.lr`?"),
        ("optim.lr=\udcff", "override `optim.lr=\udcff`: not UTF-8"),
    ],
)
def test_a_wrong_override_is_named_itself(write: Write, good: str, override: str, complaint: str) -> None:
    found = complaints(write(good), overrides=(override,))
    assert len(found) == 1
    assert found[0].startswith(complaint)


def test_an_override_through_a_list_is_refused(write: Write) -> None:
    path = write("recipe: 1\ntokenize: {inputs: [a, b]}")
    assert complaints(path, "tokenize", ("tokenize.inputs.0=c",)) == [
        "override `tokenize.inputs.0=c`: `tokenize.inputs` is a list, which is replaced as a whole; it has no key `0`"
    ]


def test_the_wrong_training_verb_is_told_the_right_one(write: Write, good: str) -> None:
    assert complaints(write(good), "sft") == [
        "toy.yaml:11: `data.kind` is 'packed_text', must be conversations or labelled_text for `cirilla sft`; "
        "`cirilla pretrain` takes packed_text"
    ]
    chats = good.replace("kind: packed_text", "kind: conversations").replace(
        "sources: {wiki: {path: runs/wiki}}", "path: a"
    )
    assert load_recipe(write(chats), "sft").verb == "sft"
    assert "`cirilla dpo` takes dpo" in complaints(write(chats.replace("cross_entropy", "dpo")), "sft")[0]
    assert "`cirilla sft` takes conversations" in complaints(write(chats), "pretrain")[0]


def test_the_recipe_of_another_verb_is_refused_with_the_right_command(write: Write) -> None:
    path = write("recipe: 1\npush: {to: 'dir:x'}")
    with pytest.raises(CirillaError, match="this is a recipe for `cirilla push`, not for `cirilla pretrain`") as caught:
        load_recipe(path, "pretrain")
    assert caught.value.hint == "cirilla push toy.yaml"


def test_a_recipe_that_does_not_say_its_verb_asks_for_it(write: Write) -> None:
    assert "the sections do not say which command this is for" in complaints(write("recipe: 1\nseed: 3"), None)[0]


def test_a_missing_kind_lists_the_choices(write: Write, good: str) -> None:
    found = complaints(write(good.replace("  kind: decoder\n", "", 1)))
    assert found == ["toy.yaml:3: `model.kind` is missing, must be decoder or encoder or dial or checkpoint"]


def test_a_misspelt_kind_does_not_hide_misspelt_keys(write: Write, good: str) -> None:
    found = complaints(write(good.replace("kind: adamw\n  lr", "kind: adamv\n  lrr")))
    assert [line.partition(": ")[2][:18] for line in found] == ["`optim.kind` is 'a", "`optim.lrr` is not"]


def test_a_misspelt_extends_is_the_only_complaint(write: Write) -> None:
    assert complaints(write("recipe: 1\nextend: base.yaml")) == [
        "toy.yaml:2: `extend` is not a key here; did you mean `extends`?"
    ]


def test_no_file_suggests_its_neighbour(write: Write, good: str) -> None:
    write(good)
    with pytest.raises(CirillaError, match=r"no recipe at `tyo.yaml`; did you mean `toy.yaml`\?") as caught:
        load_recipe("tyo.yaml", "pretrain")
    assert caught.value.hint == "cirilla recipe list"


def test_a_folder_or_binary_file_is_refused_in_words(write: Write, tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(CirillaError, match=r"cannot read `.*folder\.yaml`: Is a directory"):
        load_recipe(tmp_path / "folder.yaml", "pretrain")
    (tmp_path / "binary.yaml").write_bytes(b"recipe: 1\nname: \xff\xfe")
    with pytest.raises(CirillaError, match=r"binary\.yaml:2: not UTF-8 text"):
        load_recipe(tmp_path / "binary.yaml", "pretrain")


def test_secrets_are_neither_repeated_nor_written_down(write: Write) -> None:
    path = write("recipe: 1\nsynth: {source: {kind: teacher, teacher: {kind: openai, api_kye: hush-1}}}")
    with pytest.raises(CirillaError) as caught:
        load_recipe(path, "synth", ["synth.source.teacher.api_key=[hush-2]"])
    assert "did you mean `api_key`" in str(caught.value)
    assert "hush" not in str(caught.value)
    assert "hush" not in str(caught.value.where)
    good = write("recipe: 1\nsynth: {source: {kind: teacher, teacher: {kind: openai, api_key: hush-3}}}")
    resolved = load_recipe(good, "synth", ["synth.source.teacher.model=m"])
    assert "hush" not in str(resolved.data) + str(resolved.origins) + str(resolved.recipe)


def test_pipeline_stages_may_only_name_stages_above(write: Write) -> None:
    text = """\
recipe: 1
stages:
  pages: {verb: scrape}
  rows: {verb: synth, with: {synth.inputs: ["{page}"]}}
  first:
    verb: pretrain
    after: [later]
  later: {verb: sft, with: {model.path: "{first}", data.path: "{rows}/samples.jsonl"}}
"""
    assert complaints(write(text), "run") == [
        "toy.yaml:4: `stages.rows.with.synth.inputs` names `page`, which is no stage; did you mean `pages`?",
        "toy.yaml:7: `stages.first.after` names `later`, which does not come before `first`; move it up",
    ]
    fixed = write(text.replace("{page}", "{pages}").replace("[later]", "pages"))
    stages = load_recipe(fixed, None).data["stages"]
    assert list(stages) == ["pages", "rows", "first", "later"]
    assert stages["later"]["with"] == {"model.path": "{first}", "data.path": "{rows}/samples.jsonl"}
