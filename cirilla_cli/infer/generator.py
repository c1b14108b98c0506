"""Continuing prompts: batched, cached, streamed."""

# Shape suffixes: B rows, T new positions, V vocabulary.

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cirilla_cli.errors import CirillaError
from cirilla_cli.infer.config import SamplingConfig
from cirilla_cli.infer.sampler import Sampler
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.readout import LastLogits

PADDING = -1
"""Document number of the padding before shorter prompts."""


@dataclass(frozen=True, slots=True)
class Stop:
    """What ends a continuation besides its length."""

    ids: frozenset[int] = frozenset()
    matches: Callable[[list[int]], bool] | None = None
    """Whether the new ids so far contain a stop string."""


@dataclass(slots=True)
class Continuation:
    """New tokens of one prompt."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """Natural log of each token's probability under the unfiltered distribution at temperature 1."""
    finish_reason: str | None = None
    """stop (an end token, not among ``tokens``), stop_string or length; None while running."""


@torch.inference_mode()
def continue_prompts(
    model: Decoder, prompts: Sequence[Sequence[int]], *, most_new: int, sampling: SamplingConfig, stop: Stop, seed: int
) -> Iterator[list[Continuation]]:
    """Extend all prompts together, yielding the same continuations after each new token until all have ended.

    Shorter prompts are padded on the left; padding is a document of its own, which nobody sees.

    Raises:
        CirillaError: a prompt is empty.
    """
    if any(not prompt for prompt in prompts):
        raise CirillaError("the prompt is empty: there is no token to continue from")
    model.eval()
    state = _Batch(model, prompts, most_new, Sampler(sampling, [seed + row for row in range(len(prompts))]), stop)
    while state.running:
        state.advance()
        yield state.continuations


class _Batch:
    """Rows under way together."""

    def __init__(
        self, model: Decoder, prompts: Sequence[Sequence[int]], most_new: int, sampler: Sampler, stop: Stop
    ) -> None:
        self.model, self.sampler, self.stop, self.most_new = model, sampler, stop, most_new
        self.device = next(model.parameters()).device
        self.continuations = [Continuation() for _ in prompts]
        self.history = [list(prompt) for prompt in prompts]
        longest = max(map(len, prompts))
        self.pads = [longest - len(prompt) for prompt in prompts]
        self.padded = any(self.pads)
        self.length = 0
        self.caches = model.make_caches(longest + most_new)
        rows = [[0] * pad + list(prompt) for pad, prompt in zip(self.pads, prompts, strict=True)]
        self.next_BT = torch.tensor(rows, device=self.device)

    @property
    def running(self) -> bool:
        return any(c.finish_reason is None for c in self.continuations)

    def advance(self) -> None:
        """One more token for every row that has not ended."""
        T = self.next_BT.shape[1]
        logits_BV = self.model(self.next_BT, self._layout(T), self.caches, readout=LastLogits())[:, 0]
        self.length += T
        chosen_B = self.sampler(logits_BV, self.history)
        logps = logits_BV.log_softmax(dim=-1).gather(1, chosen_B[:, None])[:, 0].tolist()
        chosen = chosen_B.tolist()
        for row, continuation in enumerate(self.continuations):
            if continuation.finish_reason is None:
                self._take(row, continuation, chosen[row], logps[row])
        self.next_BT = chosen_B[:, None]

    def _take(self, row: int, continuation: Continuation, token: int, logp: float) -> None:
        if token in self.stop.ids:
            continuation.finish_reason = "stop"
            return
        continuation.tokens.append(token)
        continuation.logprobs.append(logp)
        self.history[row].append(token)
        if self.stop.matches is not None and self.stop.matches(continuation.tokens):
            continuation.finish_reason = "stop_string"
        elif len(continuation.tokens) == self.most_new:
            continuation.finish_reason = "length"

    def _layout(self, T: int) -> SequenceLayout:
        if not self.padded:
            return SequenceLayout.rows(len(self.pads), T, start=self.length, device=self.device)
        pads_B1 = torch.tensor(self.pads, device=self.device)[:, None]
        index_BT = torch.arange(self.length, self.length + T, device=self.device) - pads_B1
        documents_BT = torch.where(index_BT < 0, PADDING, 0)
        # A negative index is padding; it counts its own positions so that they increase.
        return SequenceLayout(torch.where(index_BT < 0, index_BT + pads_B1, index_BT), documents_BT)


def greedy(model: Decoder, prompts: Sequence[Sequence[int]], *, most_new: int, stop: Stop) -> list[list[int]]:
    """The likeliest continuation of each prompt."""
    last: list[Continuation] = [Continuation() for _ in prompts]
    sampling = SamplingConfig(temperature=0)
    for last in continue_prompts(model, prompts, most_new=most_new, sampling=sampling, stop=stop, seed=0):
        pass
    return [continuation.tokens for continuation in last]


def last_logits(model: Decoder, tokens_BT: Tensor) -> Tensor:
    """Logits ``[B, T, V]`` of a plain forward pass, nothing remembered."""
    layout = SequenceLayout.rows(*tokens_BT.shape, device=tokens_BT.device)
    logits: Tensor = model(tokens_BT, layout, readout=LastLogits(tokens_BT.shape[1]))
    return logits
