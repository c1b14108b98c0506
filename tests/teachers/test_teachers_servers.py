"""Teachers against real servers on loopback that misbehave on purpose, and the samples made through them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cirilla_cli.data.rows import Document, Message
from cirilla_cli.errors import CirillaError, ServiceError
from cirilla_cli.progress import Silent
from cirilla_cli.synth.config import SynthConfig
from cirilla_cli.synth.run import SynthReport, synthesize
from cirilla_cli.teachers.base import Completion, Failure, Request, estimated_tokens, in_parallel, patiently
from cirilla_cli.teachers.config import OllamaConfig, OpenAIConfig, parse_teacher

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-not-to-be-seen"

Fault = Callable[[str, int], str | None]


def good(prompt: str) -> str:
    """The answer of a teacher that has read its page: one grounded pair."""
    title = re.search(r"Title: (.*)", prompt)
    sentence = re.search(r"Text:\n([^.]*\.)", prompt)
    assert title is not None
    assert sentence is not None
    pair = {"question": f"What is told of {title[1]}?", "answer": sentence[1], "evidence": sentence[1]}
    return json.dumps({"pairs": [pair]})


class Server:
    """Speaks both protocols. ``fault(prompt, n)`` names what goes wrong with the n-th request of a prompt (from 0)."""

    def __init__(self, fault: Fault = lambda prompt, n: None, delay: float = 0.0) -> None:
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.lock, self.fault, self.delay = threading.Lock(), fault, delay
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None: ...

            def do_GET(self) -> None:
                self.reply(200, {"data": [], "models": []})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if body["model"] != "tiny":
                    return self.reply(404, {"error": f"model '{body['model']}' not found"})
                prompt = body["messages"][1]["content"]
                with outer.lock:
                    n, outer.asked[prompt] = outer.asked[prompt], outer.asked[prompt] + 1
                    outer.bodies.append(body)
                    outer.headers.append(dict(self.headers))
                time.sleep(outer.delay)
                return self.answer(prompt, outer.fault(prompt, n))

            def answer(self, prompt: str, fault: str | None) -> None:
                if fault == "busy":
                    return self.reply(503, {"error": "server busy"})
                if fault == "refused":
                    return self.reply(400, {"error": f"bad request with {KEY}"})
                if fault == "torn":
                    return self.reply(200, None)
                texts = {"prose": "Certainly! Here is", "length": '{"pairs": [{"question": "Wh'}
                return self.chat(texts.get(str(fault), fault or good(prompt)), fault == "length")

            def chat(self, text: str, cut: bool) -> None:
                message, reason = {"role": "assistant", "content": text}, "length" if cut else "stop"
                if self.path == "/api/chat":
                    counts = {"prompt_eval_count": 100, "eval_count": 10}
                    return self.reply(
                        200, {"model": "tiny", "message": message, "done": True, "done_reason": reason, **counts}
                    )
                return self.reply(200, {"choices": [{"message": message, "finish_reason": reason}]})

            def reply(self, status: int, value: Any) -> None:
                data = b'{"half' if value is None else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def teacher(self, kind: str) -> dict[str, Any]:
        patient = {"kind": kind, "model": "tiny", "timeout": 5.0, "patience": 20.0}
        return {**patient, "url": self.url if kind == "ollama" else f"{self.url}/v1"}


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*args: Any, **kwargs: Any) -> Server:
        servers.append(Server(*args, **kwargs))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


def documents(folder: Path, count: int) -> Path:
    path = folder / "documents.jsonl"
    texts = [f"Page {n} tells of mill {n} by the river. It turned {n + 3} times." for n in range(count)]
    rows = [Document(id=str(n), title=f"Mill {n}", text=text).line() for n, text in enumerate(texts)]
    path.write_text("\n".join(rows) + "\n")
    return path


def config(folder: Path, teacher: dict[str, Any], count: int = 4, **options: Any) -> SynthConfig:
    source = {"kind": "teacher", "teacher": teacher, "workers": 2, "max_tokens": 64, **options}
    return SynthConfig.model_validate({"source": source, "inputs": str(documents(folder, count))})


def run(folder: Path, teacher: dict[str, Any], count: int = 4, **options: Any) -> SynthReport:
    return synthesize(config(folder, teacher, count, **options), folder / "out", Silent())


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


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
        assert row["evidence"] == [f"Page {n} tells of mill {n} by the river"]
        assert row["generator"]["teacher"] == f"{kind}:tiny"
    body = server.bodies[0]
    sent = body["format"] if kind == "ollama" else body["response_format"]["json_schema"]["schema"]
    assert sent["required"] == ["pairs"]
    assert "$ref" not in json.dumps(sent)
    if kind == "ollama":
        assert body["options"]["num_ctx"] == 8192
        assert body["options"]["num_predict"] == 64


@KINDS
@pytest.mark.parametrize("fault", ["busy", "torn"])
def test_a_passing_fault_is_waited_out(tmp_path: Path, serve: Callable[..., Server], kind: str, fault: str) -> None:
    server = serve(lambda prompt, n: fault if n == 0 and "Mill 1" in prompt else None)
    assert run(tmp_path, server.teacher(kind), 3).samples == 3
    assert sorted(server.asked.values()) == [1, 1, 2]


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
    fair = {"question": "Where is the mill?", "answer": "By the river.", "evidence": "tells of  MILL 0 by the river"}
    text = json.dumps({"pairs": [fair, {**fair, **BAD[reason]}]})
    report = run(tmp_path, serve(lambda prompt, n: text).teacher("ollama"), 1)
    assert report.rejected == {reason: 1}
    assert rows(tmp_path / "out" / "samples.jsonl")[0]["evidence"] == ["tells of mill 0 by the river"]


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


def test_a_prompt_that_does_not_fit_the_context_is_not_sent(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server = serve()
    with pytest.raises(CirillaError, match="the prompt does not fit the context"):
        run(tmp_path, {**server.teacher("ollama"), "num_ctx": 100}, 1)
    assert not server.asked


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@KINDS
def test_a_server_that_is_down_is_named_with_its_address_and_how_to_start_it(tmp_path: Path, kind: str) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    start = "ollama serve" if kind == "ollama" else "llama-server"
    with pytest.raises(ServiceError, match=re.escape(url)) as caught:
        run(tmp_path, {"kind": kind, "model": "tiny", "url": url})
    assert start in str(caught.value.hint)
    assert caught.value.exit_code == 4


def test_a_model_that_is_missing_is_named_with_the_command_that_gets_it(
    tmp_path: Path, serve: Callable[..., Server]
) -> None:
    with pytest.raises(ServiceError, match="no model `other`") as caught:
        run(tmp_path, {**serve().teacher("ollama"), "model": "other"})
    assert caught.value.hint == "ollama pull other"


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


def test_killed_at_any_moment_a_run_continues_and_ends_with_the_same_bytes(
    tmp_path: Path, serve: Callable[..., Server]
) -> None:
    server = serve(delay=0.05)
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    count, settings = 12, config(tmp_path, server.teacher("ollama"), 12)
    synthesize(settings, tmp_path / "whole", Silent())
    server.asked.clear()
    (tmp_path / "config.json").write_text(settings.model_dump_json())
    code = (
        "import sys; from pathlib import Path; from cirilla_cli.synth.run import synthesize; "
        "from cirilla_cli.progress import Silent; from cirilla_cli.synth.config import SynthConfig; "
        "synthesize(SynthConfig.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), Silent())"
    )
    journal = tmp_path / "cut" / "journal.jsonl"
    for wanted in (3, 7):
        command = [sys.executable, "-c", code, str(tmp_path / "config.json"), str(tmp_path / "cut")]
        process = subprocess.Popen(command, cwd=ROOT)
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < wanted):
            time.sleep(0.01)
        assert journal.read_bytes().count(b"\n") < count, "answers are on record only at the end"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with journal.open("ab") as file:
            file.write(b'{"id": "torn')
    synthesize(settings, tmp_path / "cut", Silent())
    assert (tmp_path / "cut" / "samples.jsonl").read_bytes() == (tmp_path / "whole" / "samples.jsonl").read_bytes()
    on_record = [row["id"] for row in rows(journal)]
    assert len(on_record) == len(set(on_record)) == count
    assert sum(server.asked.values()) <= count + 2 * 2  # twice, at most the two requests under way were lost


def test_a_finished_run_can_be_judged_anew_without_a_server(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server = serve()
    run(tmp_path, server.teacher("ollama"), 3)
    server.http.shutdown()
    server.http.server_close()
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


def test_a_prompt_of_ones_own_is_filled_in_and_must_hold_the_text(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server, prompt = serve(), tmp_path / "prompt.txt"
    prompt.write_text("Be brief {about} it.\nTitle: {title}\nText:\n{text}\n")
    run(tmp_path, server.teacher("ollama"), 1, prompt=str(prompt))
    assert server.bodies[0]["messages"][1]["content"].startswith("Be brief {about} it.\nTitle: Mill 0\nText:\nPage 0")
    prompt.write_text("Nothing to fill in.")
    with pytest.raises(CirillaError, match=r"must hold \{text\}"):
        run(tmp_path, server.teacher("ollama"), 1, prompt=str(prompt))


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


@pytest.mark.parametrize("text", ["vllm:x", "", "ollam:x@http://h"])
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
    assert Completion("x") == Completion("x", False)
