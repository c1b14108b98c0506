"""A teacher for tests: a real HTTP server on loopback that speaks both protocols and misbehaves on demand."""

import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

from cirilla_cli.data.rows import Document
from cirilla_cli.progress import Silent
from cirilla_cli.synth.config import StrategySection, SynthConfig
from cirilla_cli.synth.run import SynthReport, synthesize

STRATEGIES = [section.model_fields["kind"].default for section in get_args(get_args(StrategySection)[0])]
"""Every way of asking."""

KEY = "sk-not-to-be-seen"

Fault = Callable[[str, int], str | None]
"""From a prompt and how often it came before: the name of a fault below, words to answer with, or None (it is well)."""

STATUS = {
    "busy": (503, "server busy, please try again"), "limited": (429, "slow down"), "broken": (500, "out of memory"),
    "refused": (400, f"bad request with {KEY}"), "forbidden": (401, f"bad key {KEY}"),
    "too long": (400, "This model's maximum context length is 4096 tokens"),
}  # fmt: skip
BODIES = {
    "torn": b'{"half', "html": b"<html>Just a proxy</html>", "odd": b'{"an": "error"}', "empty body": b"",
    "null": b"null",
}  # fmt: skip
TEXTS = {
    "prose": "Certainly! Here is what you asked for.",
    "no text": "",
    "fields missing": '{"pairs": [{"question": "Why?"}]}',
    "broken off": '{"pairs": [{"question": "Wh',
    "many digits": '{"pairs": ' + "9" * 5000 + "}",
    "nested": '{"pairs": ' + "[" * 100_000,
    "half a character": '{"pairs": [{"question": "\\ud83d?", "answer": "\\ud83d", "evidence": "\\ud83d"}]}',
    "endless thinking": "<think>Let me see. The user wants JSON, so",
}  # fmt: skip
CHINESE = {
    "question": "\u8fd9\u4e2a\u78e8\u574a\u5728\u54ea\u91cc\uff1f?",
    "answer": "\u5728\u6cb3\u8fb9\u3002",
    "evidence": "stands by the river",
}
TEXTS_ABROAD = {"Chinese": json.dumps({"pairs": [CHINESE]})}


def page(number: int, sentences: int = 5) -> str:
    """The text of a page about a mill, each sentence of its own."""
    told = [
        f"Page {number} tells of mill {number}, which stands by the river and was built of stone.",
        f"It turned {number + 3} times in the hour when the water of the river was high.",
        "The miller lived in the house that is beside it, and he had a dog and a cat.",
        "In the winter the wheel was still, because the river was under ice for weeks.",
        "The flour of the mill went to the town, where it was sold to the bakers.",
    ]
    more = [f"In the year {1000 + n} there was a flood, and the mill was built again of oak." for n in range(sentences)]
    return " ".join((told + more)[:sentences])


def shown(prompt: str) -> tuple[str, list[str]]:
    """Title and sentences of the page in a prompt."""
    title = re.search(r"Title: (.*)", prompt)
    text = re.search(r"\[\[page (\w+)\]\]\n(.*?)\n\[\[end of page \1\]\]", prompt, re.DOTALL)
    assert title is not None
    assert text is not None
    return title[1], [sentence.strip() for sentence in re.findall(r"[^.]+\.", text[2])]


def prompt_of(body: dict[str, Any]) -> str:
    """What is asked, in a chat or in a raw prompt."""
    raw = body.get("prompt")
    return str(raw if raw is not None else body["messages"][1]["content"])


def drawn(body: dict[str, Any]) -> str:
    """What follows an open user's turn; another question for other seeds, and the turn's end with more behind it."""
    title, sentences = shown(body["prompt"])
    number = body.get("options", body)["seed"] % 8
    end = body["options"]["stop"][0] if "options" in body else body["stop"][0]
    assert body["prompt"].endswith("user\n" if end == "<|im_end|>" else "user<|end_header_id|>\n\n")
    asks = turn("- ".join(["\n"] * (number + 1)), title, sentences)["question"]
    return f" {asks}{end}\nassistant: It is so."


