"""Encoders through the engine: what masked text teaches them, classifiers made of them, and runs that go on."""

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from cirilla_cli.data.config import LabelledTextConfig, MaskedTextConfig, PackedTextConfig, TextSourceConfig
from cirilla_cli.data.tokenizer import load_tokenizer
from cirilla_cli.engine.config import (
    AdamWConfig,
    CheckpointingConfig,
    ClassificationConfig,
    CrossEntropyConfig,
    EvaluationConfig,
    TrainConfig,
    pairing_problem,
)
from cirilla_cli.engine.objectives.classification import Classification
from cirilla_cli.engine.run import TrainReport, plan, train
from cirilla_cli.engine.step import accumulate_gradients
from cirilla_cli.errors import CirillaError, InterruptedRun
from cirilla_cli.loading import load_any, load_model
from cirilla_cli.model.classifier import Classifier
from cirilla_cli.model.config import CheckpointConfig, ClassifierConfig, EncoderConfig
from cirilla_cli.model.encoder import Encoder
from cirilla_cli.model.init import fresh
from cirilla_cli.progress import Silent

CONTEXT = 32
WORDS = ["griffin", "silver", "sword", "road", "inn", "moon", "river", "witch", "potion", "horse", "rain", "gold"]
ATTENTION = {"kind": "attention", "n_heads": 4, "causal": False}


def cycle(rng: random.Random, step: int) -> str:
    """Words in their order, forwards or backwards, from anywhere: each says the next, and which way it goes."""
    first = rng.randrange(12)
    return " ".join(WORDS[(first + step * place) % 12] for place in range(rng.randint(6, 14)))


def encoder(**changes: Any) -> EncoderConfig:
    """ModernBERT's shape, tiny, with registers, and dropout so that a step's randomness matters."""
    keys = {
        "d_model": 32, "n_layers": 2, "context_length": CONTEXT, "pattern": "GL", "embedding_norm": True,
        "mixers": {"G": ATTENTION, "L": {**ATTENTION, "window": 5}}, "mlp": {"kind": "geglu", "d_ff": 48},
        "norm": {"kind": "layer", "bias": False}, "registers": 2, "dropout": 0.05, "init_std": 0.1,
    }  # fmt: skip
    return EncoderConfig.model_validate({**keys, **changes})


