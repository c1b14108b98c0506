"""The deepest setting of the dial that memory, time and a corpus allow, and how long to train it; torch-free."""

import math

from cirilla_cli.model.config import BudgetConfig, DialConfig
from cirilla_cli.model.count import parameters
from cirilla_cli.model.dial import TOKENS_PER_PARAMETER, decoder_of, inner_weights
from cirilla_cli.units import show_bytes, show_count, show_seconds

DEEPEST = 96

STATE_BYTES = 18
"""Of a parameter: float32 weight, gradient and two moments, and a copy in two bytes that is computed with."""

PASSES = 4
"""Over a corpus: further ones teach little (Muennighoff et al., 2023, arXiv:2305.16264)."""

_IDS = 32768
"""Taken for the vocabulary where the recipe leaves it open."""


def limits(budget: BudgetConfig, dial: DialConfig) -> dict[str, str]:
    """What of the budget a setting of the dial exceeds, in words, by key; nothing where it fits."""
    weights = inner_weights(dial)
    optimal = TOKENS_PER_PARAMETER * weights
    held = STATE_BYTES * parameters(decoder_of(dial.model_copy(update={"vocab_size": dial.vocab_size or _IDS})))
    found = {}
    if budget.memory is not None and 2 * held > budget.memory:
        found["memory"] = f"weights, gradients and optimizer take {show_bytes(held)}, more than half of it"
    if budget.time is not None and budget.rate is not None and 6.0 * weights * optimal > budget.time * budget.rate:
        found["time"] = f"{show_count(optimal)} tokens take {show_seconds(6.0 * weights * optimal / budget.rate)}"
    if budget.tokens is not None and optimal > PASSES * budget.tokens:
        found["tokens"] = f"{show_count(optimal)} tokens are more than {PASSES} passes (2305.16264)"
    return found


def depth_of(budget: BudgetConfig, dial: DialConfig) -> tuple[int, str] | None:
    """The greatest depth within the budget, and what keeps it from being greater; None where not even 1 is."""
    fits = 0
    while fits < DEEPEST:
        beyond = limits(budget, dial.model_copy(update={"depth": fits + 1}))
        if beyond:
            why = "; ".join(f"budget.{key}: at depth {fits + 1}, {text}" for key, text in beyond.items())
            return (fits, why) if fits else None
        fits += 1
    return fits, f"nothing deeper than {DEEPEST} is proposed"


def length_of(budget: BudgetConfig, dial: DialConfig) -> tuple[int, str]:
    """Tokens to train a setting of the dial on, and why: all the time there is, at most four passes over the corpus."""
    weights = inner_weights(dial)
    tokens = TOKENS_PER_PARAMETER * weights
    why = f"{TOKENS_PER_PARAMETER} per weight outside the embedding: optimal for its compute (2203.15556)"
    if budget.time is not None and budget.rate is not None:
        tokens = max(tokens, math.floor(budget.time * budget.rate / (6.0 * weights)))
        why = f"budget.time at budget.rate: {budget.time * budget.rate:.3g} FLOPs, 6 a weight and token (2001.08361)"
    if budget.tokens is not None and tokens > PASSES * budget.tokens:
        tokens, why = PASSES * budget.tokens, f"{PASSES} passes over budget.tokens (2305.16264)"
    return tokens, why
