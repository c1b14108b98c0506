"""Tokenizers of models that read whole documents: other programs must frame a text as our training did."""

from pathlib import Path
from typing import Any

from cirilla_cli.data.tokenizer import Tokenizer
from cirilla_cli.fs import read_json, write_json, write_text


def ends_of(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What stands before and behind the text of a document."""
    begin = tokenizer.bos_ids
    return begin, tokenizer.document([])[len(begin) :]


def document_ids(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Token ids for config.json; null without a tokenizer, because transformers would fill in its own."""
    begin, end = ([], []) if tokenizer is None else ends_of(tokenizer)
    first, last = next(iter(begin), None), next(reversed(end), None)
    # A decoder's classifier judges the last token that is not padding: what ends a document cannot be both.
    pad = None if tokenizer is None or tokenizer.pad_id == last else tokenizer.pad_id
    return {
        "bos_token_id": first, "eos_token_id": last, "pad_token_id": pad, "cls_token_id": first, "sep_token_id": last,
    }  # fmt: skip


def frame_documents(tokenizer: Tokenizer, folder: Path, context_length: int) -> None:
    """Rewrite the tokenizer in an export: a text gets its document's begin and end, and is cut to the context."""
    from tokenizers import Tokenizer as Fast

    fast = Fast.from_file(str(folder / "tokenizer.json"))
    config = folder / "tokenizer_config.json"
    said = read_json(config) if config.is_file() else {}
    if fast.encode("a").ids != tokenizer.document(tokenizer.encode("a")):
        said |= _framed(fast, *ends_of(tokenizer))
        write_text(folder / "tokenizer.json", fast.to_str(pretty=False) + "\n")
    write_json(config, {**said, "model_max_length": context_length})
    (folder / "chat_template.jinja").unlink(missing_ok=True)


def _framed(fast: Any, begin: list[int], end: list[int]) -> dict[str, Any]:
    """Give a tokenizer these ends; returns what tokenizer_config.json must say of them."""
    from tokenizers import processors

    before, behind = ([fast.id_to_token(id) for id in ids] for ids in (begin, end))
    one, two = (" ".join([*start, text, *behind]) for start, text in ((before, "$A"), ([], "$B")))
    known = list(zip([*before, *behind], [*begin, *end], strict=True))
    fast.post_processor = processors.TemplateProcessing(single=one, pair=f"{one} {two}", special_tokens=known)
    named = {f"{name}_token": before[0] for name in ("bos", "cls") if before}
    named |= {f"{name}_token": behind[-1] for name in ("eos", "sep") if behind}
    return {**named, "add_bos_token": bool(before), "add_eos_token": bool(behind)}