def good(body: dict[str, Any]) -> str:
    """The answer of a teacher that has read its page and the schema."""
    if "prompt" in body:
        return drawn(body)
    form = body.get("format") or body["response_format"]["json_schema"]["schema"]
    prompt, asked = body["messages"][1]["content"], set(form["required"])
    title, sentences = shown(prompt)
    said = sentences[0]
    if asked == {"pairs"}:
        return json.dumps({"pairs": [{"question": f"What is told of {title}?", "answer": said, "evidence": said}]})
    if asked == {"summary", "evidence"}:
        return json.dumps({"summary": f"In short, {said[0].lower()}{said[1:]}", "evidence": [said]})
    if "summary" in asked:
        whole = {"question": f"What is there to know of {title}?", "summary": f"In short, {said[0].lower()}{said[1:]}"}
        return json.dumps(whole | ({"evidence": sentences[:2]} if "evidence" in asked else {}))
    if asked == {"question", "steps", "answer"}:
        told = turn(prompt, title, sentences)
        steps = [{"says": f"It is known: {said}", "evidence": said} for said in (sentences[-1], told["evidence"])]
        steps += [{"says": "So it goes on.", "evidence": sentences[0]}]
        return json.dumps({"question": told["question"], "steps": steps, "answer": told["answer"]})
    if asked == {"text"}:
        return json.dumps({"text": reworded(title, sentences, prompt)})
    if "grounded" in asked:
        return json.dumps({"grounded": 5, "relevant": 5, "clear": 4, "evidence": sentences[0]})
    if asked == {"question"}:
        return json.dumps({"question": turn(prompt, title, sentences)["question"]})
    if asked == {"answer", "evidence"}:
        said = sentences[len(prompt) % len(sentences)]
        return json.dumps({"answer": said, "evidence": said})
    if asked == {"answer"}:
        return json.dumps({"answer": "It belonged to a certain Foltest of Temeria, who had it built there."})
    return json.dumps(turn(prompt, title, sentences))


def reworded(title: str, sentences: list[str], prompt: str) -> str:
    """Each sentence from its end to its beginning, some words at a time, other ones in each style."""
    size = next((n for n, word in enumerate(["child", "encyclopedia", "densely"], 4) if word in prompt), 3)
    words = [sentence.rstrip(".").split() for sentence in sentences]
    parts = [[" ".join(told[at : at + size]) for at in range(0, len(told), size)] for told in words]
    said = [f"There is this: {', '.join(reversed(part))}." for part in parts]
    return "\n".join(f"What of {title}?\n{one}" if size == 3 else one for one in said)


def turn(prompt: str, title: str, sentences: list[str]) -> dict[str, str]:
    """A question that was not asked before, and a verdict where one is asked for."""
    wish = re.search(r'answer begins with "(\w+)"', prompt)
    number = prompt.count("Question: ") + prompt.count("\n- ")
    asks = ["Where", "How often", "Who", "When", "For whom", "Why", "By what means", "To what end"]
    if "Make a new question" in prompt:  # of the one that is shown, which was its own
        told = prompt.partition("Question: ")[2]
        number = 1 + next(n for n, word in enumerate(asks) if told.startswith(word))
    said = sentences[number % len(sentences)]
    words = [*title.split(), *said.split()[:number]]
    verdict = f"{wish[1]}, since it is so: " if wish else ""
    return {"question": f"{asks[number % 8]} {' '.join(words)}?", "answer": f"{verdict}{said}", "evidence": said}


