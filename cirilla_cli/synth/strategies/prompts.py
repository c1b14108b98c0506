"""The words of requests: built in, or a user's own text files with the same placeholders."""

import re
from collections.abc import Mapping
from pathlib import Path

from cirilla_cli.errors import CirillaError

PAGE = "Title: {title}\nText:\n{text}\n\n"
"""The page's title on one line, and its text between marks."""
DIFFERENT = "Ask about something else than these questions do, which were asked before:"
_HOLE = re.compile(r"\{(\w+)\}")


def filled(prompt: str, values: Mapping[str, object]) -> str:
    """``prompt`` with its placeholders filled in; braces in what is filled in stay as they are."""
    return _HOLE.sub(lambda match: str(values[match[1]]), prompt)


def holes(prompt: str) -> list[str]:
    """The placeholders of a prompt, each once."""
    return list(dict.fromkeys(_HOLE.findall(prompt)))


def chosen(built_in: Mapping[str, str], own: Mapping[str, Path]) -> dict[str, str]:
    """The prompts of a strategy by name, the user's own in the place of those built in.

    Raises:
        CirillaError: files that cannot be read, or whose placeholders are not those of the prompt; all at once.
    """
    prompts, mistakes = dict(built_in), list[str]()
    for name, path in own.items():
        try:
            prompts[name] = path.read_text(encoding="utf-8")
            wrong = _misfits(prompts[name], built_in[name])
        except (OSError, UnicodeDecodeError) as error:
            wrong = f"cannot be read as a prompt ({error})"
        mistakes += [f"`synth.source.strategy.prompts.{name}` is {path}: {wrong}"] if wrong else []
    if mistakes:
        told = (f"{name} holds {_braced(holes(built_in[name]))}" for name in own)
        raise CirillaError("\n".join(mistakes), hint=f"{'; '.join(told)}; braces of your own stand apart: {{ so }}")
    return prompts


def _misfits(prompt: str, built_in: str) -> str:
    """What is wrong with a prompt's placeholders; nothing where they are those of the one built in."""
    there, wanted = holes(prompt), holes(built_in)
    missing, unknown = [hole for hole in wanted if hole not in there], [hole for hole in there if hole not in wanted]
    lacks = f"must hold {_braced(missing)}" if missing else ""
    return "; ".join(filter(None, [lacks, f"nothing is known to put into {_braced(unknown)}" if unknown else ""]))


def _braced(names: list[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)


def earlier(asked: list[str]) -> str:
    """The end of a prompt that wants another question than those before; nothing where there are none."""
    return "\n".join([f"\n{DIFFERENT}", *(f"- {question}" for question in asked)]) if asked else ""
