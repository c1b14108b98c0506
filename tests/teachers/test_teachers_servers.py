"""Teachers against real servers on loopback that misbehave on purpose, through the real `ollama` client."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripted import KEY, TEXTS, Server, config, free_port, rows, run

from cirilla_cli.data.rows import Message
from cirilla_cli.errors import CirillaError, ServiceError
from cirilla_cli.progress import Silent
from cirilla_cli.synth.run import synthesize
from cirilla_cli.teachers.base import Completion, Failure, Request, estimated_tokens, in_parallel, patiently
from cirilla_cli.teachers.config import OllamaConfig, OpenAIConfig, OwnConfig, parse_teacher

KINDS = pytest.mark.parametrize("kind", ["ollama", "openai"])


@KINDS
def test_grounded_pairs_come_out_in_the_order_of_the_pages(
    tmp_path: Path, serve: Callable[..., Server], kind: str
) -> None:
    server = serve()
    report = run(tmp_path, server.teacher(kind), 6)
    made = rows(tmp_path / "out" / "samples.jsonl")
    assert report.samples == 6
    assert [row["parents"] for row in made] == [[str(n)] for n in range(6)]
    for n, row in enumerate(made):
        assert row["evidence"] == [f"Page {n} tells of mill {n}, which stands by the river and was built of stone"]
        assert row["generator"]["teacher"] == f"{kind}:tiny"
    body = server.bodies[0]
    sent = body["format"] if kind == "ollama" else body["response_format"]["json_schema"]["schema"]
    assert sent["required"] == ["pairs"]
    assert "$ref" not in json.dumps(sent)
    if kind == "ollama":
        assert body["options"]["num_ctx"] == 8192
        assert body["options"]["num_predict"] == 64


# Each class of failure: docs/synth.md has the table. First what passes by itself and is waited out.
PASSING = ["busy", "limited", "broken", "torn", "html", "odd", "empty body", "null", "closed", "half a body", "slow"]


@KINDS
@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_is_waited_out(tmp_path: Path, serve: Callable[..., Server], kind: str, fault: str) -> None:
    server = serve(lambda prompt, n: fault if n == 0 and "Mill 1" in prompt else None)
    report = run(tmp_path, server.teacher(kind, timeout=0.3), 3)
    assert report.samples == 3
    assert sorted(server.asked.values()) == [1, 1, 2]
    assert report.rejected == {}
    assert max(server.requests.values()) == 2, "the very same request is sent again"


@KINDS
def test_a_slow_server_is_asked_twice_and_then_left_for_the_next_run(
    tmp_path: Path, serve: Callable[..., Server], kind: str
) -> None:
    server = serve(lambda prompt, n: "slow" if "Mill 1" in prompt else None)
    with pytest.raises(ServiceError, match="left 1 requests unanswered") as caught:
        run(tmp_path, server.teacher(kind, timeout=0.5), 3)
    assert sorted(server.asked.values()) == [1, 1, 2]
    assert caught.value.exit_code == 4
    server.fault = lambda prompt, n: None
    assert run(tmp_path, server.teacher(kind, timeout=0.5), 3).samples == 3
    assert sorted(server.asked.values()) == [1, 1, 3], "what was answered is on record"


# What no waiting mends: the answer is there and is not what was asked for.
@KINDS
@pytest.mark.parametrize("fault", TEXTS)
def test_an_answer_of_another_shape_is_asked_again_at_once_and_at_last_rejected(
    tmp_path: Path, serve: Callable[..., Server], kind: str, fault: str
) -> None:
    server = serve(lambda prompt, n: fault if "Mill 0" in prompt or n == 0 else None)
    report = run(tmp_path, server.teacher(kind), 2, retries=2)
    assert report.samples == 1
    assert sorted(server.asked.values()) == [2, 3]
    assert report.rejected == {"not the JSON asked for": 1}
    assert set(server.requests.values()) == {1}, "no request is sent twice as it was"


@KINDS
@pytest.mark.parametrize("fault", ["thinking", "thinking, half marked"])
def test_thinking_before_the_answer_is_left_out(
    tmp_path: Path, serve: Callable[..., Server], kind: str, fault: str
) -> None:
    server = serve(lambda prompt, n: fault)
    assert run(tmp_path, server.teacher(kind), 2).samples == 2
    assert "think" not in (tmp_path / "out" / "samples.jsonl").read_text()


@KINDS
def test_an_answer_in_another_language_is_asked_again_and_at_last_rejected(
    tmp_path: Path, serve: Callable[..., Server], kind: str
) -> None:
    server = serve(lambda prompt, n: "Chinese" if "Mill 0" in prompt or n == 0 else None)
    report = run(tmp_path, server.teacher(kind), 2, retries=1)
    assert (report.samples, report.rejected) == (1, {"not in the language of the page": 1})
    assert "another language" in server.bodies[-1]["messages"][-1]["content"]


@KINDS
def test_prose_is_asked_again_with_the_complaint_and_another_seed(
    tmp_path: Path, serve: Callable[..., Server], kind: str
) -> None:
    server = serve(lambda prompt, n: "prose" if n == 0 else None)
    assert run(tmp_path, server.teacher(kind), 1).samples == 1
    first, second = server.bodies
    assert "does not parse" in second["messages"][-1]["content"]
    seeds = [body["options"]["seed"] if kind == "ollama" else body["seed"] for body in (first, second)]
    assert seeds[0] != seeds[1]


@KINDS
def test_an_answer_cut_off_gets_twice_the_budget_once(tmp_path: Path, serve: Callable[..., Server], kind: str) -> None:
    server = serve(lambda prompt, n: "length" if n == 0 or "Mill 1" in prompt else None)
    report = run(tmp_path, server.teacher(kind), 2)
    budgets = [body["options"]["num_predict"] if kind == "ollama" else body["max_tokens"] for body in server.bodies]
    assert sorted(budgets) == [64, 64, 128, 128]
    assert report.rejected == {"the answer was cut off twice": 1}
    assert report.samples == 1


def test_half_a_character_in_an_answer_cannot_break_a_file(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server = serve(lambda prompt, n: "{\ud83d" if "Mill 0" in prompt else None)
    report = run(tmp_path, server.teacher("openai"), 2, retries=0)
    assert (report.samples, report.rejected) == (1, {"not the JSON asked for": 1})
    assert len(rows(tmp_path / "out" / "journal.jsonl")) == 2


BAD = {
    "the evidence does not stand in the page": {"evidence": "Nobody ever said this."},
    "a number of the answer does not stand in the page": {"answer": "It turned 99 times."},
    "a name of the answer does not stand in the page": {"answer": "It belonged to Foltest."},
    "the answer is a refusal": {"answer": "I cannot say that."},
    "speaks of the text instead of the matter": {"question": "What does the text say of the mill?"},
    "not a question of acceptable length": {"question": "Tell me."},
    "no answer of acceptable length": {"answer": ""},
    "the question gives the answer away": {"question": "Is the mill by the river?", "answer": "by the river"},
}


@pytest.mark.parametrize("reason", BAD)
def test_what_is_not_grounded_is_rejected_by_name(tmp_path: Path, serve: Callable[..., Server], reason: str) -> None:
    fair = {
        "question": "Where is the mill?",
        "answer": "By the river.",
        "evidence": "MILL 0, which  stands by the river",
    }
    text = json.dumps({"pairs": [fair, {**fair, **BAD[reason]}]})
    report = run(tmp_path, serve(lambda prompt, n: text).teacher("ollama"), 1)
    assert report.rejected == {reason: 1}
    assert rows(tmp_path / "out" / "samples.jsonl")[0]["evidence"] == ["mill 0, which stands by the river"]


def test_a_request_the_server_refuses_is_rejected_and_the_key_stays_out_of_files(
    tmp_path: Path, serve: Callable[..., Server]
) -> None:
    server = serve(lambda prompt, n: "refused" if "Mill 0" in prompt else None)
    report = run(tmp_path, {**server.teacher("openai"), "api_key": KEY}, 2)
    assert report.rejected == {"the server refused the request": 1}
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(config(tmp_path, {**server.teacher("openai"), "api_key": KEY}))
    for path in (tmp_path / "out").iterdir():
        assert KEY not in path.read_text(encoding="utf-8")


def test_a_prompt_that_the_server_finds_too_long_is_rejected_as_that(
    tmp_path: Path, serve: Callable[..., Server]
) -> None:
    """Ollama drops the beginning of a prompt without a word: only its counts tell. Others refuse."""
    for kind, fault in (("ollama", "full"), ("openai", "too long")):
        server = serve(lambda prompt, n, fault=fault: fault if "Mill 0" in prompt else None)
        (tmp_path / kind).mkdir()
        report = run(tmp_path / kind, server.teacher(kind), 2)
        assert (report.samples, report.rejected) == (1, {"the prompt does not fit the context": 1})
        assert set(server.asked.values()) == {1}


@KINDS
def test_a_server_that_refuses_everything_is_not_asked_about_every_page(
    tmp_path: Path, serve: Callable[..., Server], kind: str
) -> None:
    server = serve(lambda prompt, n: "refused")
    with pytest.raises(ServiceError, match="answered none of 8 requests in a row") as caught:
        run(tmp_path, server.teacher(kind), 60)
    assert "HTTP 400" in str(caught.value)
    assert len(server.bodies) <= 8 + 2 * 2 + 2, "what was under way may come in yet"


def test_a_key_that_is_not_taken_ends_the_run_and_is_not_shown(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server = serve(lambda prompt, n: "forbidden")
    with pytest.raises(ServiceError, match="wants a valid key") as caught:
        run(tmp_path, server.teacher("openai", api_key=KEY), 6)
    assert KEY not in str(caught.value)
    assert "OPENAI_API_KEY" in str(caught.value.hint)
    assert len(server.bodies) <= 2 + 2


def test_answers_given_under_other_settings_are_not_taken_for_one_s_own(
    tmp_path: Path, serve: Callable[..., Server]
) -> None:
    server = serve()
    for think, sent in ((None, 3), (True, 6), (None, 6), (True, 6), (False, 9)):
        run(tmp_path, server.teacher("ollama", think=think), 3)
        assert len(server.bodies) == sent


def test_answers_of_two_models_by_one_name_are_not_mixed(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server = serve(lambda prompt, n: "busy" if "Mill 2" in prompt and n == 0 else None)
    server.models = [{"model": "other", "digest": "f" * 64}, {"model": "tiny:latest", "digest": "a" * 64}]
    with pytest.raises(ServiceError, match="run the same command|unanswered"):
        run(tmp_path, server.teacher("ollama", patience=0.1), 3)
    assert [row["digest"] for row in rows(tmp_path / "out" / "journal.jsonl")] == ["a" * 64] * 2
    server.models[1]["digest"] = "b" * 64
    with pytest.raises(CirillaError, match="is bbbbbbbbbbbb now, the answers on record are from aaaaaaaaaaaa"):
        run(tmp_path, server.teacher("ollama"), 3)
    assert len(server.bodies) == 3, "nothing was asked"
    server.models[1]["digest"] = "a" * 64
    assert run(tmp_path, server.teacher("ollama"), 3).samples == 3
    server.models[1]["digest"] = "b" * 64
    assert run(tmp_path, server.teacher("ollama"), 3).samples == 3, "all is on record, so nobody is asked"


def test_a_prompt_that_does_not_fit_the_context_is_not_sent(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server = serve()
    with pytest.raises(CirillaError, match="the prompt does not fit the context"):
        run(tmp_path, {**server.teacher("ollama"), "num_ctx": 100}, 1)
    assert not server.asked


def test_a_prompt_of_which_the_server_read_a_part_alone_is_rejected_as_over_long(
    tmp_path: Path, serve: Callable[..., Server]
) -> None:
    server = serve(lambda prompt, n: "holds less" if "Mill 1" in prompt else None)
    report = run(tmp_path, server.teacher("ollama"), 3)
    assert (report.samples, report.rejected) == (2, {"the prompt does not fit the context": 1})
    (row,) = rows(tmp_path / "out" / "rejects.jsonl")
    assert re.search(r"the server read 50 tokens of a prompt of \d+ characters", row["why"])
    assert len(server.bodies) == 3, "once is enough"


@KINDS
def test_a_server_that_is_down_is_named_with_its_address_and_how_to_start_it(tmp_path: Path, kind: str) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    start = "ollama serve" if kind == "ollama" else "llama-server"
    with pytest.raises(ServiceError, match=re.escape(url)) as caught:
        run(tmp_path, {"kind": kind, "model": "tiny", "url": url})
    assert start in str(caught.value.hint)
    assert caught.value.exit_code == 4


@KINDS
def test_a_model_that_is_missing_is_named_with_the_command_that_gets_it(
    tmp_path: Path, serve: Callable[..., Server], kind: str
) -> None:
    server = serve()
    with pytest.raises(ServiceError, match="no model `other`") as caught:
        run(tmp_path, server.teacher(kind, model="other"))
    hint = {"ollama": "ollama pull other", "openai": f"curl {server.url}/v1/models lists the models"}
    assert str(caught.value.hint).startswith(hint[kind])
    assert caught.value.exit_code == 4


def test_a_model_by_a_name_that_is_not_listed_is_asked_all_the_same(
    tmp_path: Path, serve: Callable[..., Server]
) -> None:
    server = serve()
    server.models = [{"model": "registry/of/tiny:latest"}]
    assert run(tmp_path, server.teacher("ollama"), 1).samples == 1


def test_a_server_that_dies_midway_ends_the_run_and_the_next_run_asks_only_what_is_missing(
    tmp_path: Path, serve: Callable[..., Server]
) -> None:
    down = threading.Event()
    server = serve(lambda prompt, n: "busy" if down.is_set() and "Mill 3" in prompt else None)
    down.set()
    impatient = {**server.teacher("ollama"), "patience": 0.1}
    with pytest.raises(ServiceError, match="left 1 requests unanswered"):
        run(tmp_path, impatient, 5)
    assert not (tmp_path / "out" / "samples.jsonl").exists()
    assert len(rows(tmp_path / "out" / "journal.jsonl")) == 4
    down.clear()
    assert run(tmp_path, impatient, 5).samples == 5
    assert sorted(server.asked.values()) == [1, 1, 1, 1, 2]


def test_a_finished_run_can_be_judged_anew_without_a_server(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server = serve()
    run(tmp_path, server.teacher("ollama"), 3)
    server.close()
    assert run(tmp_path, server.teacher("ollama"), 3).samples == 3


def test_recorded_completions_stand_in_for_a_server(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server = serve()
    run(tmp_path, server.teacher("openai"), 3)
    first = (tmp_path / "out" / "samples.jsonl").read_text(encoding="utf-8")
    replay = {"kind": "replay", "path": str(tmp_path / "out" / "journal.jsonl")}
    synthesize(config(tmp_path, replay, 3), tmp_path / "again", Silent())
    again = (tmp_path / "again" / "samples.jsonl").read_text(encoding="utf-8")
    contents = [[json.loads(line)["messages"] for line in text.splitlines()] for text in (first, again)]
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("text", "model", "url"),
    [
        ("ollama:qwen3:8b@http://10.0.0.2:11434", "qwen3:8b", "http://10.0.0.2:11434"),
        ("ollama:qwen3:8b", "qwen3:8b", OllamaConfig().url),
        ("ollama:@http://h:1", OllamaConfig().model, "http://h:1"),
        ("openai:org/name@https://h/v1", "org/name", "https://h/v1"),
        ("openai", OpenAIConfig().model, OpenAIConfig().url),
    ],
)
def test_a_teacher_is_named_by_kind_model_and_address(text: str, model: str, url: str) -> None:
    teacher = parse_teacher(text)
    assert (teacher.model, teacher.url) == (model, url)


@pytest.mark.parametrize("text", ["own:runs/mine-sft", "own:a@http://b:1", "own:C:\\runs"])
def test_a_teacher_of_one_s_own_is_named_by_its_path(text: str) -> None:
    assert parse_teacher(text) == OwnConfig(path=Path(text.removeprefix("own:")))


@pytest.mark.parametrize("text", ["vllm:x", "", "ollam:x@http://h", "own", "own:"])
def test_another_kind_of_teacher_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(CirillaError, match="expected ollama:MODEL@URL"):
        parse_teacher(text)


def test_waiting_for_a_server_has_an_end_and_grows() -> None:
    pauses: list[float] = []
    answer = patiently(lambda: Failure("busy", "full"), 10.0, pauses.append)
    assert isinstance(answer, Failure)
    assert sum(pauses) <= 10.0
    assert pauses == sorted(pauses)
    assert patiently(lambda: Failure("refused", "no"), 10.0, pauses.clear) == Failure("refused", "no")


def test_no_more_items_are_taken_than_can_soon_be_worked_on() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = in_parallel(lambda number: number * 2, items(), 2)
    first, doubled = next(results)
    assert doubled == 2 * first
    results.close()
    assert len(taken) <= 4


def test_equal_requests_have_equal_ids_and_the_seed_is_part_of_them() -> None:
    messages = (Message(role="user", content="x" * 30),)
    assert Request(messages).id == Request(messages).id != Request(messages, seed=1).id
    assert estimated_tokens(messages) == 18
    assert estimated_tokens((Message(role="user", content="\u6cb3" * 30),)) == 38
    assert Completion("x") == Completion("x", False)
