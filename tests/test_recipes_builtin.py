"""Every built-in recipe loads, resolves, builds its model and trains; a new one is tested by existing."""

import json
import os
import random
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cirilla_cli.cli.pipeline import resolve_stages
from cirilla_cli.errors import CirillaError
from cirilla_cli.model.config import CheckpointConfig
from cirilla_cli.model.count import parameters
from cirilla_cli.model.init import empty
from cirilla_cli.recipe.builtin import list_recipes
from cirilla_cli.recipe.load import Resolved, load_recipe

sys.path.insert(0, str(Path(__file__).parent / "cli"))

from program import RECIPE, call, good  # noqa: E402

ALL = [pytest.param(one["name"], one["verb"], id=f"{one['name']}-{one['verb']}") for one in list_recipes()]
TRAINED = [p for p in ALL if p.values[1] in ("pretrain", "sft", "dpo")]
PIPELINES = [p for p in ALL if p.values[1] == "run"]
ROOT = Path(list_recipes()[0]["path"]).parents[1]
FILES = [pytest.param(path, id=f"{path.parent.name}-{path.stem}") for path in sorted(ROOT.glob("*/*.yaml"))]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Documents, samples, pairs, shards and a tiny run to start from; the working directory while it is in use."""
    folder, before = tmp_path_factory.mktemp("data"), Path.cwd()
    os.chdir(folder)
    good("scrape", "quickstart", "--limit", "8", "--out", "documents.jsonl", "-q")
    good("synth", "--source", "fandom", "documents.jsonl", "--out", "synth", "-q")
    rows = Path("synth/samples.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    pairs = [row for row in rows if '"kind": "preference"' in row]
    Path("samples.jsonl").write_text("".join([*rows[:60], *pairs[:30]]), encoding="utf-8")
    Path("tiny.yaml").write_text(RECIPE, encoding="utf-8")
    good("tokenize", "documents.jsonl", "tokenize.tokenizer.vocab_size=400", "tokenize.val=20%", "--out", "tok", "-q")
    good("pretrain", "tiny.yaml", "--out", "base", "-q")
    yield folder
    os.chdir(before)


@pytest.mark.parametrize(("name", "verb"), ALL)
def test_it_loads_and_says_what_it_is(name: str, verb: str) -> None:
    (one,) = (one for one in list_recipes() if (one["name"], one["verb"]) == (name, verb))
    resolved = load_recipe(name, verb)
    assert (resolved.verb, resolved.path) == (verb, Path(one["path"]))
    assert len(one["about"]) > 20
    assert resolved.out.startswith("runs/")


@pytest.mark.parametrize("name", [p.values[0] for p in PIPELINES])
def test_the_stages_of_a_pipeline_resolve_and_feed_each_other(name: str) -> None:
    pipeline = load_recipe(name, "run")
    stages = resolve_stages(pipeline)
    outs = {stage.resolved.out for stage in stages}
    for number, stage in enumerate(stages):
        assert set(stage.needs) <= {before.name for before in stages[:number]}
        text = json.dumps({**stage.resolved.data, "out": None})
        # Outside its own folder a pipeline reads nothing that it does not make or that the user must bring.
        elsewhere = {part.split('"')[0] for part in text.split('"runs/')[1:]}
        assert all(any(f"runs/{path}".startswith(out) for out in outs) for path in elsewhere), elsewhere


SMALL: dict[str, dict[str, Any]] = {
    "attention": {"n_heads": 2, "n_kv_heads": 1, "head_dim": 16},
    "dilated": {"n_heads": 2, "n_kv_heads": 1, "head_dim": 16, "segments": [8, 16], "dilations": [1, 2]},
    "mla": {"n_heads": 2, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
            "v_head_dim": 8},
    "mamba2": {"n_heads": 4, "d_state": 8, "chunk_size": 16},
    "gated_deltanet": {"n_heads": 2, "chunk_size": 16},
    "moe": {"n_experts": 8, "top_k": 2, "d_ff": 32, "shared_d_ff": 32},
}  # fmt: skip
"""Sizes of pieces that fit a model 32 wide, by kind; only those that a recipe sets are changed."""


def shrunk_piece(at: str, piece: Mapping[str, Any]) -> list[str]:
    """Overrides that make a mixer or feed-forward small."""
    small = SMALL.get(piece["kind"], {"d_ff": 64})
    changes = [f"{at}.{key}={value}" for key, value in small.items() if piece.get(key) is not None]
    return changes + ([f"{at}.dense.d_ff=64"] if piece.get("dense") else [])


def shrunk(resolved: Resolved) -> list[str]:
    """Overrides that make a training recipe small and give it the tests' data; all else stays as it is."""
    model, given = resolved.data["model"], ["train.steps=2", "train.batch_tokens=256", "train.micro_batch_tokens=128"]
    given += ["train.early_stopping=null", "train.max_epochs=null", "device=cpu"]
    if model["kind"] == "checkpoint":
        given += ["model.path=base", "model.context_length=64"]
    elif yaml.safe_load(resolved.path.read_text(encoding="utf-8"))["model"]["kind"] == "dial":
        given += ["model.depth=1", "model.context_length=64", f"optim.lr={resolved.data['optim']['lr']}"]
    else:
        letters = "".join(dict.fromkeys(model["pattern"]))
        given += [f"model.pattern={letters}", f"model.n_layers={max(2, len(letters))}", "model.d_model=32"]
        given += ["model.context_length=64", *shrunk_piece("model.mlp", model["mlp"])]
        given += [
            change for key, mixer in model["mixers"].items() for change in shrunk_piece(f"model.mixers.{key}", mixer)
        ]
    if resolved.verb == "pretrain":
        given += [f"data.sources.{name}.path=tok" for name in resolved.data["data"]["sources"]]
    else:
        given += ["data.path=[samples.jsonl]", "data.val=20%"]
    if resolved.data.get("eval") is not None:
        given += ["eval.max_tokens=500", "eval.sample_tokens=2"]
    return given


