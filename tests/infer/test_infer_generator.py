"""Continuations against a loop that runs the whole sequence anew for each token."""

from collections.abc import Callable

import pytest
import torch

from cirilla_cli.checkpoint import Loaded
from cirilla_cli.errors import CirillaError
from cirilla_cli.infer.config import SamplingConfig
from cirilla_cli.infer.generator import Request, Stop, continuations, continue_prompts, greedy
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.readout import LastLogits

GREEDY = SamplingConfig(temperature=0)


def slow(model: Decoder, prompt: list[int], n: int) -> tuple[list[int], list[float]]:
    """Greedy tokens and their log-probabilities, without a cache and without a batch."""
    ids, logps = list(prompt), []
    with torch.no_grad():
        for _ in range(n):
            layout = SequenceLayout.rows(1, len(ids))
            logits = model(torch.tensor([ids]), layout, readout=LastLogits())[0, 0]
            ids.append(int(logits.argmax()))
            logps.append(float(logits.log_softmax(-1)[ids[-1]]))
    return ids[len(prompt) :], logps


def some_prompts(n: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 20, (n,), generator=generator).tolist()
    return [torch.randint(16, 272, (length,), generator=generator).tolist() for length in lengths]


@pytest.mark.parametrize("pattern", ["A", "AL"])
def test_cached_continuations_equal_those_without_a_cache(load: Callable[..., Loaded], pattern: str) -> None:
    model = load(pattern=pattern).model.double()
    text = some_prompts(1, seed=3)[0] + slow(model, some_prompts(1, seed=3)[0], 12)[0]
    for split in range(1, len(text)):
        expected, logps = slow(model, text[:split], 8)
        (done,) = continuations(model, [Request(text[:split], 8)], GREEDY)
        assert done.tokens == expected
        assert done.logprobs == pytest.approx(logps, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("pattern", ["A", "AL"])
def test_a_batch_says_what_each_prompt_alone_says(
    load: Callable[..., Loaded], pattern: str, dtype: torch.dtype
) -> None:
    model = load(pattern=pattern).model.to(dtype)
    prompts = some_prompts(7)
    alone = [greedy(model, [prompt], most_new=12, stop=Stop())[0] for prompt in prompts]
    assert greedy(model, prompts, most_new=12, stop=Stop()) == alone
    assert len({tuple(tokens) for tokens in alone}) > 3, "the prompts must lead to different answers"


def test_rows_that_end_leave_and_the_others_go_on_unchanged(load: Callable[..., Loaded]) -> None:
    model = load().model.double()
    prompts = some_prompts(8, seed=1)
    lengths = [1, 9, 2, 7, 3, 12, 1, 5]
    seen: list[int] = []
    readout = model.forward

    def counting(tokens_BT: torch.Tensor, *rest: object, **keys: object) -> object:
        seen.append(tokens_BT.shape[0])
        return readout(tokens_BT, *rest, **keys)  # type: ignore[arg-type]

    model.forward = counting  # type: ignore[assignment, method-assign]
    requests = [Request(prompt, length) for prompt, length in zip(prompts, lengths, strict=True)]
    done = continuations(model, requests, GREEDY)
    model.forward = readout  # type: ignore[method-assign]
    assert [c.tokens for c in done] == [slow(model, p, n)[0] for p, n in zip(prompts, lengths, strict=True)]
    assert len(seen) == max(lengths)
    assert seen[0] == 8
    assert seen[-1] == 1
    assert sum(seen) < 60, "ended rows must not be computed to the end"


def test_an_end_token_ends_and_is_left_out(load: Callable[..., Loaded]) -> None:
    model = load().model
    tokens = greedy(model, [[20, 30]], most_new=6, stop=Stop())[0]
    end = next(token for token in tokens if token != tokens[0])
    (done,) = continuations(model, [Request([20, 30], 6, Stop(frozenset({end})))], GREEDY)
    assert done.tokens == tokens[: tokens.index(end)]
    assert len(done.logprobs) == len(done.tokens)
    assert done.finish_reason == "stop"


def test_every_step_yields_one_more_token(load: Callable[..., Loaded]) -> None:
    lengths = [len(done[0].tokens) for done in continue_prompts(load().model, [Request([20], 5)], GREEDY)]
    assert lengths == [1, 2, 3, 4, 5]


def test_an_empty_prompt_is_refused(load: Callable[..., Loaded]) -> None:
    with pytest.raises(CirillaError, match="empty"):
        continuations(load().model, [Request([20], 2), Request([], 2)], GREEDY)


def test_a_diverged_model_is_named_as_that(load: Callable[..., Loaded]) -> None:
    model = load().model
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))  # type: ignore[operator, union-attr]
    with pytest.raises(CirillaError, match="not finite"):
        continuations(model, [Request([20], 2)], SamplingConfig(temperature=1.0))
