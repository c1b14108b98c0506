"""Prompts to answers, as `cirilla generate` gives them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cirilla_cli.checkpoint import Loaded
from cirilla_cli.errors import CirillaError
from cirilla_cli.infer.config import GenerateConfig
from cirilla_cli.infer.run import Answer, Prompt, dtype_of, generate, own_seed, stream, wants_chat
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.readout import LastLogits
from cirilla_cli.progress import Silent

TEXTS = ["Geralt", "The white wolf of", "x", "Who is Ciri?", "Yennefer of Vengerberg"]


def ask(loaded: Loaded, prompts: list[Prompt], **keys: Any) -> list[Answer]:
    config = GenerateConfig.model_validate({"temperature": 0.0, "max_new_tokens": 10, **keys})
    return list(generate(config, loaded, prompts, Silent()))


def texts(*prompts: str) -> list[Prompt]:
    return [Prompt(text=text) for text in prompts]


def streamed(loaded: Loaded, prompt: Prompt, **keys: Any) -> tuple[list[str], Answer]:
    config = GenerateConfig.model_validate({"temperature": 0.0, "max_new_tokens": 10, **keys})
    pieces, source = [], stream(config, loaded, prompt)
    while True:
        try:
            pieces.append(next(source))
        except StopIteration as end:
            return pieces, end.value


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_answers_do_not_depend_on_the_batch(load: Callable[..., Loaded], dtype: str, temperature: float) -> None:
    loaded = load()
    alike = [
        [(a.tokens, a.text) for a in ask(loaded, texts(*TEXTS), batch=batch, dtype=dtype, temperature=temperature)]
        for batch in (1, 2, 5)
    ]
    assert alike[0] == alike[1] == alike[2]


def test_the_seed_alone_decides_what_is_drawn(load: Callable[..., Loaded]) -> None:
    loaded = load()
    same = texts("a", "a")
    first = ask(loaded, same, temperature=1.0, seed=1)
    assert [a.tokens for a in first] == [a.tokens for a in ask(loaded, same, temperature=1.0, seed=1)]
    assert first[0].tokens != first[1].tokens, "the same prompt twice is two draws"
    assert first[0].tokens != ask(loaded, same, temperature=1.0, seed=2)[0].tokens
    assert len({own_seed(seed, number) for seed in range(20) for number in range(20)}) == 400


def test_logprobs_are_those_of_the_unfiltered_distribution(load: Callable[..., Loaded]) -> None:
    loaded = load()
    keys = {"temperature": 0.5, "top_k": 3, "repetition_penalty": 1.3, "dtype": "float64"}
    (answer,) = ask(loaded, texts("abc"), ignore_eos=True, **keys)
    ids = [*answer.prompt_tokens, *answer.tokens]
    with torch.no_grad():
        layout = SequenceLayout.rows(1, len(ids))
        logits = loaded.model(torch.tensor([ids]), layout, readout=LastLogits(len(ids)))[0]
    start = len(answer.prompt_tokens)
    expected = [float(logits[start + i - 1].log_softmax(-1)[token]) for i, token in enumerate(answer.tokens)]
    assert answer.logprobs == pytest.approx(expected, abs=1e-9)


def test_a_raw_prompt_begins_a_document_and_a_chat_prompt_is_in_the_template(load: Callable[..., Loaded]) -> None:
    loaded = load()
    assert loaded.tokenizer is not None
    (raw,) = ask(loaded, texts("hi"), max_new_tokens=1)
    assert raw.prompt_tokens == [1, *loaded.tokenizer.encode("hi")]
    (chat,) = ask(loaded, texts("hi"), max_new_tokens=1, chat=True, system="be")
    code = loaded.tokenizer.encode
    assert chat.prompt_tokens == [
        1, 4, *code("system\nbe"), 5, *code("\n"), 4, *code("user\nhi"), 5, *code("\n"), 4, *code("assistant\n")
    ]  # fmt: skip
    assert chat.prompt == "hi"


def test_ids_go_in_and_come_out_without_a_tokenizer(load: Callable[..., Loaded]) -> None:
    bare, full = load(tokenizer=False), load()
    prompt = Prompt(ids=(20, 21, 22))
    (answer,) = ask(bare, [prompt])
    assert answer.text is None
    assert answer.prompt is None
    assert answer.tokens == ask(full, [prompt], ignore_eos=True)[0].tokens
    pieces, whole = streamed(bare, prompt)
    assert "".join(pieces) == " ".join(map(str, whole.tokens))
    with pytest.raises(CirillaError, match="no tokenizer"):
        ask(bare, texts("hi"))
    with pytest.raises(CirillaError, match="`generate.stop` needs a tokenizer"):
        ask(bare, [prompt], stop=["x"])


def test_a_prompt_that_fills_the_context_is_refused_with_both_numbers(load: Callable[..., Loaded]) -> None:
    loaded = load(context_length=16)
    with pytest.raises(CirillaError) as caught:
        ask(loaded, texts("ok", "x" * 40, "y" * 15))
    assert "prompt 2: it has 41 tokens, and the model's context of 16" in str(caught.value)
    assert "prompt 3: it has 16 tokens" in str(caught.value)
    assert [place.value for place in caught.value.where] == [2, 3]


def test_a_continuation_ends_where_the_context_does(load: Callable[..., Loaded]) -> None:
    (answer,) = ask(load(context_length=16), texts("x" * 12), ignore_eos=True)
    assert len(answer.tokens) == 16 - 13
    assert answer.finish_reason == "length"


def test_ids_outside_the_vocabulary_and_no_ids_are_refused(load: Callable[..., Loaded]) -> None:
    with pytest.raises(CirillaError, match="prompt 1: 272 is not a token id of this model; they are 0 to 271"):
        ask(load(), [Prompt(ids=(272,))])
    with pytest.raises(CirillaError, match="empty"):
        ask(load(), [Prompt(ids=())])
    with pytest.raises(CirillaError, match="needs `generate.chat`"):
        ask(load(), texts("a"), system="be")


def test_a_stop_string_ends_the_text_at_any_border_of_tokens(load: Callable[..., Loaded]) -> None:
    loaded = load()
    for seed in range(6):
        keys = {"temperature": 1.0, "seed": seed, "ignore_eos": True, "max_new_tokens": 20}
        (free,) = ask(loaded, texts("abc"), **keys)
        assert free.text is not None
        plain = free.text.replace("�", "\0")
        stop = next((plain[i : i + 2] for i in range(3, len(plain) - 2) if "\0" not in plain[i : i + 2]), None)
        if stop is None:
            continue
        (answer,) = ask(loaded, texts("abc"), stop=[stop], **keys)
        pieces, whole = streamed(loaded, Prompt(text="abc"), stop=[stop], **keys)
        assert answer.finish_reason == whole.finish_reason == "stop_string"
        assert answer.text == "".join(pieces) == free.text[: free.text.index(stop)]
        assert answer.tokens == free.tokens[: len(answer.tokens)]


def test_what_is_streamed_is_what_is_answered(load: Callable[..., Loaded]) -> None:
    loaded = load()
    for seed in range(8):
        keys = {"temperature": 1.5, "seed": seed, "max_new_tokens": 24}
        (answer,) = ask(loaded, texts("é"), **keys)
        pieces, whole = streamed(loaded, Prompt(text="é"), **keys)
        assert "".join(pieces) == answer.text == whole.text
        assert (whole.tokens, whole.logprobs, whole.finish_reason) == (
            answer.tokens, answer.logprobs, answer.finish_reason
        )  # fmt: skip
        raw = bytes(i - 16 for i in answer.tokens if i >= 16)
        known = raw.decode("utf-8", "replace")
        assert known.startswith(answer.text or "")
        assert len(known) - len(answer.text or "") <= 1, "only a character cut off at the end may be missing"


def test_end_tokens_are_passed_over_on_request(load: Callable[..., Loaded]) -> None:
    loaded = load()
    with torch.no_grad():
        # All logits but the end token's are shrunk, so that it is always the likeliest or the least likely.
        weight = loaded.model.model.embed_tokens.weight
        weight[2] = 40 * weight[2].sign()  # type: ignore[index, operator]
    answers = [ask(loaded, texts(text), max_new_tokens=4)[0] for text in "abcdefgh"]
    ended = [a for a in answers if a.finish_reason == "stop"]
    assert ended
    assert all(2 not in a.tokens for a in answers)
    (on,) = ask(loaded, texts(ended[0].prompt or ""), max_new_tokens=4, ignore_eos=True)
    assert len(on.tokens) == 4
    assert 2 in on.tokens


def test_only_models_tuned_on_chats_get_the_hint(load: Callable[..., Loaded]) -> None:
    assert wants_chat(load(verb="sft"))
    assert wants_chat(load(verb="dpo"))
    assert wants_chat(load(verb=None)), "an imported model with a template"
    assert not wants_chat(load(verb="pretrain"))
    assert not wants_chat(load(verb="sft", tokenizer=False))


def test_auto_is_bfloat16_only_where_a_gpu_multiplies_it() -> None:
    assert dtype_of("auto", torch.device("cpu")) == torch.float32
    can = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    assert dtype_of("auto", torch.device("cuda")) == (torch.bfloat16 if can else torch.float32)
    assert dtype_of("float64", torch.device("cuda")) == torch.float64