@pytest.mark.parametrize(("name", "verb"), TRAINED)
def test_a_training_recipe_builds_its_model_and_trains_when_shrunk(
    name: str, verb: str, data: Path, tmp_path: Path
) -> None:
    resolved = load_recipe(name, verb)
    if not isinstance(model := resolved.recipe.model, CheckpointConfig):  # type: ignore[attr-defined]
        full = model.changed(vocab_size=model.vocab_size or 8192)
        built = empty(full, "meta")
        assert all(parameter.is_meta for parameter in built.parameters())
        assert sum(parameter.numel() for parameter in built.parameters()) == parameters(full)
    done = call(verb, name, *shrunk(resolved), "--out", str(tmp_path / "run"), "--json")
    assert done.code == 0, done
    report = json.loads(done.out)
    assert report["step"] == 2
    assert torch.isfinite(torch.tensor(report["loss"]))
    kept = json.loads((tmp_path / "run/lock.json").read_text(encoding="utf-8"))["resolved"]
    assert kept["optim"] == resolved.data["optim"]
    assert kept["schedule"] == resolved.data["schedule"]


FREE = {
    "mixers", "sources", "filters", "evaluation", "tasks", "stages", "compare", "config", "with", "generators",
}  # fmt: skip
"""Sections whose keys are names of the user's own, or go to another program."""
LETTERS = "abcdefghijklmnopqrstuvwxyz_"


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Every key that the recipe language knows, with the path of the mapping it stands in."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            if not at or at[-1] not in FREE:
                yield at, key
            yield from places(child, (*at, key)) if key not in ("config", "with", "compare") else ()


def changed(word: str, chance: random.Random) -> str:
    """``word`` with one character dropped, added, replaced or swapped."""
    i = chance.randrange(len(word))
    letter = chance.choice([one for one in LETTERS if one != word[i]])
    ways = [word[:i] + word[i + 1 :], word[:i] + letter + word[i:], word[:i] + letter + word[i + 1 :]]
    if i + 1 < len(word) and word[i] != word[i + 1]:
        ways.append(word[:i] + word[i + 1] + word[i] + word[i + 2 :])
    return chance.choice([way for way in ways if way])


def renamed(value: Any, at: tuple[Any, ...], old: str, new: str) -> Any:
    if not at:
        return {new if key == old else key: child for key, child in value.items()}
    return {key: renamed(child, at[1:], old, new) if key == at[0] else child for key, child in value.items()}


