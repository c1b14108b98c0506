"""Our own checkpoint as a teacher, and what every kind of teacher keeps to."""

import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from scripted import config, page, rows, run
from torch.nn.functional import cross_entropy

from cirilla_cli.checkpoint import write_checkpoint
from cirilla_cli.data.config import SentencePieceConfig, TokenizeConfig
from cirilla_cli.data.parts import Share
from cirilla_cli.data.rows import Message
from cirilla_cli.data.run import tokenize
from cirilla_cli.data.tokenizer import Tokenizer, load_tokenizer
from cirilla_cli.errors import CirillaError
from cirilla_cli.hub.config import PushConfig
from cirilla_cli.hub.write import write_folder
from cirilla_cli.loading import load_model
from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.init import fresh
from cirilla_cli.model.layout import SequenceLayout
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.readout import LastLogits
from cirilla_cli.model.sections import SwiGLUConfig
from cirilla_cli.progress import Silent
from cirilla_cli.synth.shared import synth_merge, synth_share
from cirilla_cli.teachers.base import Completion, Failure, Request, Teacher
from cirilla_cli.teachers.config import OllamaConfig, OpenAIConfig, OwnConfig, ReplayConfig, TeacherSection

SAID = {
    "question": "Who had a dog and a cat beside the wheel?",
    "answer": "The miller, who lived in the house.",
    "evidence": "The miller lived in the house that is beside it, and he had a dog and a cat.",
}
ANSWER = json.dumps({"pairs": [SAID]})
CONTEXT = 2048


def shape(vocab_size: int) -> DecoderConfig:
    """A model that sees the last 17 tokens alone, so that it can learn what to say whatever it is asked."""
    return DecoderConfig(
        vocab_size=vocab_size, d_model=64, n_layers=2, context_length=CONTEXT, mlp=SwiGLUConfig(d_ff=96),
        mixers={"A": AttentionConfig(n_heads=4, n_kv_heads=2, window=9)},
    )  # fmt: skip


