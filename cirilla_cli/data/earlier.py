"""Tokenizer files of earlier tools, completed by what those tools held in their code.

Each is told by content: the ids of its control tokens, the tag in its template, the order of its merges.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cirilla_cli.data.rows import Message
from cirilla_cli.data.template import ChatTemplate
from cirilla_cli.errors import CirillaError

Files = Mapping[str, bytes]

VOCABULARIES = ("vocab.json", "encoder.json")
MERGES = ("merges.txt", "vocab.bpe")
"""Names under which GPT-2's vocabulary and its merges go about, transformers' first."""

_END = "<|endoftext|>"
_GPT2_MERGES = 50_000
_GPT2_CLASSES = (None, "GPT2Tokenizer", "GPT2TokenizerFast")

_CIRILLA = {
    "<unk>": 0, "<pad>": 1, "<mask>": 2, "<sos>": 3, "<eos>": 4, "<|system|>": 5, "<|assistant|>": 6, "<|user|>": 7,
}  # fmt: skip
CIRILLA_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '\\n' }}"
    "{% if loop.last and message['role'] == 'assistant' and not add_generation_prompt %}{{ '<|user|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""What Cirilla trained on: the mark of the next question ends an answer, also the last one."""
_SAID = tuple(Message(role=role, content="a") for role in ("system", "user", "assistant"))
_CIRILLA_SAYS = "<|system|>a\n<|user|>a\n<|assistant|>a\n"

_GENERATION = re.compile(r"\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}")
"""The tag by which transformers finds the assistant's part; other programs refuse a template that has it."""


def completed(files: Files, folder: Path) -> Files:
    """The files of a tokenizer as ours are written; those that lack nothing are returned as they are.

    Args:
        files: by name; ``folder`` is where they come from, for messages.

    Raises:
        CirillaError: a vocabulary and merges that do not say how a text is cut before anything is merged.
    """
    if "tokenizer.json" not in files and any(name in files for name in MERGES):
        made, olds = _byte_level(files, folder), (*VOCABULARIES, *MERGES)
        files = {name: raw for name, raw in files.items() if name not in olds} | {"tokenizer.json": made}
    if "tokenizer.json" not in files:
        return files
    try:
        described, config = json.loads(files["tokenizer.json"]), json.loads(files.get("tokenizer_config.json", b"{}"))
    except ValueError:  # whoever reads them says so
        return files
    if not isinstance(described, dict) or not isinstance(config, dict):
        return files
    special = _special(described)
    if _CIRILLA.items() <= special.items():
        files = _cirilla(files, described, config, folder)
    elif special.keys() == {_END} and config.get("eos_token") is None:
        ends = {f"{name}_token": _END for name in ("bos", "eos", "unk")}
        files = {**files, "tokenizer_config.json": _json(config | ends)}
    return _without_tag(files)


def _special(described: Mapping[str, Any]) -> dict[str, int]:
    tokens = described.get("added_tokens")
    listed = [token for token in tokens if isinstance(token, dict)] if isinstance(tokens, list) else []
    return {str(token.get("content")): token.get("id", -1) for token in listed if token.get("special")}


def _cirilla(files: Files, described: dict[str, Any], config: dict[str, Any], folder: Path) -> Files:
    """With the ends of its documents and turns, which its data loader put there."""
    done = dict(files)
    if described.get("post_processor") is None:
        begin = {"SpecialToken": {"id": "<sos>", "type_id": 0}}
        one, two = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
        known = {"<sos>": {"id": "<sos>", "ids": [_CIRILLA["<sos>"]], "tokens": ["<sos>"]}}
        framed = {"type": "TemplateProcessing", "single": [begin, one], "pair": [begin, one, two]}
        done["tokenizer.json"] = _json(described | {"post_processor": framed | {"special_tokens": known}})
    if "chat_template.jinja" not in files and _says_as_cirilla(config.get("chat_template"), folder):
        config = {key: value for key, value in config.items() if key != "chat_template"}
        done["chat_template.jinja"] = CIRILLA_TEMPLATE.encode()
    names = {"bos": "<sos>", "eos": "<eos>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    done["tokenizer_config.json"] = _json({f"{name}_token": token for name, token in names.items()} | config)
    done.setdefault("generation_config.json", _json({"eos_token_id": [_CIRILLA["<|user|>"], _CIRILLA["<eos>"]]}))
    return done


def _says_as_cirilla(template: Any, folder: Path) -> bool:
    """Whether there is no template, or one that renders as Cirilla's own did."""
    if not isinstance(template, str):
        return template is None
    try:
        return ChatTemplate(template, (), {}, folder).render(_SAID, False) == _CIRILLA_SAYS
    except CirillaError:
        return False


def _without_tag(files: Files) -> Files:
    """The tag becomes a comment, which trims the same spaces around it, so the text stays the same."""
    config = json.loads(files.get("tokenizer_config.json", b"{}"))
    held, file = config.get("chat_template"), files.get("chat_template.jinja")
    text = held if file is None else file.decode("utf-8", "replace")
    if not isinstance(text, str) or not _GENERATION.search(text):
        return files
    config.pop("chat_template", None)
    plain = _GENERATION.sub(r"{#\1 \2#}", text).encode()
    return {**files, "tokenizer_config.json": _json(config), "chat_template.jinja": plain}


def _byte_level(files: Files, folder: Path) -> bytes:
    """GPT-2's tokenizer, from its merges and, where it is there, its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    name = next(name for name in MERGES if name in files)
    merges = _merges(files[name], folder / name)
    vocab = _vocabulary(files, folder)
    if vocab is None:
        vocab = {piece: id for id, piece in enumerate([*_alphabet(), *(left + right for left, right in merges), _END])}
    kind = json.loads(files.get("tokenizer_config.json", b"{}")).get("tokenizer_class")
    if kind not in _GPT2_CLASSES or (kind is None and len(merges) > _GPT2_MERGES):
        raise CirillaError(
            f"{folder / name}: merges of {kind or 'another model than GPT-2'}, which do not say how a text is cut "
            "before anything is merged",
            hint="take the tokenizer.json of that model",
        )
    try:
        made = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception for every mistake
        raise CirillaError(f"{folder / name}: does not fit its vocabulary: {error}") from None
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if _END in vocab:
        made.add_special_tokens([_END])
    return str(made.to_str()).encode()


def _merges(raw: bytes, file: Path) -> list[tuple[str, str]]:
    lines = raw.decode("utf-8", "replace").split("\n")
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    if odd := [number for number, pair in enumerate(pairs, 1) if len(pair) != 2]:
        raise CirillaError(f"{file}: merge {odd[0]} is not two pieces with a space between them")
    return [(left, right) for left, right in pairs]


def _vocabulary(files: Files, folder: Path) -> dict[str, int] | None:
    name = next((name for name in VOCABULARIES if name in files), None)
    if name is None:
        return None
    try:
        found = json.loads(files[name])
    except ValueError as error:
        raise CirillaError(f"{folder / name}: not JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(id, int) for id in found.values()):
        raise CirillaError(f"{folder / name}: must be an object of pieces and their ids")
    return found


def _alphabet() -> list[str]:
    """The 256 bytes in GPT-2's order: printable ones as themselves, then the others as characters from 256 on."""
    plain = [chr(byte) for byte in (*range(33, 127), *range(161, 173), *range(174, 256))]
    return plain + [chr(256 + place) for place in range(256 - len(plain))]


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
