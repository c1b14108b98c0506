"""A model goes on with a tokenizer that extends its own: rows for the new ids, everything else as it was."""

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from cirilla_cli.checkpoint import Checkpoint
from cirilla_cli.data.config import ExtendedTokenizerConfig, TokenizeConfig
from cirilla_cli.data.run import tokenize
from cirilla_cli.data.tokenizer import load_tokenizer
from cirilla_cli.engine.plan import plan
from cirilla_cli.engine.run import train
from cirilla_cli.engine.vocabulary import extends, widened, with_new_rows
from cirilla_cli.errors import CirillaError
from cirilla_cli.lineage.trace import trace
from cirilla_cli.loading import load_model
from cirilla_cli.model.config import ClassifierConfig, DecoderConfig, EncoderConfig
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.readout import LastLogits
from cirilla_cli.model.sections import SwiGLUConfig
from cirilla_cli.progress import SILENT, Silent

CONTEXT = 32


@pytest.fixture(scope="session")
def extended(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data again, with a tokenizer that extends the one of `data`."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copy(data / "rows.jsonl", folder)
    section = ExtendedTokenizerConfig(base=data / "tokenizer", pieces=7, tokens=("griffinsilver",))
    tokenize(TokenizeConfig(inputs=(folder / "rows.jsonl",), tokenizer=section, val=0.2), folder, SILENT)
    return folder


class Saying(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def small(kind: str, vocab_size: int, *, tied: bool = False) -> Any:
    keys: dict[str, Any] = {
        "vocab_size": vocab_size, "d_model": 16, "n_layers": 2, "context_length": CONTEXT,
        "mixers": {"A": AttentionConfig(n_heads=2, causal=kind != "encoder")}, "mlp": SwiGLUConfig(d_ff=24),
        "tie_embeddings": tied,
    }  # fmt: skip
    if kind == "encoder":
        return EncoderConfig(**keys, decoder_bias=True)
    base = DecoderConfig(**keys)
    return ClassifierConfig(base=base, labels=("a", "b"), pooling="last") if kind == "classifier" else base


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        tokens_BT = torch.tensor([ids])
        return model(tokens_BT, SequenceLayout.rows(1, len(ids)), readout=LastLogits(len(ids)))[0]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("spare", [0, 3, 40])
def test_old_ids_keep_their_logits(data: Path, extended: Path, tied: bool, spare: int) -> None:
    """Also where the table had rows to spare, fewer or more than are wanted."""
    old, new = load_tokenizer(data), load_tokenizer(extended)
    before = fresh(small("decoder", old.vocab_size + spare, tied=tied), seed=1).double().eval()
    after = with_new_rows(before, widened(before.config, new), new.extension).double()
    assert after.config.vocab_size == max(new.vocab_size, old.vocab_size + spare)
    assert not after.training
    text = "the river, the river and a cat"
    ids = new.encode(text)
    assert ids == old.encode(text)
    assert max(ids) < old.vocab_size
    known = slice(0, old.vocab_size)
    torch.testing.assert_close(logits(after, ids)[:, known], logits(before, ids)[:, known], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["decoder", "encoder", "classifier"])
def test_a_new_row_is_the_mean_of_the_rows_that_its_piece_was_written_with(
    data: Path, extended: Path, kind: str
) -> None:
    """In every table with a row an id, a head of its own and a bias included; other weights are the same bits."""
    old, new = load_tokenizer(data), load_tokenizer(extended)
    torch.manual_seed(0)
    before = fresh(small(kind, old.vocab_size), seed=2)
    for parameter in before.parameters():
        parameter.data.normal_()
    after = with_new_rows(before, widened(before.config, new), new.extension)
    tables = 0
    own = before.state_dict()
    for name, tensor in after.state_dict().items():
        if tensor.shape == own[name].shape:
            assert torch.equal(tensor, own[name])
            continue
        tables += 1
        assert torch.equal(tensor[: old.vocab_size], own[name])
        for id_ in range(old.vocab_size, new.vocab_size):
            pieces = old.encode(new.piece_bytes(id_).decode())
            total = sum((own[name][piece] for piece in pieces), torch.zeros_like(own[name][0]))
            torch.testing.assert_close(tensor[id_], total / len(pieces), rtol=0, atol=1e-6)
    assert tables == {"decoder": 2, "encoder": 3, "classifier": 1}[kind]


def test_training_goes_on_with_more_ids_and_says_so(
    tiny: ModuleType, started: Path, extended: Path, out: Path, data: Path
) -> None:
    listener = Saying()
    report = train(tiny.job("pretrain", out, extended, start=started), listener)
    old, new = load_tokenizer(data), load_tokenizer(extended)
    assert report.step == 6
    (line,) = [text for text in listener.said if "extends that of" in text]
    assert f"from {old.vocab_size} to {new.vocab_size} rows" in line
    trained = load_model(out)
    assert trained.config.vocab_size == new.vocab_size
    assert trained.tokenizer.hash == new.hash
    assert trained.tokenizer.extension == new.extension
    (shards, _) = trace(out).root.parents
    assert (shards.facts["tokenizer_sha256"], shards.facts["extends_sha256"]) == (new.hash, old.hash)
    # What follows takes both as they are.
    after = out.with_name("after")
    assert train(tiny.job("sft", after, extended, start=out), listener).step == 6
    assert load_model(after).config.vocab_size == new.vocab_size


@pytest.mark.parametrize("verb", ["pretrain", "dpo"])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    verb: str, tiny: ModuleType, started: Path, extended: Path, out: Path, memory: Path
) -> None:
    job = tiny.job(verb, out, extended, start=started)
    train(job, SILENT)
    straight = memory / "straight"
    shutil.copytree(out, straight)
    shutil.rmtree(tiny.saved(out)[6])
    (out / "checkpoints" / "index.json").unlink()
    assert train(job, SILENT).continued_from == 4
    ends = [Checkpoint.newest(run).load_model().state_dict() for run in (out, straight)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])


