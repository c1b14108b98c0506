"""Token files of other trainers, read back into documents with the tokenizer they were made with.

Ids are read, split where a document begins or ends, and decoded: the text can then be tokenized with any tokenizer.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cirilla_cli.data.formats.drafts import Text
from cirilla_cli.data.formats.sniff import FINEWEB_MAGIC
from cirilla_cli.data.tokenizer import Tokenizer, load_tokenizer
from cirilla_cli.errors import CirillaError

_HEADER = 256
"""Numbers before the tokens of a FineWeb or modded-nanogpt file: magic, version, how many tokens, then zeros."""
_SPAN = 1 << 22
"""Tokens that are looked through at once."""


def bin_documents(path: Path, *, header: bool) -> Iterator[Text]:
    """The documents of a token file; its tokenizer lies in the same folder, or in `tokenizer/` there.

    Raises:
        CirillaError: the tokenizer is missing or is another one, or the file is cut.
    """
    tokenizer = _tokenizer(path)
    ids = _ids(path, header=header)
    ends = _ends(ids, _borders(tokenizer, path), tokenizer.vocab_size, path)
    start = number = 0
    for end in ends:
        text = tokenizer.decode(ids[start:end].tolist())
        if text.strip():
            number += 1
            yield Text(f"{path.stem} {number}", text)
        start = end


def _tokenizer(path: Path) -> Tokenizer:
    try:
        return load_tokenizer(path.parent)
    except CirillaError:
        raise CirillaError(
            f"{path}: token ids, and no tokenizer in {path.parent} to read them with",
            hint=f"put the tokenizer.json they were made with there, or into {path.parent / 'tokenizer'}",
        ) from None


def _ids(path: Path, *, header: bool) -> NDArray[np.uint16]:
    skipped = 4 * _HEADER if header else 0
    size = path.stat().st_size - skipped
    if size % 2 or size < 0:
        raise CirillaError(f"{path}: {path.stat().st_size} bytes, which is no whole number of two-byte ids")
    if header:
        magic, version, count = np.fromfile(path, "<i4", 3).tolist()
        if (magic, version) != (FINEWEB_MAGIC, 1):
            raise CirillaError(f"{path}: version {version} of this format is not known, only 1")
        if count != size // 2:
            raise CirillaError(f"{path}: its header says {count} tokens, it holds {size // 2}", hint="download it anew")
    if not size:
        return np.zeros(0, "<u2")
    return np.asarray(np.memmap(path, dtype="<u2", mode="r", offset=skipped))


def _borders(tokenizer: Tokenizer, path: Path) -> NDArray[np.uint16]:
    """The ids between documents: what the tokenizer puts around one, and its ends of text."""
    ids = sorted({*tokenizer.document([]), *tokenizer.stop_ids})
    if not ids:
        raise CirillaError(f"{path}: its tokenizer ends no document, so that they cannot be told apart")
    return np.asarray(ids, "<u2")


def _ends(ids: NDArray[np.uint16], borders: NDArray[np.uint16], vocab: int, path: Path) -> Iterator[int]:
    """Where each document ends: behind a border, and at the end of the file."""
    for start in range(0, len(ids), _SPAN):
        span: Any = ids[start : start + _SPAN]
        if int(span.max()) >= vocab:
            at = start + int(np.argmax(span >= vocab))
            raise CirillaError(
                f"{path}: token {at} has the id {ids[at]}, and the tokenizer beside it knows {vocab}",
                hint="this file was made with another tokenizer, or is no file of two-byte token ids",
            )
        yield from (start + int(i) + 1 for i in np.flatnonzero(np.isin(span, borders)))
    if len(ids):
        yield len(ids)
