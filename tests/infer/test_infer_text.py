"""Ids to text: whole characters, nothing of a stop string, whatever the borders of tokens."""

import random
from typing import Any

import pytest

from cirilla_cli.infer.text import TextDecoder, stop_matcher, text_of

TEXTS = ["plain", "zażółć gęślą jaźń", "日本語のテキスト", "a🐺b🗡️c", "tab\tand\nline"]


@pytest.mark.parametrize("text", TEXTS)
def test_characters_come_whole(tokenizer: Any, text: str) -> None:
    decoder = TextDecoder(tokenizer)
    pieces = [decoder.add(id) for id in tokenizer.encode(text)] + [decoder.end()]
    assert "".join(pieces) == text
    assert "�" not in "".join(pieces)
    assert all(len(piece) <= 1 for piece in pieces)


def test_a_character_cut_off_at_the_end_is_left_out(tokenizer: Any) -> None:
    for cut in range(1, len("é🐺".encode())):
        assert text_of(tokenizer, tokenizer.encode("é🐺")[:cut]) == ("" if cut < 2 else "é")


def test_bytes_that_never_become_a_character_are_shown_as_such(tokenizer: Any) -> None:
    assert text_of(tokenizer, [16 + 0xFF, *tokenizer.encode("a")]) == "�a"


@pytest.mark.parametrize("stop", ["STOP", "é", "\n\n", "aab", "🐺"])
def test_a_stop_string_is_never_shown_and_ends_the_text(tokenizer: Any, stop: str) -> None:
    choices = random.Random(0)
    for _ in range(40):
        before = "".join(choices.choice(["S", "ST", "STO", "a", "aa", "\n", "é"[:1], "x"]) for _ in range(6))
        text = before + stop + "tail" + stop
        expected = text[: text.index(stop)]
        decoder, matches, shown = TextDecoder(tokenizer, [stop]), stop_matcher(tokenizer, [stop]), ""
        assert matches is not None
        ids, used = tokenizer.encode(text), []
        for id in ids:
            used.append(id)
            shown += decoder.add(id)
            assert expected.startswith(shown)
            assert decoder.stopped == matches(used)
            if decoder.stopped:
                break
        assert shown + decoder.end() == expected == text_of(tokenizer, ids, [stop])
        assert bytes(i - 16 for i in used).decode() == text[: text.index(stop) + len(stop)]


def test_of_two_stop_strings_the_first_counts(tokenizer: Any) -> None:
    assert text_of(tokenizer, tokenizer.encode("one END two DONE"), ["DONE", "END"]) == "one "
    assert text_of(tokenizer, tokenizer.encode("abc"), ["bc", "abc"]) == ""


def test_what_only_began_like_a_stop_string_is_shown_in_the_end(tokenizer: Any) -> None:
    decoder = TextDecoder(tokenizer, ["STOP"])
    shown = "".join(decoder.add(id) for id in tokenizer.encode("go ST"))
    assert (shown, decoder.end()) == ("go ", "ST")


def test_no_stop_strings_need_no_matcher(tokenizer: Any) -> None:
    assert stop_matcher(tokenizer, []) is None
    assert stop_matcher(tokenizer, [""]) is None