def test_shards_of_any_other_tokenizer_are_refused(
    tiny: ModuleType, started: Path, extended: Path, out: Path, tmp_path: Path
) -> None:
    """An extension of another tokenizer, and one that claims to be what it is not."""
    other = shutil.copytree(extended, tmp_path / "other")
    record = other / "tokenizer" / "extends.json"
    said = json.loads(record.read_text())
    record.write_text(json.dumps({**said, "parent": "0" * 64}))
    with pytest.raises(CirillaError, match="made with another tokenizer"):
        train(tiny.job("pretrain", out, other, start=started), SILENT)
    for change in ({"first": said["first"] - 1}, {"spelled": [[said["first"]]] * 8}, {"spelled": said["spelled"][1:]}):
        record.write_text(json.dumps({**said, **change}))
        with pytest.raises(CirillaError, match="does not fit"):
            train(tiny.job("pretrain", out, other, start=started), SILENT)
    assert not extends(load_tokenizer(extended), load_tokenizer(extended))


def test_the_plan_knows_the_grown_model(tiny: ModuleType, started: Path, extended: Path, out: Path) -> None:
    planned = plan(tiny.job("pretrain", out, extended, start=started), SILENT)
    assert planned.action == "begin"
    old, new = load_model(started), load_tokenizer(extended)
    rows = new.vocab_size - old.config.vocab_size
    tables = 1 if old.config.tie_embeddings else 2
    grew = planned.parameters - sum(p.numel() for p in old.model.parameters())
    assert grew == rows * tables * old.config.d_model
    assert not out.exists()


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_of_transformers_goes_on_with_more_ids_and_back(
    architecture: str, tied: bool, tiny: ModuleType, extended: Path, out: Path, data: Path, tmp_path: Path
) -> None:
    """From its own folder, padded, over a run of ours, to a folder that it loads with the new size."""
    import warnings

    import transformers

    from cirilla_cli.hub.config import PushConfig
    from cirilla_cli.hub.write import write_folder

    old, new = load_tokenizer(data), load_tokenizer(extended)
    shape = {
        "vocab_size": old.vocab_size + 3, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
        "tie_word_embeddings": tied, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        theirs = getattr(transformers, f"{architecture}ForCausalLM")(
            getattr(transformers, f"{architecture}Config")(**shape)
        )
        theirs.save_pretrained(tmp_path / "hf")
        old.save(tmp_path / "hf")
        train(tiny.job("pretrain", out, extended, start=tmp_path / "hf"), SILENT)
        loaded = load_model(out)
        write_folder(loaded, tmp_path / "pushed", PushConfig(dtype="float32"))
        back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "pushed", dtype=torch.float32).eval()
        words = transformers.AutoTokenizer.from_pretrained(tmp_path / "pushed")
    assert back.config.vocab_size == len(words) == new.vocab_size > old.vocab_size + 3
    text = "griffinsilver sword by the river"
    ids = words(text, add_special_tokens=False)["input_ids"]
    assert ids == new.encode(text)
    assert max(ids) >= old.vocab_size
    with torch.inference_mode():
        torch.testing.assert_close(back(torch.tensor([ids])).logits[0], logits(loaded.model, ids), rtol=0, atol=1e-5)


def test_an_extension_of_an_extension_is_not_one_of_the_first(
    tiny: ModuleType, started: Path, extended: Path, out: Path, tmp_path: Path
) -> None:
    section = ExtendedTokenizerConfig(base=extended / "tokenizer", pieces=0, tokens=("riverwitch",))
    source = TokenizeConfig(inputs=(extended / "rows.jsonl",), tokenizer=section, val=0.2)
    tokenize(source, tmp_path / "third", SILENT)
    with pytest.raises(CirillaError, match="made with another tokenizer"):
        train(tiny.job("pretrain", out, tmp_path / "third", start=started), SILENT)