def test_every_key_of_every_recipe_changed_by_one_character_is_refused_and_the_right_one_suggested(
    tmp_path: Path,
) -> None:
    """As the recipes are written, what they extend beneath them; the keys they leave out are tried in tests/recipe."""
    chance, right, wrong = random.Random("keys"), 0, []
    for file in sorted(ROOT.glob("*/*.yaml")):
        folder = tmp_path / file.parent.name
        shutil.copytree(file.parent, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.xml*"))
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
        verb = {"pipeline": "run"}.get(file.stem) or ("synth" if file.stem == "tasks" else file.stem)
        verb = verb if verb != "corpus" else "scrape"
        for at, key in places(recipe):
            new = changed(key, chance)
            target = folder / file.name
            target.write_text(yaml.safe_dump(renamed(recipe, at, key, new), sort_keys=False), encoding="utf-8")
            with pytest.raises(CirillaError) as caught:
                load_recipe(target, verb)
            dotted = ".".join(map(str, (*at, new)))
            about = [line for line in str(caught.value).splitlines() if f"`{dotted}` is not a key here" in line]
            assert about, (file, dotted, str(caught.value))
            if f"did you mean `{key}`?" in about[0]:
                right += 1
            else:
                wrong.append(about[0])
    print(f"{right + len(wrong)} keys, {right / (right + len(wrong)):.1%} with the right suggestion; not: {wrong}")
    assert right > 250
    assert right / (right + len(wrong)) >= 0.95, wrong


@pytest.mark.parametrize("name", [p.values[0] for p in PIPELINES])
def test_a_changed_override_of_a_stage_is_refused_at_its_line(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    shutil.copytree(ROOT / name, folder, ignore=shutil.ignore_patterns("*.xml*"))
    file, chance, tried, right = folder / "pipeline.yaml", random.Random(name), 0, 0
    text = file.read_text(encoding="utf-8")
    for stage in yaml.safe_load(text)["stages"].values():
        for key in stage.get("with", {}):
            last = key.rpartition(".")[2]
            new = key.removesuffix(last) + changed(last, chance)
            written = re.sub(rf"(?<![\w.-]){re.escape(key)}:", f"{new}:", text, count=1)
            file.write_text(written, encoding="utf-8")
            line = next(
                i for i, line in enumerate(written.splitlines(), 1) if re.search(rf"(?<![\w.-]){re.escape(new)}:", line)
            )
            with pytest.raises(CirillaError) as caught:
                resolve_stages(load_recipe(file, "run"))
            assert f"{file}:{line}: stage `" in str(caught.value).replace(f"{os.path.relpath(file)}", str(file))
            assert f"`{new}` is not a key here" in str(caught.value)
            tried, right = tried + 1, right + (f"did you mean `{last}`?" in str(caught.value))
    assert tried > 5
    assert right / tried >= 0.8, (tried, right)


@pytest.mark.parametrize("path", FILES)
def test_a_copy_checks_and_what_is_shown_loads_again(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = path.parent.name
    if name == "base":
        return
    (verb,) = (one["verb"] for one in list_recipes() if Path(one["path"]) == path)
    assert call("recipe", "copy", f"{name}/{path.stem}", "mine.yaml").out.startswith("mine.yaml\n")
    assert Path("mine.yaml").read_bytes() == path.read_bytes()
    checked = call("recipe", "check", "mine.yaml")
    assert checked.code == 0, checked
    shown = call("recipe", "show", f"{name}/{path.stem}")
    assert shown.code == 0
    Path("shown.yaml").write_text(shown.out, encoding="utf-8")
    assert load_recipe("shown.yaml", verb).data == load_recipe(f"{name}/{path.stem}", verb).data
    why = call("recipe", "show", f"{name}/{path.stem}", "--why").out
    assert f"{path.name}:" in why
    assert yaml.safe_load(why) == yaml.safe_load(shown.out)


def test_every_file_is_listed_and_further_parts_stand_below_their_parent() -> None:
    listed = list_recipes()
    assert sorted(one["path"] for one in listed) == sorted(
        map(str, set(ROOT.glob("*/*.yaml")) - set(ROOT.glob("base/*")))
    )
    rows = [(one["name"], one["verb"]) for one in listed]
    for part, verb in (("quickstart/tasks", "synth"), ("witcher-16gb/corpus", "scrape")):
        at = rows.index((part, verb))
        assert rows[at - 1] == (part.partition("/")[0], "run")
    printed = [line.split()[:2] for line in call("recipe", "list").out.splitlines()]
    assert ["quickstart/tasks", "synth"] in printed


def test_a_part_is_named_wherever_a_recipe_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    part = load_recipe("quickstart/tasks", "synth")
    assert "a good recipe for `cirilla synth`" in call("recipe", "check", "quickstart/tasks").out
    assert call("recipe", "diff", "quickstart/tasks", "quickstart/tasks").out == "no difference\n"
    assert json.loads(call("synth", "quickstart/tasks", "--dry-run", "--json", "-q").out)["recipe"] == part.data
    Path("mine.yaml").write_text("recipe: 1\nextends: quickstart/tasks\nname: mine\n", encoding="utf-8")
    assert load_recipe("mine.yaml", "synth").data["synth"] == part.data["synth"]
    Path("p.yaml").write_text(
        "recipe: 1\nstages:\n  tasks: {verb: synth, recipe: quickstart/tasks}\n", encoding="utf-8"
    )
    (stage,) = resolve_stages(load_recipe("p.yaml", "run"))
    assert stage.resolved.path == part.path


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "recipe show quickstart/taks",
            "no built-in recipe is called `quickstart/taks`; did you mean `quickstart/tasks`",
        ),
        ("recipe check quickstart/tasks --verb sft", "this is a recipe for `cirilla synth`, not for `cirilla sft`"),
        ("recipe show quickstart", "quickstart/pipeline, quickstart/tasks"),
    ],
)
def test_a_part_that_is_not_meant_is_said(words: str, says: str) -> None:
    done = call(*words.split())
    assert (done.code, says in done.err) == (1, True), done


