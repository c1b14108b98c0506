"""What models that read whole texts answer: a classifier names labels, an encoder fills in what is hidden."""

# Shape suffixes: P documents, C classes, V vocabulary.

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from cirilla_cli.checkpoint import AnyFound
from cirilla_cli.data.tokenizer import MaskToken, Tokenizer
from cirilla_cli.errors import CirillaError, Where
from cirilla_cli.infer.prompt import Prompt
from cirilla_cli.model.classifier import Classifier
from cirilla_cli.model.config import ClassifierConfig
from cirilla_cli.model.encoder import Encoder
from cirilla_cli.model.layout import PADDING, SequenceLayout
from cirilla_cli.model.readout import LastLogits, Readout
from cirilla_cli.progress import SILENT, Progress

BATCH = 8
_MOST_CANDIDATES = 5


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a classifier says of one text."""

    prompt: str | None
    """The text; None where it came as ids."""
    label: str
    """The likeliest."""
    probabilities: dict[str, float]
    """Of every label, in the model's order."""
    seconds: float
    """Of its whole batch."""

    @property
    def text(self) -> str:
        """What is shown of it."""
        # Older checkpoints may have labels of several lines, and each text is answered by one.
        return "\\n".join(self.label.splitlines())


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that may stand where one is hidden."""

    token: int
    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class Filling:
    """One text as an encoder restores it."""

    prompt: str | None
    """The text; None where it came as ids."""
    text: str
    """The text with the likeliest token in every hidden place, each chosen by itself."""
    candidates: list[list[Candidate]]
    """The likeliest tokens of each hidden place, best first; control tokens are none."""
    seconds: float
    """Of its whole batch."""


def classify(
    found: AnyFound, prompts: Iterable[Prompt], *, batch: int = BATCH, progress: Progress = SILENT
) -> Iterator[Judgement]:
    """The label of each text, in order; ``batch`` texts are read at the same time.

    Raises:
        CirillaError: the model is no classifier; a text is longer than its context, or holds ids that are none; text
            for a model without a tokenizer; all mistakes of a batch at once.
    """
    model, config = found.model, found.config
    if not isinstance(model, Classifier) or not isinstance(config, ClassifierConfig):
        raise CirillaError(f"{found.path}: this model is of kind {config.kind}, which names no labels")
    for some, documents, started in _read(found, prompts, _document, batch, progress):
        logits_PC = _forward(model, documents, LastLogits(len(documents)))[0]
        rows, seconds = logits_PC.softmax(dim=-1).tolist(), round(time.monotonic() - started, 6)
        for prompt, row in zip(some, rows, strict=True):
            best = max(range(len(row)), key=row.__getitem__)
            named = dict(zip(config.labels, row, strict=True))
            yield Judgement(prompt.text, config.labels[best], named, seconds)


def fill(
    found: AnyFound, prompts: Iterable[Prompt], *, batch: int = BATCH, progress: Progress = SILENT
) -> Iterator[Filling]:
    """Each text with its hidden tokens restored, in order; ``batch`` texts are read at the same time.

    Raises:
        CirillaError: the model is no encoder, or has no tokenizer with a mask token; otherwise as `classify`, or a text
            hides nothing.
    """
    model, tokenizer = found.model, found.tokenizer
    if not isinstance(model, Encoder):
        raise CirillaError(f"{found.path}: this model is of kind {found.config.kind}, which restores nothing")
    if tokenizer is None or tokenizer.mask is None:
        what = "no tokenizer in this folder" if tokenizer is None else "its tokenizer has no mask token"
        raise CirillaError(f"{found.path}: {what}, so nothing can be hidden from this encoder", hint=_VECTORS)
    control_V = torch.tensor([not tokenizer.piece_bytes(id) for id in range(tokenizer.vocab_size)])
    for some, documents, started in _read(found, prompts, _hidden, batch, progress):
        places = [[i for i, id in enumerate(ids) if id == tokenizer.mask.id] for ids in documents]
        shares_MV = _forward(model, documents, _AtPlaces(places)).softmax(dim=-1).cpu()[:, : len(control_V)]
        spread = torch.split_with_sizes(shares_MV.masked_fill(control_V, 0.0), [len(at) for at in places])
        seconds = round(time.monotonic() - started, 6)
        for prompt, ids, at, rows_V in zip(some, documents, places, spread, strict=True):
            candidates = [_candidates(row_V, tokenizer) for row_V in rows_V]
            for place, best in zip(at, candidates, strict=True):
                ids[place] = best[0].token
            yield Filling(prompt.text, tokenizer.decode(ids), candidates, seconds)


@dataclass(frozen=True, slots=True)
class _AtPlaces:
    """Readout of the logits ``[M, V]`` at the given places of each row alone, in float32 at least."""

    places: Sequence[Sequence[int]]

    def __call__(self, hidden_BTD: Tensor, head_VD: Tensor) -> Tensor:
        row_M = [row for row, at in enumerate(self.places) for _ in at]
        logits_MV = hidden_BTD[row_M, [place for at in self.places for place in at]] @ head_VD.T
        return logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32))


_VECTORS = "examples/vectors.py shows how to take its vectors"


def _candidates(row_V: Tensor, tokenizer: Tokenizer) -> list[Candidate]:
    best = row_V.topk(min(_MOST_CANDIDATES, len(row_V)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [Candidate(id, tokenizer.decode([id]), share) for id, share in pairs]


def _document(found: AnyFound, prompt: Prompt) -> list[int]:
    """A text's ids, framed as in training; ids as they are."""
    if prompt.ids is not None:
        return list(prompt.ids)
    if found.tokenizer is None:
        raise CirillaError(
            f"{found.path}: no tokenizer in this folder, so text cannot be read", hint='--prompt-ids "1 2 3"'
        )
    return found.tokenizer.document(found.tokenizer.encode(prompt.text or ""))


