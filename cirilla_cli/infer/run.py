"""What `cirilla generate` does: prompts in, answers out, whole or streamed."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import cast

import numpy as np
import torch

from cirilla_cli.checkpoint import AnyFound, Loaded
from cirilla_cli.compat import has_fast_bfloat16
from cirilla_cli.data.rows import Message
from cirilla_cli.errors import CirillaError, Where
from cirilla_cli.infer.config import GenerateConfig
from cirilla_cli.infer.generator import Continuation, Request, Stop, continue_prompts
from cirilla_cli.infer.prompt import Prompt as Prompt
from cirilla_cli.infer.readers import Filling, Judgement, classify, fill
from cirilla_cli.infer.speculative import continue_drafting
from cirilla_cli.infer.text import TextDecoder, stop_matcher, text_of
from cirilla_cli.progress import SILENT, Progress


@dataclass(frozen=True, slots=True)
class Answer:
    """One prompt's continuation."""

    prompt: str | None
    """The prompt's text; None where it came as ids."""
    prompt_tokens: list[int]
    """The ids the model was given, template and begin token included."""
    text: str | None
    """The continuation up to a stop string; None where the model has no tokenizer."""
    tokens: list[int]
    """New ids, those of a stop string included, an end token not."""
    logprobs: list[float]
    """Natural log of each new id's probability under the unfiltered distribution at temperature 1."""
    finish_reason: str
    """stop, length or stop_string."""
    seconds: float
    """From the start of its batch to its last token."""


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """The number format a recipe names; ``auto`` is bfloat16 on GPUs that multiply it, else float32."""
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
    half = device.type == "cuda" and has_fast_bfloat16(device)
    return named.get(name) or (torch.bfloat16 if half else torch.float32)


def wants_chat(loaded: Loaded) -> bool:
    """Whether a raw prompt deserves the hint that this model was tuned on chats and has a template for them."""
    if loaded.tokenizer is None or loaded.verb not in ("sft", "dpo", None):
        return False
    try:
        loaded.tokenizer.chat([Message(role="user", content="?")], generation_prompt=True)
    except CirillaError:
        return False
    return True


def answers(
    config: GenerateConfig, found: AnyFound, prompts: Iterable[Prompt], progress: Progress = SILENT
) -> Iterator[Answer | Judgement | Filling]:
    """What a model of any kind says to each prompt: its continuation, its label, or the text with what was hidden.

    Raises:
        CirillaError: as `generate`, `classify` and `fill`.
    """
    match found.config.kind:
        case "decoder":
            return generate(config, cast(Loaded, found), prompts, progress)
        case "classifier":
            return classify(found, prompts, batch=config.batch, progress=progress)
    return fill(found, prompts, batch=config.batch, progress=progress)


def generate(
    config: GenerateConfig, loaded: Loaded, prompts: Iterable[Prompt], progress: Progress = SILENT
) -> Iterator[Answer]:
    """Continue each prompt; answers come in the order of the prompts, a batch at a time.

    Each prompt's random choices depend on the seed and on its place among the prompts, not on its batch.

    Raises:
        CirillaError: a prompt is empty, too long for the model's context, or holds ids that are none; text for a model
            without a tokenizer; all mistakes of a batch at once.
    """
    _prepare(config, loaded)
    waiting, number = iter(prompts), 0
    while batch := list(islice(waiting, config.batch)):
        encoded = _encoded(config, loaded, batch, number)
        requests = [_request(config, loaded, ids, number + i) for i, ids in enumerate(encoded)]
        yield from _answers(config, loaded, batch, requests)
        number += len(batch)
        progress.step("prompts", number)


def stream(config: GenerateConfig, loaded: Loaded, prompt: Prompt) -> Generator[str, None, Answer]:
    """Continue one prompt, yielding its text as it becomes certain; the generator's value is the whole answer.

    Only whole characters come, and nothing of a stop string, also where one is spread over several tokens. Without a
    tokenizer the ids themselves come, as decimal numbers with a space between.

    Raises:
        CirillaError: as `generate`.
    """
    _prepare(config, loaded)
    request = _request(config, loaded, _encoded(config, loaded, [prompt], 0)[0], 0)
    started, tokenizer, shown = time.monotonic(), loaded.tokenizer, 0
    decoder = None if tokenizer is None else TextDecoder(tokenizer, config.stop)
    done = Continuation()
    for (done,) in _way(config)(loaded.model, [request], config):
        for token in done.tokens[shown:]:
            piece = decoder.add(token) if decoder is not None else f"{' ' if shown else ''}{token}"
            shown += 1
            if piece:
                yield piece
    if decoder is not None and (rest := decoder.end()):
        yield rest
    return _answer(config, loaded, prompt, request, done, time.monotonic() - started)


