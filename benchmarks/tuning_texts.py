"""Conversations and preference pairs for `train_peers.py`: one tokenizer, rows as each system wants them."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cirilla_cli.data.config import SentencePieceConfig
from cirilla_cli.data.encode import answered
from cirilla_cli.data.rows import Message
from cirilla_cli.data.sentencepiece import train
from cirilla_cli.data.shards import Encoded, Kind, ShardIndex, write_shard
from cirilla_cli.data.tokenizer import Tokenizer
from cirilla_cli.fs import write_json

VOCABULARY = 8192
Turns = list[dict[str, str]]


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a file of JSON lines."""
    return (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())


def chats(path: Path) -> list[dict[str, Any]]:
    """Prompt and completion of conversations: `messages`, the older `text`, or `question` and `answer`."""
    found = []
    for row in lines(path):
        turns: Turns = row.get("messages") or row.get("text") or turns_of(row["question"], row["answer"])
        found.append({"prompt": turns[:-1], "completion": turns[-1:]})
    return found


def turns_of(question: str, answer: str) -> Turns:
    """A conversation of one turn each."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def pairs(path: Path) -> list[dict[str, Any]]:
    """Preferences: `prompt`, `chosen` and `rejected`, or a question with answers of models that are right or wrong."""
    found = []
    for row in lines(path):
        answers = [v for v in row.values() if isinstance(v, dict) and "is_correct" in v]
        right = row.get("chosen") or next((a["solution"] for a in answers if a["is_correct"]), None)
        wrong = row.get("rejected") or next((a["solution"] for a in answers if not a["is_correct"]), None)
        if right and wrong:
            asked, chosen = turns_of(row.get("prompt") or row["question"], right)
            found.append({"prompt": [asked], "chosen": [chosen], "rejected": turns_of("", wrong)[1:]})
    return found


def prepare(rows: list[dict[str, Any]], out: Path) -> Path:
    """A folder with `rows.jsonl` for the peer, shards for us, and the tokenizer for both."""
    out.mkdir(parents=True)
    answers = [key for key in ("completion", "chosen", "rejected") if key in rows[0]]
    texts = [turn["content"] for row in rows for key in ("prompt", *answers) for turn in row[key]]
    tokenizer = train(SentencePieceConfig(vocab_size=VOCABULARY), texts)
    tokenizer.save(out / "tokenizer")
    documents = [encoded(row["prompt"], row[key], tokenizer) for row in rows for key in answers]
    info = write_shard(out, "train-00000", documents, VOCABULARY)
    kind: Kind = "chat" if answers == ["completion"] else "preference"
    index = ShardIndex(kind, "<u2", VOCABULARY, tokenizer.hash, {"train": [info]}, [], {})
    write_json(out / "index.json", asdict(index))
    (out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return out


def encoded(prompt: Turns, answer: Turns, tokenizer: Tokenizer) -> Encoded:
    """Prompt and answer, of which the answer is trained on."""
    messages = [Message(role=turn["role"], content=turn["content"]) for turn in prompt]  # type: ignore[arg-type]
    return answered(messages, answer[0]["content"], tokenizer)
