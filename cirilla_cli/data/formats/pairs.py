"""Rows that hold a better and a worse answer, in the spellings people have."""

import re
from typing import Any

from cirilla_cli.data.formats.drafts import NotThat, Pair, Turn, turns_of

Data = dict[str, Any]

_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")
"""How Anthropic's HH writes a dialogue into one string."""


def preference(data: Data) -> Pair:
    """`chosen` and `rejected`, each an answer, a list of turns or a dialogue; the prompt beside them or within them."""
    asked = data.get("prompt", data.get("question"))
    chosen, rejected = (_said(data[key], key, asked) for key in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise NotThat("`chosen` and `rejected` answer different prompts")
    prompt = _prompt(asked, chosen[:-1])
    system = data.get("system")
    if isinstance(system, str) and system.strip() and prompt[0]["role"] != "system":
        prompt = [{"role": "system", "content": system}, *prompt]
    return pair(data, prompt, chosen[-1]["content"], rejected[-1]["content"])


def scored_completions(data: Data) -> Pair:
    """`instruction` and scored `completions` (UltraFeedback): the best against the worst."""
    completions = data["completions"]
    if not isinstance(completions, list) or not all(isinstance(c, dict) for c in completions):
        raise NotThat("`completions` must be a list of objects")
    scored = [(_score(c, n), c.get("response")) for n, c in enumerate(completions, 1)]
    prompt = turns_of([{"role": "user", "content": data["instruction"]}], what="`instruction`")
    if not scored:
        raise NotThat("`completions` is empty")
    best, worst = max(scored, key=lambda s: s[0]), min(scored, key=lambda s: s[0])
    if best[0] == worst[0]:
        raise NotThat("no completion has a better score than another")
    if not isinstance(best[1], str) or not isinstance(worst[1], str):
        raise NotThat("a completion's `response` must be a string")
    return pair(data, prompt, best[1], worst[1], "completions between the best and the worst left out")


def pair(data: Data, prompt: list[Turn], chosen: str, rejected: str, note: str | None = None) -> Pair:
    """A pair with what a row says about it.

    Raises:
        NotThat: nobody asks, or the answers are empty or the same.
    """
    if not prompt or prompt[-1]["role"] != "user":
        raise NotThat("`prompt` must end with the user's turn")
    if chosen == rejected:
        raise NotThat("`chosen` and `rejected` are the same answer")
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer.strip():
            raise NotThat(f"`{name}` is empty")
    key = data.get("split_key") or data.get("subject") or data.get("prompt_id") or data.get("id")
    return Pair(prompt, chosen, rejected, None if key is None else str(key), str(data.get("source") or "import"), note)


def _said(value: Any, name: str, asked: Any) -> list[Turn]:
    """The turns of one side, of which the last is the answer."""
    if isinstance(value, str):
        if asked is None:
            value = _dialogue(value, name)
        else:
            return [{"role": "assistant", "content": value}]
    if not isinstance(value, list):
        raise NotThat(f"`{name}` must be a string or a list of turns")
    turns = turns_of(value, what=f"`{name}`")
    if not turns or turns[-1]["role"] != "assistant":
        raise NotThat(f"`{name}` must end with the assistant's turn")
    return turns


def _prompt(asked: Any, within: list[Turn]) -> list[Turn]:
    """The prompt beside the answers, or the one within them where it says at least as much."""
    if asked is None:
        return within
    if not isinstance(asked, str | list):
        raise NotThat("`prompt` must be a string or a list of turns")
    beside = turns_of([{"role": "user", "content": asked}] if isinstance(asked, str) else asked, what="`prompt`")
    if not within or within == beside:
        return beside
    if any(turn in within for turn in beside):
        return within
    raise NotThat("`prompt` is not what `chosen` and `rejected` answer")


def _dialogue(text: str, name: str) -> list[Turn]:
    parts = _SPEAKER.split(text)
    if len(parts) < 5 or parts[0].strip():
        raise NotThat(f"there is no `prompt`, and `{name}` is no dialogue of Human: and Assistant:")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(parts[1::2], parts[2::2], strict=True)]


def _score(completion: Data, number: int) -> float:
    score = completion.get("overall_score", completion.get("score"))
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise NotThat(f"completion {number} has no number in `overall_score` or `score`")
    return float(score)
