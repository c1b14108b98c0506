"""Classifiers and encoders against transformers' classes and pipelines: logits, labels, hidden tokens, both ways."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cirilla_cli.checkpoint import AnyFound, Found
from cirilla_cli.data.config import SentencePieceConfig
from cirilla_cli.data.sentencepiece import SentencePieceTokenizer, train
from cirilla_cli.data.tokenizer import load_tokenizer
from cirilla_cli.errors import CirillaError
from cirilla_cli.hub.check import check, failures
from cirilla_cli.hub.config import PushConfig
from cirilla_cli.hub.families import from_hf, to_hf
from cirilla_cli.hub.read import read_folder
from cirilla_cli.hub.run import push
from cirilla_cli.hub.write import write_folder
from cirilla_cli.infer.prompt import Prompt
from cirilla_cli.infer.readers import classify, fill
from cirilla_cli.model.classifier import Classifier
from cirilla_cli.model.config import ClassifierConfig, DecoderConfig, EncoderConfig
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.readout import LastLogits
from cirilla_cli.progress import Silent

from .conftest import VOCAB, make_config, scramble

WIKI = Path(__file__).parents[2] / "recipes" / "quickstart" / "wiki.xml"
LABELS = ("griffin", "horse", "witcher")
PAD = 3
COMMON = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA = {
    **COMMON, "num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 24, "num_experts_per_tok": 2}
BERT = {**COMMON, "local_attention": 6, "global_attn_every_n_layers": 3, "cls_token_id": 1, "sep_token_id": 2}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", LLAMA),
    "mistral": ("Mistral", {**LLAMA, "sliding_window": 5}),
    "qwen3": ("Qwen3", {**LLAMA, "head_dim": 16}),
    "mixtral": ("Mixtral", {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3-moe": ("Qwen3Moe", {**LLAMA, **EXPERTS, "head_dim": 16, "num_experts": 4, "norm_topk_prob": True}),
    "deepseek-v3": (
        "DeepseekV3",
        {
            **LLAMA, **EXPERTS, "num_key_value_heads": 4, "q_lora_rank": 20, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 6, "v_head_dim": 10, "n_routed_experts": 4, "n_group": 2, "topk_group": 1,
            "n_shared_experts": 1, "first_k_dense_replace": 1, "num_nextn_predict_layers": 0,
        },
    ),
    "gpt2": (
        "GPT2",
        {"vocab_size": VOCAB, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "pad_token_id": PAD,
         "bos_token_id": 1, "eos_token_id": 2},
    ),
    "modernbert, mean": ("ModernBert", {**BERT, "classifier_pooling": "mean"}),
    "modernbert, cls": ("ModernBert", {**BERT, "classifier_pooling": "cls", "classifier_bias": True}),
}  # fmt: skip
"""Every architecture of which transformers has a classifier: its name and a tiny shape."""


@dataclass(frozen=True)
class Reference:
    """A classifier of theirs, and the folder it was saved in."""

    name: str
    model: Any
    folder: Path


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def reference(request: pytest.FixtureRequest, transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    name, keys = request.param
    config = getattr(transformers, f"{name}Config")(**keys, id2label=dict(enumerate(LABELS)))
    model = getattr(transformers, f"{name}ForSequenceClassification")(config).eval()
    scramble(model)
    folder = tmp_path_factory.mktemp("hf") / "model"
    model.save_pretrained(folder)
    return Reference(name, model, folder)


def documents() -> list[list[int]]:
    return [torch.randint(4, VOCAB, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (19, 7, 12)]


def packed_logits(loaded: AnyFound) -> Tensor:
    """Ours of three documents in one row, ``[3, C]``."""
    rows = documents()
    layout = SequenceLayout.packed(torch.tensor([[i for i, row in enumerate(rows) for _ in row]]))
    with torch.inference_mode():
        logits: Tensor = loaded.model(torch.tensor([sum(rows, [])]), layout, readout=LastLogits(3))[0]
        return logits


def padded_logits(model: Any) -> Tensor:
    """Theirs of the same three in a batch that is padded on the right."""
    rows = documents()
    ids = torch.tensor([[*row, *[PAD] * (19 - len(row))] for row in rows])
    with torch.inference_mode():
        logits: Tensor = model(ids, attention_mask=(ids != PAD).long()).logits
        return logits


def test_a_classifier_of_the_reference_gives_its_logits(reference: Reference) -> None:
    read = read_folder(reference.folder)
    assert isinstance(read.config, ClassifierConfig)
    assert read.config.labels == LABELS
    torch.testing.assert_close(packed_logits(read), padded_logits(reference.model), rtol=0, atol=1e-5)
    assert padded_logits(reference.model).std() > 0.1, "logits that say something"


def test_what_we_write_the_reference_loads_as_the_same_classifier(
    transformers: Any, reference: Reference, tmp_path: Path
) -> None:
    read = read_folder(reference.folder)
    write_folder(read, tmp_path / "out", PushConfig(dtype="float32"))
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert said["architectures"] == [f"{reference.name}ForSequenceClassification"]
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert [theirs.config.id2label[i] for i in range(3)] == list(LABELS)
    theirs.config.pad_token_id = PAD
    torch.testing.assert_close(padded_logits(theirs), padded_logits(reference.model), rtol=0, atol=1e-5)
    disk, again = (load_file(folder / "model.safetensors") for folder in (reference.folder, tmp_path / "out"))
    assert disk.keys() == again.keys()
    assert all(torch.equal(disk[name], again[name]) for name in disk)
    assert not failures(check(tmp_path / "out", read))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"problem_type": "regression"}, "`problem_type` is 'regression'"),
        ({"id2label": {"0": "good"}}, "`id2label` is"),
        ({"id2label": {"0": "good", "2": "bad"}}, "`id2label` is"),
        ({"id2label": ["good", "bad"]}, "`id2label` is"),
        ({"classifier_pooling": "max"}, "`classifier_pooling` is 'max'"),
    ],
)
def test_a_config_of_another_kind_of_judge_is_refused(transformers: Any, changes: dict[str, Any], said: str) -> None:
    values = transformers.ModernBertConfig(**BERT).to_dict() | {
        "architectures": ["ModernBertForSequenceClassification"]
    }
    assert from_hf(values, Path("config.json")).kind == "classifier"
    with pytest.raises(CirillaError) as caught:
        from_hf({**values, **changes}, Path("config.json"))
    assert said in str(caught.value)


def test_labels_without_names_are_numbered_as_in_the_reference(transformers: Any) -> None:
    config = transformers.LlamaConfig(**LLAMA)
    values = config.to_dict() | {"architectures": ["LlamaForSequenceClassification"]}
    values.pop("id2label", None)
    read = from_hf(values, Path("config.json"))
    assert isinstance(read, ClassifierConfig)
    assert read.labels == tuple(config.id2label[i] for i in range(2))


ENCODER: dict[str, Any] = {
    "d_model": 32, "n_layers": 3, "context_length": 48, "pattern": "GLL", "embedding_norm": True,
    "mixers": {
        "G": {"kind": "attention", "n_heads": 4, "causal": False},
        "L": {"kind": "attention", "n_heads": 4, "causal": False, "window": 4},
    },
    "mlp": {"kind": "geglu", "d_ff": 48}, "norm": {"kind": "layer", "bias": False},
}  # fmt: skip


def encoder(**changes: Any) -> EncoderConfig:
    return EncoderConfig.model_validate({"vocab_size": VOCAB, **ENCODER, **changes})


def granite() -> DecoderConfig:
    return make_config().model_copy(update={"residual_scale": 0.5})


@pytest.mark.parametrize(
    ("base", "pooling", "said"),
    [
        (make_config(), "mean", "LlamaForSequenceClassification: `pooling` is 'mean', there 'last': train with"),
        (make_config(), "first", "objective.pooling=last"),
        (encoder(), "last", "ModernBertForSequenceClassification: `pooling` is 'last', there 'first' or 'mean'"),
        (granite(), "last", "transformers has no classifier of this architecture"),
    ],
)
def test_a_classifier_without_a_public_shape_is_refused_with_the_remedy(base: Any, pooling: Any, said: str) -> None:
    config = ClassifierConfig(base=base, labels=LABELS, pooling=pooling)
    with pytest.raises(CirillaError) as caught:
        to_hf(config)
    assert said in str(caught.value)
    assert "cirilla only (`cirilla generate`)" in str(caught.value.hint)


# With a tokenizer, as users of transformers meet them


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    made = train(SentencePieceConfig(vocab_size=600), WIKI.read_text(encoding="utf-8").splitlines())
    assert isinstance(made, SentencePieceTokenizer)
    return made


def made(config: Any, tokenizer: SentencePieceTokenizer | None, seed: int = 0) -> AnyFound:
    model = fresh(config, seed=seed)
    scramble(model, seed)
    return Found(model.eval(), config, tokenizer, Path("nowhere"))


TEXTS = ["The road is long.", "Rain fell on the silver sword\nof the old witcher", "gold"]


@pytest.mark.parametrize(
    ("base", "pooling"),
    [(make_config(), "last"), (encoder(), "mean"), (encoder(), "first")],
    ids=["llama", "mean", "cls"],
)
def test_a_published_classifier_names_the_same_labels_in_a_pipeline(
    transformers: Any, tmp_path: Path, tokenizer: SentencePieceTokenizer, base: Any, pooling: Any
) -> None:
    config = ClassifierConfig(base=base.changed(vocab_size=tokenizer.vocab_size), labels=LABELS, pooling=pooling)
    source = made(config, tokenizer)
    report = push(PushConfig(to=f"dir:{tmp_path / 'out'}", dtype="float32"), source, progress=Silent(), texts=TEXTS)
    assert {c.name: c.outcome for c in report.checks} == dict.fromkeys(
        ("weights", "logits", "transformers logits", "transformers tokenizer"), "passed"
    )
    names = {file.name for file in report.files}
    assert not names & {"Modelfile", "generation_config.json", "chat_template.jinja"}, "of no use to a classifier"
    tell = transformers.pipeline("text-classification", model=str(tmp_path / "out"), top_k=None, batch_size=3)
    for text, theirs, ours in zip(TEXTS, tell(TEXTS), classify(source, [Prompt(t) for t in TEXTS]), strict=True):
        assert ours.prompt == text
        assert ours.label == theirs[0]["label"]
        assert ours.probabilities == pytest.approx({row["label"]: row["score"] for row in theirs}, abs=1e-5)
    again = list(classify(read_folder(tmp_path / "out"), [Prompt(text) for text in TEXTS]))
    assert [judged.label for judged in again] == [judged.label for judged in classify(source, map(Prompt, TEXTS))]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert "griffin, horse, witcher" in card


HIDDEN = ["The road is <mask>.", "<mask> fell on the <mask> sword", "Rain and <mask>\nfell"]


def test_a_published_encoder_fills_in_the_same_tokens_in_a_pipeline(
    transformers: Any, tmp_path: Path, tokenizer: SentencePieceTokenizer
) -> None:
    source = made(encoder(vocab_size=tokenizer.vocab_size), tokenizer)
    report = push(PushConfig(to=f"dir:{tmp_path / 'out'}", dtype="float32"), source, progress=Silent(), texts=TEXTS)
    assert report.architecture == "ModernBertForMaskedLM"
    assert not failures(report.checks)
    theirs = transformers.pipeline("fill-mask", model=str(tmp_path / "out"), top_k=600)
    assert theirs.tokenizer.mask_token == "<mask>"
    for text, filling in zip(HIDDEN, fill(source, map(Prompt, HIDDEN)), strict=True):
        found = theirs(text)
        places = found if isinstance(found[0], list) else [found]
        assert len(places) == text.count("<mask>") == len(filling.candidates)
        for place, candidates in zip(places, filling.candidates, strict=True):
            # Ours puts no control token into a text.
            rows = [row for row in place if row["token"] >= 16][:5]
            assert [c.token for c in candidates] == [row["token"] for row in rows]
            assert [c.text for c in candidates] == [row["token_str"] for row in rows]
            assert [c.probability for c in candidates] == pytest.approx([row["score"] for row in rows], abs=1e-5)
        if len(places) == 1:
            assert filling.text == next(
                r["sequence"] for r in places[0] if r["token"] == filling.candidates[0][0].token
            )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag: fill-mask" in card
    assert 'print(fill("The wolf is <mask>."))' in card
    assert "generat" not in card.split("## Use")[1].split("## Training")[0].replace("cirilla generate", "")


@pytest.mark.parametrize("kind", ["encoder", "classifier"])
def test_an_imported_tokenizer_frames_texts_as_its_own_model_does(
    transformers: Any, tmp_path: Path, tokenizer: SentencePieceTokenizer, kind: str
) -> None:
    """[CLS] text [SEP], with a mask that swallows the space before it, as ModernBERT's."""
    from tokenizers import AddedToken, processors
    from tokenizers import Tokenizer as Fast

    tokenizer.save(tmp_path / "bert")
    (tmp_path / "bert" / "tokenizer.model").unlink()
    fast = Fast.from_file(str(tmp_path / "bert" / "tokenizer.json"))
    names = ["[CLS]", "[SEP]", "[MASK]"]
    fast.add_special_tokens([AddedToken(n, lstrip=n == "[MASK]", special=True, normalized=False) for n in names])
    cls, sep, mask = (fast.token_to_id(name) for name in names)
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    fast.save(str(tmp_path / "bert" / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    said |= {"mask_token": "[MASK]", "pad_token": "<pad>", "unk_token": "<unk>"}
    (tmp_path / "bert" / "tokenizer_config.json").write_text(json.dumps(said))
    ours = load_tokenizer(tmp_path / "bert")
    assert ours.document(ours.encode("gold")) == fast.encode("gold").ids
    assert ours.mask is not None
    text = "Rain [MASK] on [MASK] gold"
    assert ours.document(ours.mask.encode(text, ours.encode)) == fast.encode(text).ids
    base = encoder(vocab_size=ours.vocab_size)
    config = base if kind == "encoder" else ClassifierConfig(base=base, labels=LABELS, pooling="mean")
    source: AnyFound = Found(made(config, None).model, config, ours, tmp_path / "bert")
    write_folder(source, tmp_path / "out", PushConfig())
    assert not failures(check(tmp_path / "out", source, TEXTS))
    ids = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (ids["cls_token_id"], ids["sep_token_id"], ids["eos_token_id"]) == (cls, sep, sep)


def test_a_classifier_whose_documents_end_in_padding_names_no_padding(tokenizer: SentencePieceTokenizer) -> None:
    """Theirs judges the last token that is not padding, so an end that is padding too must not be called so."""
    from cirilla_cli.hub.framing import document_ids

    assert document_ids(tokenizer)["pad_token_id"] == PAD
    tokenizer = SentencePieceTokenizer(tokenizer._model)
    tokenizer.pad_id = 2
    assert document_ids(tokenizer)["pad_token_id"] is None


# The check


def test_a_tokenizer_that_frames_texts_otherwise_fails_the_check(
    transformers: Any, tmp_path: Path, tokenizer: SentencePieceTokenizer
) -> None:
    source = made(encoder(vocab_size=tokenizer.vocab_size), tokenizer)
    write_folder(source, tmp_path / "out", PushConfig())
    tokenizer.save(tmp_path / "out")
    assert [c.name for c in failures(check(tmp_path / "out", source, TEXTS))] == ["transformers tokenizer"]


def test_their_cache_is_checked_too(transformers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that forgets everything but the newest token leaves logits of whole texts right."""
    config = make_config()
    source = made(config, None)
    write_folder(source, tmp_path / "out", PushConfig())
    assert not failures(check(tmp_path / "out", source))
    layer: Any = transformers.cache_utils.DynamicLayer
    update = layer.update

    def forgetful(self: Any, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        keys, values = update(self, key_states, value_states, *args, **kwargs)
        return torch.zeros_like(keys) + keys[:, :, -1:], torch.zeros_like(values) + values[:, :, -1:]

    monkeypatch.setattr(layer, "update", forgetful)
    assert [c.name for c in failures(check(tmp_path / "out", source))] == ["transformers greedy tokens"]


def test_only_classifiers_name_labels_and_only_encoders_restore(tokenizer: SentencePieceTokenizer) -> None:
    labels, restores = ClassifierConfig(base=encoder(), labels=LABELS, pooling="mean"), encoder()
    with pytest.raises(CirillaError, match="kind encoder, which names no labels"):
        next(classify(made(restores, tokenizer), [Prompt("gold")]))
    with pytest.raises(CirillaError, match="kind classifier, which restores nothing"):
        next(fill(made(labels, tokenizer), [Prompt("gold")]))
    with pytest.raises(CirillaError, match="no tokenizer in this folder"):
        next(fill(made(restores, None), [Prompt(ids=(5, 6))]))
    assert isinstance(made(labels, None).model, Classifier)
    judged = next(classify(made(labels, None), [Prompt(ids=(5, 6))]))
    assert (judged.prompt, set(judged.probabilities)) == (None, set(LABELS))


def test_every_mistake_in_texts_is_named_at_once(tokenizer: SentencePieceTokenizer) -> None:
    source = made(encoder(vocab_size=tokenizer.vocab_size), tokenizer)
    prompts = [Prompt("gold"), Prompt("<mask> gold"), Prompt("<mask> " * 60), Prompt(ids=()), Prompt(ids=(6, 9999))]
    with pytest.raises(CirillaError) as caught:
        next(fill(source, prompts))
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["prompt 1", "prompt 3", "prompt 4", "prompt 5"]
    assert "no <mask>" in lines[0]
    assert "63 tokens, more than the model's context of 48" in lines[1]
    assert "empty" in lines[2]
    assert "9999 is not a token id of this model; they are 0 to 599" in lines[3]
    assert "--prompt" in str(caught.value.hint)


def test_texts_are_judged_alike_whatever_they_are_read_with(tokenizer: SentencePieceTokenizer) -> None:
    config = ClassifierConfig(base=encoder(vocab_size=tokenizer.vocab_size), labels=LABELS, pooling="mean")
    source = made(config, tokenizer)
    alone, together = (list(classify(source, map(Prompt, TEXTS), batch=n)) for n in (1, 3))
    for one, other in zip(alone, together, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
