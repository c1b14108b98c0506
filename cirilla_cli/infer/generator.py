"""Continuing prompts: batched and cached, one new token of every row at a time."""

# Shape suffixes: B rows, T new positions, V vocabulary.

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cirilla_cli.errors import CirillaError
from cirilla_cli.infer.config import SamplingConfig
from cirilla_cli.infer.sampler import Sampler
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.layout import PADDING, SequenceLayout
from cirilla_cli.model.readout import LastLogits

_WORTH_A_COPY = 0.75
"""Ended rows leave the batch once no more than this share of it is still running: each time the caches are copied."""


@dataclass(frozen=True, slots=True)
class Stop:
    """What ends a continuation besides its length."""

    ids: frozenset[int] = frozenset()
    matches: Callable[[list[int]], bool] | None = None
    """Whether the new ids so far contain a stop string; asked after each of them."""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and how far it is continued."""

    prompt: Sequence[int]
    most_new: int
    """Longest continuation, at least 1."""
    stop: Stop = Stop()
    seed: int = 0
    """Of this prompt's own random choices."""


@dataclass(slots=True)
class Continuation:
    """New tokens of one prompt."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """Natural log of each token's probability under the unfiltered distribution at temperature 1."""
    finish_reason: str | None = None
    """stop (an end token, not among ``tokens``), stop_string or length; None while running."""

    def take(self, request: Request, token: int, logprob: float) -> None:
        """Go on by one token, or end."""
        if token in request.stop.ids:
            self.finish_reason = "stop"
            return
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if request.stop.matches is not None and request.stop.matches(self.tokens):
            self.finish_reason = "stop_string"
        elif len(self.tokens) >= request.most_new:
            self.finish_reason = "length"


@torch.inference_mode()
def continue_prompts(
    model: Decoder, requests: Sequence[Request], sampling: SamplingConfig
) -> Iterator[list[Continuation]]:
    """Extend all prompts together, yielding the same continuations after each new token until all have ended.

    Shorter prompts are padded on the left; padding is a document of its own, which nobody sees.

    Raises:
        CirillaError: a prompt is empty, or the model's output is not finite.
    """
    if any(not request.prompt for request in requests):
        raise CirillaError("the prompt is empty: there is no token to continue from")
    model.eval()
    batch = _Batch(model, requests, sampling)
    while batch.rows:
        batch.advance()
        yield batch.continuations


class _Batch:
    """Rows under way together."""

    def __init__(self, model: Decoder, requests: Sequence[Request], sampling: SamplingConfig) -> None:
        self.model, self.requests = model, requests
        self.device = next(model.parameters()).device
        self.sampler = Sampler(sampling, [request.seed for request in requests])
        self.continuations = [Continuation() for _ in requests]
        self.history = [list(request.prompt) for request in requests]
        self.rows = list(range(len(requests)))
        """The request of each row still in the batch; rows that ended lately may be among them."""
        longest = max((len(request.prompt) for request in requests), default=0)
        self.pads = [longest - len(request.prompt) for request in requests]
        self.padded = any(self.pads)
        self.length = 0
        self.caches = model.make_caches(longest + max((request.most_new for request in requests), default=0))
        prompts = [[0] * pad + list(request.prompt) for pad, request in zip(self.pads, requests, strict=True)]
        self.next_BT = torch.tensor(prompts, device=self.device)

    def advance(self) -> None:
        """One more token for every row that has not ended."""
        T = self.next_BT.shape[1]
        logits_BV = self.model(self.next_BT, self._layout(T), self.caches, readout=LastLogits())[:, 0]
        self.length += T
        chosen_B = self.sampler(_finite(logits_BV), [self.history[row] for row in self.rows])
        logps = logits_BV.log_softmax(dim=-1).gather(1, chosen_B[:, None])[:, 0].tolist()
        for row, token, logp in zip(self.rows, chosen_B.tolist(), logps, strict=True):
            if self.continuations[row].finish_reason is None:
                self.continuations[row].take(self.requests[row], token, logp)
                self.history[row].append(token)
        self.next_BT = chosen_B[:, None]
        self._drop_ended()

    def _drop_ended(self) -> None:
        """Go on without the rows that have ended, once they are many enough to be worth copying the others."""
        kept = [i for i, row in enumerate(self.rows) if self.continuations[row].finish_reason is None]
        if kept and len(kept) > _WORTH_A_COPY * len(self.rows):
            return
        self.rows = [self.rows[i] for i in kept]
        if not kept:
            return
        self.pads = [self.pads[i] for i in kept]
        index_B = torch.tensor(kept, device=self.device)
        self.next_BT = self.next_BT[index_B]
        for cache in self.caches:
            cache.reorder(index_B)
        self.sampler.keep(kept)

    def _layout(self, T: int) -> SequenceLayout:
        if not self.padded:
            return SequenceLayout.rows(len(self.rows), T, start=self.length, device=self.device)
        pads_B1 = torch.tensor(self.pads, device=self.device)[:, None]
        index_BT = torch.arange(self.length, self.length + T, device=self.device) - pads_B1
        documents_BT = torch.where(index_BT < 0, PADDING, 0)
        # A negative index is padding; it counts its own positions so that they increase.
        return SequenceLayout(torch.where(index_BT < 0, index_BT + pads_B1, index_BT), documents_BT)


def _finite(logits_BV: Tensor) -> Tensor:
    if not bool(logits_BV.isfinite().all()):
        raise CirillaError(
            "the model's output is not finite: its weights are damaged, or its training diverged",
            hint="try dtype=float32, or an earlier checkpoint",
        )
    return logits_BV


def continuations(model: Decoder, requests: Sequence[Request], sampling: SamplingConfig) -> list[Continuation]:
    """All prompts continued to their ends."""
    batch = deque(continue_prompts(model, requests, sampling), maxlen=1)
    return batch[0] if batch else []


def greedy(model: Decoder, prompts: Sequence[Sequence[int]], *, most_new: int, stop: Stop) -> list[list[int]]:
    """The likeliest continuation of each prompt."""
    requests = [Request(prompt, most_new, stop) for prompt in prompts]
    return [done.tokens for done in continuations(model, requests, SamplingConfig(temperature=0))]
