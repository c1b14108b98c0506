"""Greedy continuation in fewer passes: the model's steps ahead draft, one pass of the model checks the drafts.

Positions 0 to n - 1 have been through the model, and token n is known. Step k sees token i + k at position i: so it is
final up to position n - k, and beyond that it was made from drafts and is made again in the next round.

A pass over several positions rounds otherwise than a pass over one. So the tokens are those of plain decoding where the
model prefers one clearly; where two are as likely within rounding it may be either, as on another machine.
"""

# Shape suffixes: T positions, D model width, V vocabulary; all tensors are of one row.

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cirilla_cli.errors import CirillaError
from cirilla_cli.infer.config import SamplingConfig
from cirilla_cli.infer.generator import Continuation, Request
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mtp import MTP
from cirilla_cli.model.readout import LastLogits


@torch.inference_mode()
def continue_drafting(
    model: Decoder, requests: Sequence[Request], sampling: SamplingConfig
) -> Iterator[list[Continuation]]:
    """Extend each prompt in turn, yielding all continuations after each pass; the tokens as one by one, rounding aside.

    Raises:
        CirillaError: the model has no steps ahead, or tokens are not chosen greedily.
    """
    if model.mtp is None:
        raise CirillaError("`generate.draft` needs a model with steps ahead (`model.mtp`)", hint="leave draft out")
    if sampling.temperature != 0 or sampling.repetition_penalty != 1.0:
        raise CirillaError(
            "`generate.draft` works for greedy tokens only", hint="temperature=0 and repetition_penalty=1"
        )
    model.eval()
    done = [Continuation() for _ in requests]
    for continuation, request in zip(done, requests, strict=True):
        row = _Row(model, model.mtp, request)
        while continuation.finish_reason is None:
            for token, logp in row.advance():
                if continuation.finish_reason is None:
                    continuation.take(request, token, logp)
            yield done


class _Row:
    """One prompt under way."""

    def __init__(self, model: Decoder, mtp: MTP, request: Request) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.end = len(request.prompt) + request.most_new
        self.caches = model.make_caches(self.end, rollback=len(mtp.steps))
        self.tokens = list(request.prompt)
        self.passed = 0
        """Positions that have been through the model."""
        self.drafts = _Drafts(model, mtp, self.end)

    def advance(self) -> list[tuple[int, float]]:
        """One pass of the model: the next token, and those drafted that the model would have chosen too."""
        drafted = self.drafts.draft(self.tokens) if self.passed else []
        # Of what is wanted the model itself gives the last, and beyond the end it may have learned no position.
        drafted = drafted[: self.end - len(self.tokens) - 1]
        new = [*self.tokens[self.passed :], *drafted]
        layout = SequenceLayout.rows(1, len(new), start=self.passed, device=self.device)
        ids = torch.tensor([new], device=self.device)
        trunk_BTD, final_BTD = self.model.model(ids, layout, self.caches)
        logits_TV = self.model.read(final_BTD[:, -len(drafted) - 1 :], LastLogits(len(drafted) + 1))[0]
        chosen = _checked(logits_TV).argmax(dim=-1).tolist()
        agreed = next((i for i, (a, b) in enumerate(zip(drafted, chosen, strict=False)) if a != b), len(drafted))
        kept = len(new) - len(drafted) + agreed
        self.passed += kept
        for cache in self.caches:
            cache.trim(self.passed)
        self.drafts.saw(trunk_BTD[:, :kept], final_BTD[:, :kept])
        logps = logits_TV.log_softmax(dim=-1)
        self.tokens += chosen[: agreed + 1]
        return [(token, float(logps[i, token])) for i, token in enumerate(chosen[: agreed + 1])]


class _Drafts:
    """What the steps ahead know of the sequence, and what they propose."""

    def __init__(self, model: Decoder, mtp: MTP, room: int) -> None:
        self.model, self.mtp = model, mtp
        self.caches = mtp.make_caches(room, rollback=len(mtp.steps))
        stream = model.head_weight.new_zeros(1, room, model.config.d_model)
        # Written in place as positions are settled; what lies beyond them is never read.
        self.trunk_BTD = stream
        self.states = [torch.zeros_like(stream) for _ in range(1 + len(mtp.steps))]
        """Final hidden states of the model, then of each step, ``[1, T, D]``, with room for all positions."""
        self.settled = [0] * (1 + len(mtp.steps))
        """How many positions of each are final."""

    def saw(self, trunk_BTD: Tensor, final_BTD: Tensor) -> None:
        """Take the model's hidden states at positions that are settled now."""
        new = slice(self.settled[0], self.settled[0] + final_BTD.shape[1])
        self.trunk_BTD[:, new], self.states[0][:, new] = trunk_BTD, final_BTD
        self.settled[0] = new.stop

    def draft(self, tokens: Sequence[int]) -> list[int]:
        """One token from each step; ``tokens`` are known, the first of them have been through the model."""
        guessed, passed = list(tokens), self.settled[0]
        for k in range(1, len(self.states)):
            self._fill(k, guessed)
            # Position i of step k was made from token i + k: settled where that one is known.
            self.settled[k] = min(passed, max(0, len(tokens) - k))
            last_BTD = self.states[k][:, passed - 1 : passed]
            guessed.append(int(self.model.read(last_BTD, LastLogits())[0, 0].argmax()))
        return guessed[len(tokens) :]

    def _fill(self, k: int, guessed: Sequence[int]) -> None:
        """Make the hidden states of step ``k`` at the positions that are not settled."""
        cache, start, stop = self.caches[k - 1], self.settled[k], self.settled[0]
        cache.trim(start)
        layout = SequenceLayout.rows(1, stop - start, start=start, device=self.trunk_BTD.device)
        layout = layout.prepared(self.mtp.needs, self.trunk_BTD.dtype)
        ahead = torch.tensor([guessed[start + k : stop + k]], device=self.trunk_BTD.device)
        entry_BTD = self.mtp.before(self.trunk_BTD, self.states[:k])[:, start:stop]
        made_BTD = self.mtp.step(k - 1)(entry_BTD, self.model.model.embed(ahead, layout), layout, cache)
        self.states[k][:, start:stop] = made_BTD


def _checked(logits_TV: Tensor) -> Tensor:
    if not bool(logits_TV.isfinite().all()):
        raise CirillaError("the model's output is not finite: its weights are damaged, or its training diverged")
    return logits_TV