def _hidden(found: AnyFound, prompt: Prompt) -> list[int]:
    """The same of a text in which the mask token's name stands for it."""
    if prompt.ids is not None or found.tokenizer is None or found.tokenizer.mask is None:
        return _document(found, prompt)
    return found.tokenizer.document(found.tokenizer.mask.encode(prompt.text or "", found.tokenizer.encode))


Ids = Callable[[AnyFound, Prompt], list[int]]


def _read(
    found: AnyFound, prompts: Iterable[Prompt], ids_of: Ids, batch: int, progress: Progress
) -> Iterator[tuple[list[Prompt], list[list[int]], float]]:
    """Batches of prompts, their ids, checked, and when each batch began."""
    waiting, number = iter(prompts), 0
    while some := list(islice(waiting, batch)):
        started = time.monotonic()
        documents = [ids_of(found, prompt) for prompt in some]
        _refuse(found, documents, number)
        yield some, documents, started
        number += len(some)
        progress.step("prompts", number)


def _refuse(found: AnyFound, documents: Sequence[Sequence[int]], first: int) -> None:
    """Insist on documents that this model can read; ``first`` is the number of those before them."""
    problems = ((number, _problem(found, ids)) for number, ids in enumerate(documents, first + 1))
    wrong = [(number, why) for number, why in problems if why is not None]
    if not wrong:
        return
    mask = found.tokenizer.mask if found.tokenizer is not None else None
    hint = _example(mask) if mask is not None and isinstance(found.model, Encoder) else None
    where = [Where(key="prompt", value=number, expected=why) for number, why in wrong]
    raise CirillaError("\n".join(f"prompt {number}: {why}" for number, why in wrong), hint=hint, where=where)


def _example(mask: MaskToken) -> str:
    return f'an encoder restores hidden tokens: --prompt "The wolf is {mask.text}."; {_VECTORS}'


def _problem(found: AnyFound, ids: Sequence[int]) -> str | None:
    """What is wrong with a document, if anything is."""
    context, size = found.config.context_length, found.config.vocab_size or 0
    if not ids:
        return "it is empty"
    outside = [id for id in ids if not 0 <= id < size]
    if outside:
        return f"{outside[0]} is not a token id of this model; they are 0 to {size - 1}"
    if len(ids) > context:
        return f"it has {len(ids)} tokens, more than the model's context of {context}"
    mask = found.tokenizer.mask if found.tokenizer is not None else None
    if isinstance(found.model, Encoder) and mask is not None and mask.id not in ids:
        return f"it has no {mask.text}, so nothing in it is hidden"
    return None


@torch.inference_mode()
def _forward(model: Encoder | Classifier, documents: Sequence[Sequence[int]], readout: Readout[Tensor]) -> Tensor:
    """What the readout gives of documents, each in a row of its own, padded behind."""
    device, longest = next(model.parameters()).device, max(map(len, documents))
    rows = [[*ids, *[0] * (longest - len(ids))] for ids in documents]
    index_BT = torch.arange(longest, device=device).expand(len(rows), longest)
    real_BT = index_BT < torch.tensor([[len(ids)] for ids in documents], device=device)
    layout = SequenceLayout(index_BT.where(real_BT, 0), torch.where(real_BT, 0, PADDING))
    logits: Tensor = model.eval()(torch.tensor(rows, device=device), layout, readout=readout)
    return logits
