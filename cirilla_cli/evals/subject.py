"""A model under examination."""

# Shape suffixes: B rows, T positions.

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from cirilla_cli.checkpoint import Loaded
from cirilla_cli.data.encode import answered
from cirilla_cli.data.rows import Message
from cirilla_cli.data.tokenizer import Tokenizer
from cirilla_cli.errors import CirillaError
from cirilla_cli.evals.base import Ask, Surprise
from cirilla_cli.infer.config import SamplingConfig
from cirilla_cli.infer.generator import Request, Stop, continuations
from cirilla_cli.infer.text import text_of
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.readout import IGNORE, TokenLogp

FORWARD_TOKENS = 8192
"""Most positions of one forward pass that scores given text, so that memory stays small at any context length."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scored:
    """Tokens of one forward pass, and which of them are scored: ``ids[first:]``, each given all before it."""

    ids: Sequence[int]
    first: int


class ModelSubject:
    """A loaded model that answers greedily and tells likelihoods.

    Raises:
        CirillaError: the model has no tokenizer.
    """

    def __init__(self, loaded: Loaded, batch: int = 32) -> None:
        if loaded.tokenizer is None:
            raise CirillaError(f"{loaded.path}: no tokenizer in this folder, so nothing can be asked or scored")
        self.model, self.tokenizer, self.batch = loaded.model, loaded.tokenizer, batch
        self.context = loaded.config.context_length
        self.device = next(loaded.model.parameters()).device
        self.model.eval()

    def answers(self, asks: Sequence[Ask]) -> list[str]:
        """Greedy answers in the model's chat template, up to its end of turn."""
        prompts = [self.tokenizer.chat(ask.messages, generation_prompt=True).ids for ask in asks]
        fitting = [i for i, prompt in enumerate(prompts) if len(prompt) < self.context]
        texts = [""] * len(asks)
        for some in _batches(fitting, [len(prompts[i]) for i in fitting], self.batch):
            requests = [self._request(asks[i], prompts[i]) for i in some]
            for i, done in zip(some, continuations(self.model, requests, SamplingConfig(temperature=0)), strict=True):
                texts[i] = text_of(self.tokenizer, done.tokens)
        return texts

    def likelihoods(self, pairs: Sequence[tuple[Sequence[Message], str]]) -> list[float | None]:
        """Log-probabilities of answers in the model's chat template, of exactly the tokens DPO counts."""
        scored, values = [], [None] * len(pairs)  # type: tuple[list[Scored], list[float | None]]
        places = []
        for place, (messages, answer) in enumerate(pairs):
            encoded = answered(messages, answer, self.tokenizer)
            counted = [i for i, trained in enumerate(encoded.trained or ()) if trained]
            if counted and counted[-1] <= self.context:
                # Answers are one run of tokens, so that a beginning and an end describe them.
                scored.append(Scored(list(encoded.ids)[: counted[-1] + 1], counted[0]))
                places.append(place)
        for place, value in zip(places, self._logps(scored), strict=True):
            values[place] = value
        return values

    def surprises(self, texts: Sequence[str]) -> list[Surprise]:
        """Windows of the context length with half of it as stride; each token is scored once, in the first it is in.

        The begin token stands before a text and the end token is not scored. For models that know no begin token the
        one that separates documents (their padding or end of text) stands there, so that every byte counts.
        """
        begin = self.tokenizer.bos_ids or [self.tokenizer.pad_id]
        encoded = self.tokenizer.encode_batch(texts).lists()
        windows = [list(_windows([*begin, *ids], len(begin), self.context)) for ids in encoded]
        logps = iter(self._logps([window for some in windows for window in some]))
        return [Surprise(-sum(next(logps) for _ in some), len(ids)) for some, ids in zip(windows, encoded, strict=True)]

    def _request(self, ask: Ask, prompt: Sequence[int]) -> Request:
        most_new = min(ask.most_new, self.context - len(prompt))
        return Request(prompt, most_new, Stop(self.tokenizer.stop_ids, _given_up(ask, self.tokenizer)))

    @torch.inference_mode()
    def _logps(self, scored: Sequence[Scored]) -> list[float]:
        """Sum of the log-probabilities of each one's scored tokens."""
        sums = [0.0] * len(scored)
        rows = max(1, FORWARD_TOKENS // max((len(s.ids) for s in scored), default=1))
        for some in _batches(range(len(scored)), [len(s.ids) for s in scored], rows):
            longest = max(len(scored[i].ids) - 1 for i in some)
            tokens_BT = torch.zeros(len(some), longest, dtype=torch.long)
            targets_BT = torch.full((len(some), longest), IGNORE)
            for row, i in enumerate(some):
                ids, first = torch.tensor(scored[i].ids), scored[i].first
                tokens_BT[row, : len(ids) - 1] = ids[:-1]
                targets_BT[row, first - 1 : len(ids) - 1] = ids[first:]
            # Rows are padded on the right, where causality hides the padding from all that counts.
            layout = SequenceLayout.rows(len(some), longest, device=self.device)
            readout = TokenLogp(targets_BT.to(self.device))
            logp_BT = self.model(tokens_BT.to(self.device), layout, readout=readout)
            for i, value in zip(some, logp_BT.double().sum(dim=1).tolist(), strict=True):
                sums[i] = value
        return sums


def _windows(ids: Sequence[int], first: int, context: int) -> Iterator[Scored]:
    """The forward passes that score ``ids[first:]``, each predicting ``context`` tokens at most."""
    stride, start, done = max(1, context // 2), 0, first
    while done < len(ids):
        end = min(len(ids), start + context + 1)
        if end > done:
            yield Scored(ids[start:end], done - start)
            done = end
        start += stride


def _batches(items: Sequence[T], lengths: Sequence[int], size: int) -> Iterator[list[T]]:
    """Items of similar length together, the longest first, so that little is padded and memory peaks at once."""
    order = sorted(range(len(items)), key=lambda i: (-lengths[i], i))
    for start in range(0, len(order), size):
        yield [items[i] for i in order[start : start + size]]


def _given_up(ask: Ask, tokenizer: Tokenizer) -> Callable[[list[int]], bool] | None:
    hopeless = ask.hopeless
    if hopeless is None:
        return None
    return lambda ids: hopeless(text_of(tokenizer, ids))
