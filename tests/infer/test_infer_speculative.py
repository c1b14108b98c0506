"""Drafts change how many passes it takes, never which tokens come."""

from typing import Any

import pytest
import torch

from cirilla_cli.errors import CirillaError
from cirilla_cli.infer.config import SamplingConfig
from cirilla_cli.infer.generator import Continuation, Request, Stop, continuations
from cirilla_cli.infer.speculative import continue_drafting
from cirilla_cli.model.config import (
    ChainedMTPConfig,
    DecoderConfig,
    LearnedPositionsConfig,
    MTPSection,
    ParallelMTPConfig,
)
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mixers.config import (
    AttentionConfig,
    DilatedAttentionConfig,
    GatedDeltaNetConfig,
    LatentAttentionConfig,
    Mamba2Config,
    MixerSection,
)
from cirilla_cli.model.readout import LastLogits
from cirilla_cli.model.sections import SwiGLUConfig

GREEDY = SamplingConfig(temperature=0)
MTP: dict[str, MTPSection] = {
    "chained by one": ChainedMTPConfig(depth=1),
    "chained by three": ChainedMTPConfig(depth=3),
    "parallel by two": ParallelMTPConfig(depth=2),
}
MIXERS: dict[str, MixerSection] = {
    "full": AttentionConfig(n_heads=2),
    "windowed": AttentionConfig(n_heads=2, window=3),
    "dilated": DilatedAttentionConfig(n_heads=2, segments=(4, 8), dilations=(1, 2)),
    "latent": LatentAttentionConfig(n_heads=2, kv_lora_rank=6, qk_nope_head_dim=4, qk_rope_head_dim=2, v_head_dim=4),
    "Mamba-2": Mamba2Config(n_heads=2, d_state=4, chunk_size=4),
    "gated DeltaNet": GatedDeltaNetConfig(n_heads=2, chunk_size=4),
}


def model_of(mtp: MTPSection | None, mixer: MixerSection = MIXERS["full"], sharp: float = 0.3, **keys: Any) -> Decoder:
    """Few tokens, so that drafts are right now and then."""
    config = DecoderConfig(
        vocab_size=5, d_model=16, n_layers=2, context_length=64, mixers={"A": mixer}, mlp=SwiGLUConfig(d_ff=24),
        mtp=mtp, **keys,
    )  # fmt: skip
    model = fresh(config, seed=3).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty(parameter.shape, dtype=torch.float64).normal_(0, sharp, generator=generator))
    return model


def drafted(model: Decoder, requests: list[Request]) -> tuple[list[Continuation], int]:
    """The ends, and the passes it took."""
    rounds = list(continue_drafting(model, requests, GREEDY))
    return rounds[-1], len(rounds)


PAIRS = {
    f"{ahead}, {name}": (mtp, mixer)
    for ahead, mtp in MTP.items()
    for name, mixer in MIXERS.items()
    if name in ("full", "windowed") or ahead == "chained by three"
}
"""Each kind of steps over keys and values, the longest drafts over every kind of memory."""


@pytest.mark.parametrize(("mtp", "mixer"), PAIRS.values(), ids=PAIRS)
def test_the_tokens_are_those_of_plain_greedy_decoding(mtp: MTPSection, mixer: MixerSection) -> None:
    model = model_of(mtp, mixer)
    requests = [Request([1, 4, 2, 2, 0], 40), Request([3], 23, Stop(frozenset({4}))), Request([2, 1], 1)]
    plain = continuations(model, requests, GREEDY)
    done, passes = drafted(model, requests)
    for ours, theirs in zip(done, plain, strict=True):
        assert (ours.tokens, ours.finish_reason) == (theirs.tokens, theirs.finish_reason)
        torch.testing.assert_close(ours.logprobs, theirs.logprobs, rtol=0, atol=1e-9)
    assert passes <= sum(len(done.tokens) + 1 for done in plain)


@pytest.mark.parametrize(("dtype", "tie"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("mtp", MTP.values(), ids=MTP)
@torch.no_grad()
def test_in_lower_precision_tokens_differ_at_ties_alone(mtp: MTPSection, dtype: torch.dtype, tie: float) -> None:
    """Where the two first part, the exact model of these weights is as good as undecided between their tokens."""
    model = model_of(mtp).to(dtype)
    requests = [Request([seed % 5, 4, 2, seed % 3], 40) for seed in range(8)]
    plain, (done, _) = continuations(model, requests, GREEDY), drafted(model, requests)
    exact, followed = model_of(mtp).to(dtype).double(), 0
    for request, ours, theirs in zip(requests, done, plain, strict=True):
        parted = [i for i, (a, b) in enumerate(zip(ours.tokens, theirs.tokens, strict=True)) if a != b]
        followed += parted[0] if parted else len(theirs.tokens)
        if parted:
            seen = torch.tensor([[*request.prompt, *theirs.tokens[: parted[0]]]])
            logits = exact(seen, SequenceLayout.rows(*seen.shape), readout=LastLogits())[0, 0]
            assert abs(float(logits[ours.tokens[parted[0]]] - logits[theirs.tokens[parted[0]]])) < tie
    assert followed > 100


@pytest.mark.parametrize("mtp", MTP.values(), ids=MTP)
def test_no_draft_reaches_beyond_the_positions_that_were_learned(mtp: MTPSection) -> None:
    model = model_of(mtp, positions=LearnedPositionsConfig())
    requests = [Request([1, 4, 2], 61), Request([3], 63)]
    plain, (done, _) = continuations(model, requests, GREEDY), drafted(model, requests)
    assert [one.tokens for one in done] == [one.tokens for one in plain]


def test_right_drafts_save_passes() -> None:
    """Steps that know the model's own continuation by heart: all weights zero but the embedding's likeliest token."""
    model = model_of(ChainedMTPConfig(depth=3))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.zero_()
    done, passes = drafted(model, [Request([1, 2], 41)])
    assert len(done[0].tokens) == 41
    assert passes == 1 + 10


def test_what_cannot_be_drafted_is_refused() -> None:
    with pytest.raises(CirillaError, match="steps ahead"):
        drafted(model_of(None), [Request([1], 2)])
    model = model_of(ChainedMTPConfig())
    with pytest.raises(CirillaError, match="greedy"):
        list(continue_drafting(model, [Request([1], 2)], SamplingConfig(temperature=0.5)))