class Server:
    """Answers as `good` does, unless ``fault(prompt, n)`` names something else for the n-th time of a prompt (from 0).

    ``before(number)`` is called with the number of all requests so far, before each is answered.
    """

    def __init__(
        self, fault: Fault = lambda prompt, n: None, before: Callable[[int], str | None] | None = None
    ) -> None:
        self.asked: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.fault, self.before = fault, before
        self.models: list[dict[str, str]] = [{"model": "tiny"}]
        self.lock, self.over = threading.Lock(), threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def teacher(self, kind: str, **more: Any) -> dict[str, Any]:
        """The recipe's section for this server."""
        patient = {"kind": kind, "model": "tiny", "timeout": 5.0, "patience": 20.0}
        return {**patient, "url": self.url if kind == "ollama" else f"{self.url}/v1", **more}

    def close(self) -> None:
        """Stop answering."""
        self.over.set()
        self.http.shutdown()
        self.http.server_close()

    def noted(self, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, int]:
        """How often this prompt, and how often anything, was asked before."""
        prompt = prompt_of(body)
        with self.lock:
            n, total = self.asked[prompt], len(self.bodies)
            self.asked[prompt] += 1
            self.requests[json.dumps(body, sort_keys=True)] += 1
            self.bodies.append(body)
            self.headers.append(headers)
        return n, total


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    """The protocol of ``server``."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None: ...

        def do_GET(self) -> None:
            self.reply(200, json.dumps({"data": [], "models": server.models}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if body["model"] != "tiny":
                return self.reply(404, json.dumps({"error": f"model '{body['model']}' not found"}).encode())
            if self.path == "/api/show":
                return self.reply(200, b"{}")
            n, total = server.noted(body, dict(self.headers))
            fault = server.before(total) if server.before else None
            return self.answer(body, fault or server.fault(prompt_of(body), n))

        def answer(self, body: dict[str, Any], fault: str | None) -> None:
            if fault in STATUS:
                status, said = STATUS[fault]
                return self.reply(status, json.dumps({"error": said}).encode())
            if fault in BODIES:
                return self.reply(200, BODIES[fault])
            if fault == "slow":
                server.over.wait(2.0)
            if fault in ("closed", "slow"):
                return self.drop()
            if fault in ("thinking", "thinking, half marked"):
                opened = "<think>" if fault == "thinking" else ""
                return self.chat(f"{opened}A mill {{of pairs}}...</think>\n```json\n{good(body)}\n```", "stop")
            if fault == "full":
                return self.chat(good(body), "stop", read=body["options"]["num_ctx"] - 9)
            if fault == "holds less":
                return self.chat(good(body), "stop", read=50)
            if fault == "length":
                return self.chat(good(body)[:-9], "length")
            return self.chat(
                (TEXTS | TEXTS_ABROAD).get(str(fault), fault or good(body)), "stop", cut=fault == "half a body"
            )

        def drop(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def chat(self, text: str, reason: str, *, cut: bool = False, read: int = 1000) -> None:
            message: dict[str, Any] = {"role": "assistant", "content": text}
            if self.path == "/api/chat":
                counts = {"prompt_eval_count": read, "eval_count": 10}
                value = {"model": "tiny", "message": message, "done": True, "done_reason": reason, **counts}
            elif self.path == "/api/generate":
                counts = {"prompt_eval_count": read, "eval_count": 10}
                value = {"model": "tiny", "response": text, "done": True, "done_reason": reason, **counts}
            else:
                usage = {"prompt_tokens": 100, "completion_tokens": 10}
                said = {"text": text} if self.path == "/v1/completions" else {"message": message}
                value = {"choices": [{**said, "finish_reason": reason}], "usage": usage}
            self.reply(200, json.dumps(value).encode(), cut=cut)

        def reply(self, status: int, data: bytes, *, cut: bool = False) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status == 429:
                self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if cut else data)
            if cut:
                self.close_connection = True

    return Handler


def documents(folder: Path, count: int, sentences: int = 5) -> Path:
    """A file of ``count`` pages."""
    path = folder / "documents.jsonl"
    rows = [Document(id=str(n), title=f"Mill {n}", text=page(n, sentences)).line() for n in range(count)]
    path.write_text("\n".join(rows) + "\n")
    return path


def config(folder: Path, teacher: dict[str, Any], count: int = 4, sentences: int = 5, **options: Any) -> SynthConfig:
    """A section that asks about ``count`` pages."""
    source = {"kind": "teacher", "teacher": teacher, "workers": 2, "max_tokens": 64, **options}
    return SynthConfig.model_validate({"source": source, "inputs": str(documents(folder, count, sentences))})


def run(folder: Path, teacher: dict[str, Any], count: int = 4, out: str = "out", **options: Any) -> SynthReport:
    """Make samples of ``count`` pages in ``folder / out``."""
    return synthesize(config(folder, teacher, count, **options), folder / out, Silent())


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