def learn(model: Decoder, tokenizer: Tokenizer, optimizer: torch.optim.Optimizer) -> None:
    """Teach it to say `ANSWER` in its turn, behind words of any kind."""
    draw = random.Random(1)
    for _ in range(400):
        noise = "".join(draw.choice('abcdefgh {}[]:."') for _ in range(30))
        asked = [Message(role="user", content=noise)]
        prompt = tokenizer.chat(asked, generation_prompt=True).ids
        ids = tokenizer.chat([*asked, Message(role="assistant", content=ANSWER)]).ids
        ids = ids[: len(prompt) + len(tokenizer.encode(ANSWER)) + 1]  # to the end of the turn
        said = len(ids) - len(prompt)
        layout = SequenceLayout.rows(1, len(ids) - 1)
        logits_BTV = model(torch.tensor([ids[:-1]]), layout, readout=LastLogits(said))
        loss = cross_entropy(logits_BTV[0], torch.tensor(ids[-said:]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.01:
            return
    raise AssertionError(f"not learned: {loss}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model knows one answer."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "pages.txt").write_text("\n".join([ANSWER, *(page(n) for n in range(20))]), encoding="utf-8")
    section = TokenizeConfig(inputs=(folder / "pages.txt",), tokenizer=SentencePieceConfig(vocab_size=400))
    tokenize(section, folder / "tokens", Silent())
    tokenizer = load_tokenizer(folder / "tokens")
    model = fresh(shape(tokenizer.vocab_size), seed=0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    learn(model, tokenizer, optimizer)
    write_checkpoint(folder / "run", 7, model, tokenizer=tokenizer, optimizer=optimizer, state={}, texts={})
    return folder / "run"


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    """The same in the Hugging Face layout."""
    folder = trained.with_name("exported")
    write_folder(load_model(trained), folder, PushConfig(dtype="float32"))
    return folder


def own(path: Path, **more: Any) -> dict[str, Any]:
    return {"kind": "own", "path": str(path), "device": "cpu", **more}


ASKED = (Message(role="system", content="You write."), Message(role="user", content="Title: Mill 0\nText: mill."))


def test_a_run_and_an_exported_folder_write_rows_that_name_the_model_by_its_content(
    trained: Path, exported: Path, tmp_path: Path
) -> None:
    made = {}
    for path in (trained, exported):
        report = run(tmp_path, own(path), 1, out=path.name, max_tokens=200, temperature=0.0)
        (row,) = rows(tmp_path / path.name / "samples.jsonl")
        assert [message["content"] for message in row["messages"]] == [SAID["question"], SAID["answer"]]
        (answer,) = rows(tmp_path / path.name / "journal.jsonl")
        assert answer["text"] == ANSWER
        assert answer["settings"] == {"dtype": "float32"}
        assert row["generator"]["teacher"] == answer["teacher"]
        assert report.spent is not None
        assert report.spent["tokens"] == len(load_tokenizer(exported).encode(ANSWER))
        made[path] = answer["teacher"]
    assert made[trained] != made[exported]  # other files
    moved = tmp_path / "moved"
    exported.rename(moved)
    try:
        teacher = OwnConfig(path=moved, device="cpu").build()
        assert teacher.name == made[exported]
        card = moved / "model.safetensors"
        whole = card.read_bytes()
        card.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert OwnConfig(path=moved, device="cpu").build().name != teacher.name
        card.write_bytes(whole)
    finally:
        moved.rename(exported)


def test_parts_of_an_array_ask_it_and_the_merge_asks_nothing(trained: Path, tmp_path: Path) -> None:
    section = config(tmp_path, own(trained), 3, max_tokens=200, temperature=0.0)
    run(tmp_path, own(trained), 3, max_tokens=200, temperature=0.0)
    for number in (2, 1):
        synth_share(section, tmp_path / "array", Share(number, 2), Silent())
    merged = synth_merge(section, tmp_path / "array", Silent())
    assert merged.spent is not None
    assert (merged.spent["asked"], merged.spent["on_record"]) == (0, 3)
    for name in ("samples", "rejects", "duplicates"):
        assert (tmp_path / "array" / f"{name}.jsonl").read_bytes() == (tmp_path / "out" / f"{name}.jsonl").read_bytes()


def test_what_a_small_model_says_instead_of_json_is_asked_for_again_and_rejected(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CirillaError, match=r"no samples: .*not the JSON asked for"):
        run(tmp_path, own(trained), 4, max_tokens=60, temperature=9.0, retries=1)
    answers = rows(tmp_path / "out" / "journal.jsonl")
    assert len({answer["text"] for answer in answers}) == len(answers) > 4
    with pytest.raises(CirillaError, match=r"no samples: the prompt does not fit the context \(2\)") as refused:
        run(tmp_path, own(trained), 2, out="long", max_tokens=2000)
    assert "lower synth.source.chunk_chars" in (refused.value.hint or "")


def test_a_folder_without_a_model_and_one_without_words_are_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CirillaError, match="no model here"):
        run(tmp_path, own(tmp_path))
    found = model_of(trained)
    optimizer = torch.optim.Adam(found.parameters())
    write_checkpoint(tmp_path / "mute", 1, found, tokenizer=None, optimizer=optimizer, state={}, texts={})
    with pytest.raises(CirillaError, match="a teacher reads text, and there is no tokenizer"):
        run(tmp_path, own(tmp_path / "mute"))
    with pytest.raises(CirillaError, match="`teacher.device` is 'mps'"):
        run(tmp_path, own(trained, device="mps"))


def model_of(trained: Path) -> Decoder:
    model = load_model(trained).model
    assert isinstance(model, Decoder)
    return model


# What every kind keeps to


@pytest.fixture
def replayed(tmp_path: Path) -> Path:
    path = tmp_path / "replies.jsonl"
    path.write_text(json.dumps({"contains": "mill", "text": ANSWER}) + "\n", encoding="utf-8")
    return path


@pytest.fixture(params=get_args(get_args(TeacherSection)[0]), ids=lambda section: section.model_fields["kind"].default)
def teacher(
    request: pytest.FixtureRequest, serve: Callable[..., Any], trained: Path, replayed: Path
) -> Iterator[Teacher]:
    """One of each kind in the union, well, with a context of `CONTEXT` tokens."""
    section: type = request.param
    made: Teacher
    if section is OllamaConfig:
        made = OllamaConfig(model="tiny", url=serve(lambda *_: ANSWER).url, num_ctx=CONTEXT).build()
    elif section is OpenAIConfig:
        made = OpenAIConfig(model="tiny", url=f"{serve(lambda *_: ANSWER).url}/v1", context=CONTEXT).build()
    elif section is ReplayConfig:
        made = ReplayConfig(path=replayed).build()
    else:
        assert section is OwnConfig, "a new kind of teacher is to be built here"
        made = OwnConfig(path=trained, device="cpu").build()
    yield made
    made.close()


def test_a_teacher_answers_the_same_request_alike_from_any_thread(teacher: Teacher) -> None:
    teacher.check()
    request = Request(ASKED, None, 200, 0.7, seed=5)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(teacher.ask, [request] * 3))
    assert isinstance(answers[0], Completion)
    assert answers[0].text == ANSWER
    assert not answers[0].cut
    assert answers == [answers[0]] * 3
    assert teacher.name.startswith(("ollama:", "openai:", "replay:", "own:"))
    assert json.loads(json.dumps(dict(teacher.settings))) == teacher.settings
    assert teacher.address


def test_a_prompt_that_does_not_fit_is_a_failure_and_never_cut(teacher: Teacher) -> None:
    long = (ASKED[0], Message(role="user", content="mill " * 3000))
    answer = teacher.ask(Request(long, None, 100))
    if teacher.context is None:
        assert isinstance(answer, Completion), "recorded answers have no limit"
        return
    assert teacher.context == CONTEXT
    assert isinstance(answer, Failure)
    assert answer.kind == "context"


def test_an_answer_cut_off_says_so(trained: Path) -> None:
    teacher = OwnConfig(path=trained, device="cpu").build()
    answer = teacher.ask(Request(ASKED, None, 5, 0.0))
    assert isinstance(answer, Completion)
    assert answer.cut
    assert ANSWER.startswith(answer.text)
    assert (answer.tokens, teacher.context) == (5, CONTEXT)


def test_the_seed_and_nothing_else_decides_an_answer(trained: Path) -> None:
    one, other = (OwnConfig(path=trained, device="cpu").build() for _ in range(2))
    hot = [Request(ASKED, None, 20, 3.0, seed=seed) for seed in (1, 2, 1)]
    first = [one.ask(request) for request in hot]
    assert first[0] == first[2] != first[1]
    assert [other.ask(request) for request in reversed(hot)] == first[::-1]


def test_a_raw_prompt_is_refused_before_anything_is_made(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is chatml, but a model of one's own takes no raw prompts: leave it out"):
        config(tmp_path, own(trained), strategy={"kind": "magpie", "template": "chatml"})
    config(tmp_path, own(trained), strategy={"kind": "magpie"})
    teacher = OwnConfig(path=trained, device="cpu").build()
    answer = teacher.ask(Request(ASKED[1:], None, 5, until="<|im_end|>"))
    assert isinstance(answer, Failure)
    assert (answer.kind, answer.detail) == (
        "refused", "a model of one's own takes no raw prompts: leave out strategy.template",
    )  # fmt: skip