def _prepare(config: GenerateConfig, loaded: Loaded) -> None:
    """Check what does not depend on the prompts, and bring the weights into the wanted number format."""
    if config.system is not None and not config.chat:
        raise CirillaError(
            "`generate.system` needs `generate.chat`: only the template has a system turn", hint="--chat"
        )
    if loaded.tokenizer is None and (config.chat or config.stop):
        key = "chat" if config.chat else "stop"
        raise CirillaError(f"{loaded.path}: `generate.{key}` needs a tokenizer, and there is none in this folder")
    device = next(loaded.model.parameters()).device
    loaded.model.to(dtype_of(config.dtype, device))


def _encoded(config: GenerateConfig, loaded: Loaded, prompts: Sequence[Prompt], first: int) -> list[list[int]]:
    """The ids of each prompt, checked; ``first`` is the number of prompts before them."""
    encoded = [_ids(config, loaded, prompt) for prompt in prompts]
    wrong = [
        (number, why)
        for number, ids in enumerate(encoded, first + 1)
        if (why := _problem(loaded, ids, config)) is not None
    ]
    if wrong:
        said = "\n".join(f"prompt {number}: {why}" for number, why in wrong)
        raise CirillaError(said, where=[Where(key="prompt", value=number, expected=why) for number, why in wrong])
    return encoded


def _ids(config: GenerateConfig, loaded: Loaded, prompt: Prompt) -> list[int]:
    if prompt.ids is not None:
        return list(prompt.ids)
    if loaded.tokenizer is None:
        raise CirillaError(
            f"{loaded.path}: no tokenizer in this folder, so text cannot be read", hint='--prompt-ids "1 2 3"'
        )
    text = prompt.text or ""
    if not config.chat:
        return [*loaded.tokenizer.bos_ids, *loaded.tokenizer.encode(text)]
    system = [] if config.system is None else [Message(role="system", content=config.system)]
    return loaded.tokenizer.chat([*system, Message(role="user", content=text)], generation_prompt=True).ids


def _problem(loaded: Loaded, ids: Sequence[int], config: GenerateConfig) -> str | None:
    """What is wrong with a prompt, if anything is."""
    context, size = loaded.config.context_length, loaded.config.vocab_size or 0
    if not ids:
        return "it is empty, and a continuation starts from a token"
    outside = [id for id in ids if not 0 <= id < size]
    if outside:
        return f"{outside[0]} is not a token id of this model; they are 0 to {size - 1}"
    if len(ids) >= context:
        return f"it has {len(ids)} tokens, and the model's context of {context} leaves no room for an answer"
    return None


def _request(config: GenerateConfig, loaded: Loaded, ids: list[int], number: int) -> Request:
    tokenizer = loaded.tokenizer
    ends = frozenset[int]() if config.ignore_eos or tokenizer is None else tokenizer.stop_ids
    matcher = None if tokenizer is None else stop_matcher(tokenizer, config.stop)
    most_new = min(config.max_new_tokens, loaded.config.context_length - len(ids))
    return Request(ids, most_new, Stop(ends, matcher), own_seed(config.seed or 0, number))


def own_seed(seed: int, number: int) -> int:
    """The seed of prompt ``number``: far from those of its neighbours and of neighbouring seeds."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _answers(
    config: GenerateConfig, loaded: Loaded, prompts: Sequence[Prompt], requests: Sequence[Request]
) -> Iterator[Answer]:
    started = time.monotonic()
    seconds: dict[int, float] = {}
    done: list[Continuation] = []
    for done in _way(config)(loaded.model, requests, config):
        now = time.monotonic() - started
        for i, continuation in enumerate(done):
            if continuation.finish_reason is not None:
                seconds.setdefault(i, now)
    for i, continuation in enumerate(done):
        yield _answer(config, loaded, prompts[i], requests[i], continuation, seconds[i])


def _way(config: GenerateConfig) -> Callable[..., Iterator[list[Continuation]]]:
    """How prompts are continued."""
    return continue_drafting if config.draft else continue_prompts


def _answer(
    config: GenerateConfig, loaded: Loaded, prompt: Prompt, request: Request, done: Continuation, seconds: float
) -> Answer:
    return Answer(
        prompt=prompt.text,
        prompt_tokens=list(request.prompt),
        text=None if loaded.tokenizer is None else text_of(loaded.tokenizer, done.tokens, config.stop),
        tokens=done.tokens,
        logprobs=done.logprobs,
        finish_reason=done.finish_reason or "length",
        seconds=round(seconds, 6),
    )