def test_copying_a_pipeline_brings_the_recipes_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for one in (one for one in list_recipes() if one["verb"] == "run"):
        Path(one["name"]).mkdir()
        done = call("recipe", "copy", f"{one['name']}/pipeline", f"./{one['name']}/mine.yaml")
        assert done.code == 0, done
        assert sorted(done.out.split()) == sorted(map(str, Path(one["name"]).iterdir()))
        checked = call("recipe", "check", f"./{one['name']}/mine.yaml")
        assert checked.code == 0, checked
        assert "exists already" in call("recipe", "copy", f"{one['name']}/pipeline", f"./{one['name']}/other.yaml").err


def test_explain_tells_meaning_type_default_and_choices() -> None:
    told = call("recipe", "explain", "optim.lr").out
    assert "optim.lr" in told
    assert "number" in told
    assert "muon" in call("recipe", "explain", "optim.kind").out
    assert call("recipe", "explain", "train.steps").out == call("recipe", "explain", "pretrain:train.steps").out


def test_diff_names_the_keys_that_differ() -> None:
    rows = json.loads(call("recipe", "diff", "quickstart/sft", "witcher-16gb/sft", "--json").out)
    found = {row["key"]: (row["before"], row["after"]) for row in rows}
    one, other = load_recipe("quickstart", "sft"), load_recipe("witcher-16gb", "sft")
    assert found["name"] == ("quickstart", "witcher-16gb")
    assert found["train.batch_tokens"] == (one.data["train"]["batch_tokens"], other.data["train"]["batch_tokens"])
    assert "no difference" in call("recipe", "diff", "quickstart/sft", "quickstart/sft").out


def test_schema_is_one_for_each_verb() -> None:
    whole = json.loads(call("recipe", "schema", "pretrain").out)
    assert {"model", "data", "train", "optim"} <= set(whole["properties"])
    assert "model" in whole["required"]
    assert not json.loads(call("recipe", "schema", "pretrain", "--partial").out).get("required")
    assert json.loads(call("recipe", "schema").out)["$schema"]


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def small_open_model(family: str, folder: Path, texts: list[str]) -> None:
    """A random checkpoint of a public family with a byte-level tokenizer, as transformers saves them."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=special[0], eos_token=special[2], pad_token=special[0], chat_template=CHATML
    )
    shape: dict[str, Any] = {
        "vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 256, "eos_token_id": 2, "bos_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    if family == "llama":
        config: Any = transformers.LlamaConfig(**shape, tie_word_embeddings=True)
    else:
        config = transformers.Qwen3Config(**shape, head_dim=16)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_witcher_from_base_goes_all_the_way_from_a_small_open_model(
    family: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    documents, samples = data / "documents.jsonl", data / "samples.jsonl"
    texts = [json.loads(line)["text"] for line in documents.read_text(encoding="utf-8").splitlines()]
    small_open_model(family, tmp_path / "base", texts)
    small = [
        "train.steps=2",
        "train.batch_tokens=512",
        "train.micro_batch_tokens=256",
        "train.early_stopping=null",
        "-q",
    ]

    good(
        "pretrain",
        "witcher-from-base",
        "model.path=base",
        "model.context_length=128",
        f"data.sources.wiki.path={documents}",
        *small,
    )
    good("sft", "witcher-from-base", str(samples), "model.path=runs/witcher-from-base/pretrain", *small)
    good("dpo", "witcher-from-base", str(samples), "model.path=runs/witcher-from-base/sft", *small)
    good("push", "runs/witcher-from-base/dpo", "--to", "dir:pushed", "-q")

    asked = ["--prompt", "Who is Geralt?", "--chat", "-t", "0", "-n", "8", "--dtype", "float32", "--json"]
    ours = json.loads(good("generate", "runs/witcher-from-base/dpo", *asked).out)
    assert ours["prompt_tokens"][:1] == [1], "the checkpoint's own template and tokenizer"
    assert json.loads(good("generate", "pushed", *asked).out)["tokens"] == ours["tokens"]

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained("pushed"), AutoModelForCausalLM.from_pretrained("pushed")
    assert model.config.model_type == family
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Who is Geralt?"}], add_generation_prompt=True, return_dict=False
    )
    assert ids == ours["prompt_tokens"]
    before = AutoModelForCausalLM.from_pretrained("base")
    moved = [
        name
        for name, weight in model.state_dict().items()
        if not torch.equal(weight.float(), before.state_dict()[name].float())
    ]
    assert any("self_attn" in name for name in moved)