@pytest.fixture(scope="module")
def corpus(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards of texts that go forwards, their tokenizer, and rows labelled with the way they go."""
    from cirilla_cli.data.config import SentencePieceConfig, TokenizeConfig
    from cirilla_cli.data.run import tokenize

    folder, rng = tmp_path_factory.mktemp("cycles"), random.Random(0)
    texts = [{"text": cycle(rng, 1)} for _ in range(200)]
    ways = [(way, 1 if way == "forth" else -1) for way in ("forth", "back")]
    labelled = [{"text": cycle(rng, step), "label": way} for _ in range(150) for way, step in ways]
    for name, rows in (("texts.jsonl", texts), ("rows.jsonl", labelled)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = TokenizeConfig(inputs=(folder / "texts.jsonl",), tokenizer=SentencePieceConfig(vocab_size=600), val=0.2)
    tokenize(config, folder / "data", Silent())
    return folder


Run = Callable[..., TrainReport]


@pytest.fixture
def masked(tiny: ModuleType, corpus: Path, out: Path) -> Run:
    """Trains an encoder on the texts, changed as asked."""

    def go(progress: Any = None, **changes: Any) -> TrainReport:
        sources = {"cycles": TextSourceConfig(path=corpus / "data")}
        keys = {"model": encoder(), "data": MaskedTextConfig(sources=sources, share=0.3, as_mask=0.8, as_random=0.1)}
        job = tiny.job("pretrain", changes.pop("to", out), corpus, **{**keys, **changes})
        return train(job, progress or Silent())

    return go


@pytest.fixture
def labelled(tiny: ModuleType, corpus: Path, memory: Path) -> Run:
    """Trains a classifier from a model on the labelled rows, changed as asked."""

    def go(start: Path, progress: Any = None, **changes: Any) -> TrainReport:
        keys = {
            "model": CheckpointConfig(path=str(start)), "objective": ClassificationConfig(),
            "data": LabelledTextConfig(path=(corpus / "rows.jsonl",), val=0.2),
        }  # fmt: skip
        job = tiny.job("sft", changes.pop("to", memory / "classifier"), corpus, **{**keys, **changes})
        return train(job, progress or Silent())

    return go


ONCE = CheckpointingConfig(every=1.0, every_time=None)
LONG: dict[str, Any] = {
    "optim": AdamWConfig(lr=1e-2), "train": TrainConfig(steps=70, batch_tokens=16 * CONTEXT),
    "eval": EvaluationConfig(every=1.0), "objective": CrossEntropyConfig(), "checkpoint": ONCE,
}  # fmt: skip


def unigram_entropy(corpus: Path) -> float:
    """Nats a token of the texts has where nothing around it is known: what guessing by frequency costs."""
    tokenizer = load_tokenizer(corpus / "data")
    rows = [json.loads(line)["text"] for line in (corpus / "texts.jsonl").read_text(encoding="utf-8").splitlines()]
    counts = Counter(id for text in rows for id in tokenizer.encode(text))
    total = counts.total()
    return -sum(n / total * math.log(n / total) for n in counts.values())


def test_masked_text_teaches_what_stands_between(masked: Run, corpus: Path, labelled: Run, out: Path) -> None:
    """Half the loss of guessing by frequency; and what was learned tells texts apart, on texts never seen."""
    report = masked(**LONG)
    assert report.val_loss is not None
    assert report.val_loss < 0.5 * unigram_entropy(corpus)
    assert report.first_validation is not None
    assert report.first_validation["nll"] > unigram_entropy(corpus)

    few = TrainConfig(steps=40, batch_tokens=16 * CONTEXT)
    tuned = labelled(out, train=few, optim=AdamWConfig(lr=3e-3), eval=EvaluationConfig(every=1.0), checkpoint=ONCE)
    assert tuned.first_validation is not None
    assert 0.3 < tuned.first_validation["accuracy"] < 0.7
    assert tuned.last_validation is not None
    assert tuned.last_validation["accuracy"] > 0.95


def test_a_decoder_becomes_a_classifier_too(
    tiny: ModuleType, corpus: Path, out: Path, labelled: Run, memory: Path
) -> None:
    sources = {"cycles": TextSourceConfig(path=corpus / "data")}
    model = tiny.decoder(dropout=0.0, d_model=32, n_layers=2, tie_embeddings=False, init_std=0.1)
    train(tiny.job("pretrain", out, corpus, model=model, data=PackedTextConfig(sources=sources)), Silent())
    report = labelled(
        out, train=TrainConfig(steps=60, batch_tokens=16 * CONTEXT), optim=AdamWConfig(lr=1e-2),
        eval=EvaluationConfig(every=1.0), checkpoint=ONCE,
    )  # fmt: skip
    assert report.last_validation is not None
    assert report.last_validation["accuracy"] > 0.9
    found = load_any(memory / "classifier", progress=Silent())
    assert isinstance(found.config, ClassifierConfig)
    assert (found.config.labels, found.config.pooling, found.config.base.kind) == (("back", "forth"), "last", "decoder")


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    tiny: ModuleType, masked: Run, labelled: Run, out: Path, memory: Path
) -> None:
    whole = memory / "whole"
    masked(to=whole)
    with pytest.raises(InterruptedRun):
        masked(tiny.interrupt_after(3))
    assert masked().continued_from == 3
    assert tiny.final_digests(out) == tiny.final_digests(whole)
    assert tiny.curve(out) == tiny.curve(whole)

    first, second = memory / "first", memory / "second"
    labelled(out, to=first)
    with pytest.raises(InterruptedRun):
        labelled(out, tiny.interrupt_after(3), to=second)
    assert labelled(out, to=second).continued_from == 3
    assert tiny.final_digests(first) == tiny.final_digests(second)


def test_a_checkpoint_gives_back_the_model(masked: Run, out: Path, corpus: Path) -> None:
    masked()
    found = load_any(out, progress=Silent())
    assert isinstance(found.model, Encoder)
    assert (found.config.kind, found.verb, found.step) == ("encoder", "pretrain", 6)
    assert found.config == encoder(vocab_size=load_tokenizer(corpus / "data").vocab_size)


def test_prompts_are_not_continued_by_an_encoder(masked: Run, out: Path) -> None:
    masked(eval=EvaluationConfig(every=1.0, prompts=("griffin",)))
    assert not (out / "samples.jsonl").exists()


def test_nothing_that_continues_text_takes_an_encoder(masked: Run, out: Path, tiny: ModuleType, data: Path) -> None:
    masked()
    with pytest.raises(CirillaError, match="kind encoder, which cannot continue text"):
        load_model(out, progress=Silent())
    for verb in ("sft", "dpo"):
        job = tiny.job(verb, out.with_name(verb), data, model=CheckpointConfig(path=str(out)), tokenizer=None)
        with pytest.raises(CirillaError, match="other tokenizer|another tokenizer|cannot learn to continue"):
            train(job, Silent())


def test_a_classifier_goes_on_with_its_own_labels_alone(
    masked: Run, labelled: Run, out: Path, memory: Path, tmp_path: Path
) -> None:
    masked()
    labelled(out)
    more = labelled(memory / "classifier", to=memory / "more", eval=EvaluationConfig())
    assert more.step == 6
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "moon", "label": "yes"}\n{"text": "rain", "label": "no"}\n')
    data = LabelledTextConfig(path=(other,), val=0.0)
    with pytest.raises(CirillaError, match="the model tells back, forth apart, the data has no, yes"):
        labelled(memory / "classifier", to=memory / "other", data=data)


def test_what_a_classifier_would_do_is_foreseen(
    tiny: ModuleType, masked: Run, corpus: Path, out: Path, memory: Path, tmp_path: Path
) -> None:
    """Its parameters, and the labels that it does not know: `--dry-run` says what the run itself says."""
    masked()
    data = LabelledTextConfig(path=(corpus / "rows.jsonl",), val=0.2)
    first = {"model": CheckpointConfig(path=str(out)), "objective": ClassificationConfig(), "data": data}
    job = tiny.job("sft", memory / "classifier", corpus, **first)
    planned = plan(job, Silent())
    assert planned.data == {"part0": f"{corpus / 'rows.jsonl'}: 300 texts with labels, to be tokenized"}
    assert planned.parameters == train(job, Silent()).parameters
    made = load_any(memory / "classifier", progress=Silent()).model
    # The trunk without the vocabulary's biases, and a matrix and biases of two classes.
    assert planned.parameters == sum(p.numel() for p in made.parameters())
    start = CheckpointConfig(path=str(memory / "classifier"))
    again = plan(tiny.job("sft", memory / "again", corpus, **{**first, "model": start}), Silent())
    assert again.parameters == planned.parameters

    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "moon", "label": "yes"}\n{"text": "rain", "label": "no"}\n')
    wrong = {
        "the model tells back, forth apart, the data has no, yes": {"data": LabelledTextConfig(path=(other,), val=0.0)},
        "`objective.pooling` is 'last', but the model is a classifier by 'mean'": {
            "objective": ClassificationConfig(pooling="last")
        },
    }
    for said, change in wrong.items():
        job = tiny.job("sft", memory / "wrong", corpus, **{**first, "model": start, **change})
        for refused in (plan, train):
            with pytest.raises(CirillaError, match=said):
                refused(job, Silent())


def test_the_gradient_does_not_depend_on_how_a_step_is_cut(masked: Run, labelled: Run, out: Path, memory: Path) -> None:
    masked()
    for tokens in (3, 8):
        cut = TrainConfig(steps=3, batch_tokens=8 * CONTEXT, micro_batch_tokens=tokens * CONTEXT)
        masked(to=memory / f"masked-{tokens}", train=cut, model=encoder(dropout=0.0))
        labelled(out, to=memory / f"labels-{tokens}", train=cut)
    for name in ("masked", "labels"):
        curves = [
            [json.loads(line)["loss"] for line in (memory / f"{name}-{n}" / "metrics.jsonl").read_text().splitlines()]
            for n in (3, 8)
        ]
        assert curves[0] == pytest.approx(curves[1], abs=2e-5)


def test_the_classification_gradient_is_that_of_the_mean(tmp_path: Path) -> None:
    """Over all documents of the step, with smoothing, by torch's own loss on each document alone."""
    from cirilla_cli.data.batches import IGNORE
    from cirilla_cli.data.labelled_batches import LabelledBatch
    from cirilla_cli.engine.precision import forward_of
    from cirilla_cli.model.layout import SequenceLayout
    from cirilla_cli.model.readout import LastLogits

    base = encoder(dropout=0.0, vocab_size=50)
    model = fresh(ClassifierConfig(base=base, labels=("a", "b", "c"), pooling="mean"), seed=0)
    documents = torch.tensor([[0] * 5 + [1] * 4 + [-1], [2] * 10])
    tokens, labels = torch.randint(50, (2, 10)), torch.tensor([2, 0, 1])
    batches = [
        LabelledBatch(
            tokens[i : i + 1], torch.full((1, 10), IGNORE), (documents[i : i + 1] - 2 * i).clamp(min=-1), part
        )
        for i, part in enumerate(labels.split([2, 1]))
    ]
    objective = Classification(ClassificationConfig(label_smoothing=0.2))
    sums, counts = accumulate_gradients(forward_of(model, torch.float32), objective, batches, torch.device("cpu"))
    assert counts == {"documents": 3.0, "tokens": 19.0, "rows": 2.0, "positions": 19.0}
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    logits = []
    for number in range(3):
        alone = tokens[documents == number][None]
        logits.append(model(alone, SequenceLayout.rows(*alone.shape), readout=LastLogits())[0])
    loss = torch.nn.functional.cross_entropy(torch.cat(logits), labels, label_smoothing=0.2)
    loss.backward()
    torch.testing.assert_close(sums["loss"], loss.detach(), rtol=0, atol=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=0, atol=1e-6)


PAIRINGS = [
    ("decoder", "packed_text", "cross_entropy", None),
    ("dial", "packed_text", "cross_entropy", None),
    ("encoder", "masked_text", "cross_entropy", None),
    ("encoder", "labelled_text", "classification", None),
    ("decoder", "labelled_text", "classification", None),
    ("checkpoint", "masked_text", "cross_entropy", None),
    ("classifier", "labelled_text", "classification", None),
    ("checkpoint", "preferences", "dpo", None),
    ("encoder", "packed_text", "cross_entropy", "cannot learn to continue"),
    ("encoder", "conversations", "cross_entropy", "cannot learn to continue"),
    ("encoder", "preferences", "dpo", "cannot learn to continue"),
    ("decoder", "masked_text", "cross_entropy", "take packed_text"),
    ("encoder", "masked_text", "dpo", "restored by cross_entropy"),
    ("decoder", "labelled_text", "cross_entropy", "go together"),
    ("decoder", "conversations", "classification", "go together"),
    ("classifier", "packed_text", "cross_entropy", "learns from labelled_text"),
]


@pytest.mark.parametrize(("model", "data", "objective", "said"), PAIRINGS)
def test_what_teaches_nothing_is_told(model: str, data: str, objective: str, said: str | None) -> None:
    problem = pairing_problem(model, data, objective)
    assert (problem is None) if said is None else (said in (problem or ""))


def test_a_classifier_of_labels_keeps_the_trunk_and_the_prediction_head(masked: Run, out: Path) -> None:
    from cirilla_cli.engine.labelled import classifier_of

    masked()
    found = load_any(out, progress=Silent())
    made = classifier_of(found.model, ["a", "b"], ClassificationConfig(), seed=1, device=torch.device("cpu"))
    assert isinstance(made, Classifier)
    theirs, ours = found.model.state_dict(), made.state_dict()
    assert {name for name in ours if name not in theirs} == {"classifier.weight", "classifier.bias"}
    assert {name for name in theirs if name not in ours} == {"decoder.bias"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys() & theirs.keys())
