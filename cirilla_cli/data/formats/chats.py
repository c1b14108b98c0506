"""Rows that hold a conversation, in the spellings people have."""

from typing import Any

from cirilla_cli.data.formats.drafts import Chat, NotThat, Turn, answered, exchange, optional, texts, turns_of

Data = dict[str, Any]


def conversation(data: Data) -> Chat:
    """`messages`, `conversations` (ShareGPT, Belle) or `conversation`: a list of turns."""
    key = next(key for key in ("conversations", "messages", "conversation") if key in data)
    system = data.get("system")
    before = [{"role": "system", "content": system}] if isinstance(system, str) and system.strip() else []
    turns = turns_of(data[key])
    if before and turns[:1] and turns[0]["role"] == "system":
        raise NotThat("`system` is given, and the conversation begins with a system turn too")
    return chat(data, before + turns)


def chat(data: Data, turns: list[Turn]) -> Chat:
    """The conversation ``turns`` with what a row says about it."""
    turns, note = answered(turns)
    metadata = data.get("metadata")
    contexts = metadata.get("contexts") if isinstance(metadata, dict) else None
    subject = data.get("subject") or data.get("id")
    return Chat(
        turns, None if subject is None else str(subject), str(data.get("source") or "import"),
        optional(data.get("model")), texts(contexts if isinstance(contexts, list) else ()), (), note,
    )  # fmt: skip


def question_answer(data: Data) -> Chat:
    """`question` and `answer`: the files a teacher left, and their collection `clean.jsonl`."""
    return chat(data, exchange(data["question"], data["answer"], ("question", "answer")))


def alpaca(data: Data) -> Chat:
    """`instruction`, perhaps `input`, and `output`; `system` and earlier turns in `history` where they are given."""
    asked = _asked(data["instruction"], data.get("input"), "input")
    turns = exchange(asked, data["output"], ("instruction", "output"))
    return chat(data, [*_system(data), *_history(data.get("history")), *turns])


def dolly(data: Data) -> Chat:
    """`instruction`, perhaps `context`, and `response`."""
    asked = _asked(data["instruction"], data.get("context"), "context")
    return chat(data, [*_system(data), *exchange(asked, data["response"], ("instruction", "response"))])


def prompt_completion(data: Data) -> Chat:
    """`prompt` and `completion` (or `response`), each a string or a list of turns; with `label`, good ones alone."""
    key = "completion" if "completion" in data else "response"
    label = data.get("label")
    if isinstance(label, bool) and not label:
        raise NotThat("`label` is false: an undesirable answer, which must not be learned")
    prompt, completion = data["prompt"], data[key]
    if isinstance(prompt, list):
        ending = completion if isinstance(completion, list) else [{"role": "assistant", "content": completion}]
        return chat(data, turns_of(prompt, what="`prompt`") + turns_of(ending, what=f"`{key}`"))
    if isinstance(completion, list):
        completion = "".join(turn["content"] for turn in turns_of(completion, what=f"`{key}`"))
    return chat(data, [*_system(data), *exchange(prompt, completion, ("prompt", key))])


def multi_turn(items: list[Any], subject: str, teacher: str | None) -> Chat:
    """A file of `{question, answer, context}`, one a turn: one conversation, whose contexts name its documents."""
    turns: list[Turn] = []
    for number, item in enumerate(items, 1):
        try:
            turns += exchange(item["question"], item["answer"], ("question", "answer"))
        except NotThat as error:
            raise NotThat(f"turn {number}: {error}") from None
    parents = texts(item.get("context") for item in items)
    return Chat(turns, parents[0] if parents else subject, "import", teacher, parents)


def _asked(instruction: Any, more: Any, name: str) -> Any:
    if more is not None and not isinstance(more, str):
        raise NotThat(f"`{name}` must be a string")
    return f"{instruction}\n\n{more}" if isinstance(instruction, str) and more and more.strip() else instruction


def _system(data: Data) -> list[Turn]:
    system = data.get("system")
    if system is not None and not isinstance(system, str):
        raise NotThat("`system` must be a string")
    return [{"role": "system", "content": system}] if system and system.strip() else []


def _history(history: Any) -> list[Turn]:
    if history is None:
        return []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise NotThat("`history` must be a list of [question, answer]")
    return [turn for pair in history for turn in exchange(pair[0], pair[1], ("history", "history"))]
