"""Logits to the next token."""

# Shape suffixes: B rows, V vocabulary.

import torch
from torch import Tensor

from cirilla_cli.infer.config import SamplingConfig

_COLDEST = 1e-30


class Sampler:
    """Chooses the next token of each row: repetition penalty, temperature, top-k, top-p, min-p, in that order.

    Each row has its own generator, so what one prompt gets does not depend on the others in its batch.
    """

    def __init__(self, config: SamplingConfig, seeds: list[int]) -> None:
        self.config = config
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, logits_BV: Tensor, history: list[list[int]]) -> Tensor:
        """Token ids ``[B]``; ``history`` holds each row's prompt and continuation so far."""
        logits_BV = self._penalised(logits_BV, history)
        if self.config.temperature == 0:
            return logits_BV.argmax(dim=-1)
        probabilities_BV = self.distribution(logits_BV).cpu()
        drawn = [
            torch.multinomial(row, 1, generator=generator)
            for row, generator in zip(probabilities_BV, self._generators, strict=True)
        ]
        return torch.cat(drawn).to(logits_BV.device)

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows alone, in this order."""
        self._generators = [self._generators[row] for row in rows]

    def distribution(self, logits_BV: Tensor) -> Tensor:
        """What is drawn from: probabilities ``[B, V]`` after temperature and filters; the likeliest always stays."""
        # Less the greatest, and by no less than float32 can hold, so that a temperature near 0 cannot overflow.
        logits_BV = logits_BV - logits_BV.amax(dim=-1, keepdim=True)
        probabilities_BV = (logits_BV / max(self.config.temperature, _COLDEST)).softmax(dim=-1)
        if self.config.top_k is not None and self.config.top_k < probabilities_BV.shape[-1]:
            kept = probabilities_BV.topk(self.config.top_k, dim=-1)
            probabilities_BV = torch.zeros_like(probabilities_BV).scatter(1, kept.indices, kept.values)
        if self.config.top_p < 1:
            probabilities_BV = _nucleus(probabilities_BV, self.config.top_p)
        if self.config.min_p > 0:
            least_B1 = self.config.min_p * probabilities_BV.amax(dim=-1, keepdim=True)
            probabilities_BV = probabilities_BV.where(probabilities_BV >= least_B1, 0.0)
        return probabilities_BV / probabilities_BV.sum(dim=-1, keepdim=True)

    def _penalised(self, logits_BV: Tensor, history: list[list[int]]) -> Tensor:
        penalty = self.config.repetition_penalty
        if penalty == 1:
            return logits_BV
        logits_BV = logits_BV.clone()
        for row, ids in enumerate(history):
            seen = torch.tensor(sorted(set(ids)), dtype=torch.long, device=logits_BV.device)
            values = logits_BV[row, seen]
            logits_BV[row, seen] = torch.where(values > 0, values / penalty, values * penalty)
        return logits_BV


def _nucleus(probabilities_BV: Tensor, mass: float) -> Tensor:
    """The likeliest tokens that together reach ``mass``; the one that crosses it stays."""
    ordered_BV, index_BV = (probabilities_BV / probabilities_BV.sum(-1, keepdim=True)).sort(
        dim=-1, descending=True, stable=True
    )
    before_BV = ordered_BV.cumsum(dim=-1) - ordered_BV
    kept_BV = (before_BV < mass).gather(1, index_BV.argsort(dim=-1))
    return probabilities_BV.where(kept_BV, 0.0)
