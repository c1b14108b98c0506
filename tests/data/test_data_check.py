"""The fast check of rows says what reading them says: no more is taken, no more refused, the same lines named."""

import json
import random
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from cirilla_cli.data.inputs import check_inputs, read_inputs
from cirilla_cli.errors import CirillaError

CORRUPTIONS = runpy.run_path(str(Path(__file__).with_name("corruptions.py")))
KINDS: dict[str, Callable[[bytes], bytes]] = CORRUPTIONS["KINDS"]
good_rows = CORRUPTIONS["good_rows"]

LINES = [json.dumps(row, ensure_ascii=False).encode() for kind in ("document", "chat") for row in good_rows(kind, 70)]


def spoilt(name: str, line: int) -> bytes:
    """140 good lines of both kinds, of which one is not; a torn one is the last."""
    lines = [raw + b"\n" for raw in LINES]
    lines[line] = KINDS[name](LINES[line])
    return b"".join(lines)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_corruption_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    for line in [139] if name == "torn last line" else [0, 63, 64, 101]:
        path = tmp_path / "rows.jsonl"
        path.write_bytes(spoilt(name, line))
        with pytest.raises(CirillaError) as caught:
            check_inputs([path])
        assert {(where.file, where.line) for where in caught.value.where} == {(str(path), line + 1)}


def test_good_rows_are_counted_and_blank_lines_are_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(LINES[:65]) + b"\n\n\r\n" + b"\r\n".join(LINES[65:]))
    assert check_inputs([path, path]) == 280


def test_a_quote_written_as_a_number_hides_no_repeated_key(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "1", "title": "\\u0022\\u0022\\u0022\\u0022", "text": "a", "text": "b"}\n')
    with pytest.raises(CirillaError, match="`text` stands twice"):
        check_inputs([path])


CHANGES: list[Callable[[bytes], bytes]] = [
    lambda raw: raw.replace(b'": ', b'" \t : '),
    lambda raw: raw.replace(b'"id": "', b'"id": "\\u0022\\n'),
    lambda raw: raw.replace(b'"id": "', b'"id": null, "x": "'),
    lambda raw: raw.replace(b'"name": "CC BY-SA 3.0"', b'"name": "CC", "url": null'),
    lambda raw: raw.replace(b'"kind": "chat"', b'"kind": "task"'),
    lambda raw: raw.replace(b'"kind": "chat"', b'"kind": "task", "answer": "4"'),
    lambda raw: raw.replace(b'"kind": "chat"', b'"kind": "preference", "chosen": "a", "rejected": "b"'),
    lambda raw: raw.replace(b'"user"', b'"assistant"', 1),
    lambda raw: raw[:-1] + b', "revision": 3.0}',
    lambda raw: raw[:-1] + b', "revision": 12345678901234567890123}',
    lambda raw: raw[:-1] + b', "revision": true}',
    lambda raw: raw[:-1] + b', "evidence": []}',
    lambda raw: raw[:-1] + b', "parents": ["a", null]}',
    lambda raw: raw[:-1] + b', "verify": {"name": "a", "seed": 1, "index": 2, "entry": {"x": NaN}}}',
    lambda raw: raw[:-1] + b', "messages": []}',
    lambda raw: raw[:-1] + b"} ",
]


def test_checking_and_reading_agree_on_every_line(tmp_path: Path) -> None:
    draw, path = random.Random(0), tmp_path / "row.jsonl"
    refused = 0
    for _ in range(300):
        raw = good = draw.choice(LINES)
        for change in draw.sample(CHANGES, draw.randint(1, 2)):
            raw = change(raw)
        path.write_bytes(raw + b"\n" + good + b"\n")
        said = [complaint(lambda: check_inputs([path])), complaint(lambda: [*read_inputs([path])])]
        assert said[0] == said[1], raw
        refused += said[0] is not None
    assert 50 < refused < 290


def complaint(does: Callable[[], object]) -> str | None:
    try:
        does()
    except CirillaError as error:
        return str(error)
    return None
