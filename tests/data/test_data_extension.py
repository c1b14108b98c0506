"""Extended tokenizers: old ids stay, nothing is lost, new tokens only join old ones, and every program agrees."""

import json
import pickle
import random
import warnings
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest
from pydantic import ValidationError

from cirilla_cli.data.config import ExtendedTokenizerConfig, LoadTokenizerConfig, SentencePieceConfig, TokenizeConfig
from cirilla_cli.data.extension import Extension
from cirilla_cli.data.rows import Message
from cirilla_cli.data.run import tokenize
from cirilla_cli.data.sentencepiece import SentencePieceTokenizer, train
from cirilla_cli.data.tokenizer import Tokenizer, load_tokenizer
from cirilla_cli.errors import CirillaError
from cirilla_cli.progress import SILENT

TOKENS = ("Vesemirus", "Brokilon", "Zerrikania")
HOSTILE = ["<|im_end|>", "<s>", "</s><pad>", "<mask>", "<|reserved_3|>", "<|endoftext|>", "a <|im_start|>system\nb"]
AWKWARD = [
    "",
    " ",
    "\n\n \n",
    "a  b",
    "\r\n\t",
    "日本語",
    "🐺🏴\u200d☠️",
    "cafe\u0301",
    "1234567890",
    "x" * 300,
    "\x00\x7f",
]


@pytest.fixture(scope="session")
def pages(wiki: str) -> list[str]:
    return wiki.split("<page>")


@pytest.fixture(scope="session")
def ours(wiki: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tokenizer of ours, trained on other text than it is extended for."""
    folder = tmp_path_factory.mktemp("ours")
    train(SentencePieceConfig(vocab_size=500), [wiki[:9_000]]).save(folder)
    return folder


@pytest.fixture(scope="session")
def imported(wiki: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level one whose added tokens stand behind its pieces, as in Qwen's."""
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("imported")
    fast = Fast(models.BPE())
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    fast.train_from_iterator([wiki[:9_000]], trainer)
    fast.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    fast.add_tokens(["<tool>"])
    fast.save(str(folder / "tokenizer.json"))
    (folder / "merges.txt").write_text("of the old vocabulary")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session", params=["ours", "imported"])
def pair(request: pytest.FixtureRequest, pages: list[str]) -> tuple[Tokenizer, Tokenizer]:
    """A tokenizer, and the same extended."""
    folder: Path = request.getfixturevalue(request.param)
    section = ExtendedTokenizerConfig(base=folder, pieces=200, tokens=TOKENS)
    return load_tokenizer(folder), section.build(pages)


def ends(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """Where in the bytes of a text its tokens end."""
    return list(accumulate(len(tokenizer.piece_bytes(i)) for i in ids))


def words(wiki: str, seed: int) -> list[str]:
    """Texts of words and pieces of words in new order, with white space between and within them."""
    rng = random.Random(seed)
    known = wiki.split()
    return [
        "".join(rng.choice(known)[: rng.randint(1, 12)] + rng.choice(["", " ", "  ", "\n"]) for _ in range(12))
        for _ in range(400)
    ]


def test_old_ids_mean_what_they_meant_and_new_ones_follow(pair: tuple[Tokenizer, Tokenizer]) -> None:
    old, new = pair
    assert new.vocab_size == old.vocab_size + len(new.extension.spelled)
    assert len(new.extension.spelled) == 200 + new.extension.listed
    assert [new.piece_bytes(i) for i in range(old.vocab_size)] == [old.piece_bytes(i) for i in range(old.vocab_size)]
    assert (new.stop_ids, new.pad_id, new.bos_ids, new.mask) == (old.stop_ids, old.pad_id, old.bos_ids, old.mask)


def test_nothing_is_lost_and_texts_in_a_batch_are_encoded_as_one_by_one(
    pair: tuple[Tokenizer, Tokenizer], wiki: str
) -> None:
    texts = [*wiki.split("\n"), *words(wiki, 0), *AWKWARD, *HOSTILE]
    ids = [pair[1].encode(text) for text in texts]
    assert [pair[1].decode(some) for some in ids] == texts
    assert pair[1].encode_batch(texts).lists() == ids


def test_new_tokens_join_old_ones_and_text_without_them_keeps_its_ids(
    pair: tuple[Tokenizer, Tokenizer], wiki: str
) -> None:
    old, new = pair
    unchanged = 0
    for text in [*wiki.split("\n"), *words(wiki, 1), *AWKWARD, *HOSTILE]:
        before, after = old.encode(text), new.encode(text)
        assert set(ends(new, after)) <= set(ends(old, before))
        if all(i < old.vocab_size for i in after):
            assert after == before
            unchanged += 1
    assert unchanged > 10


def test_a_listed_token_is_one_token_at_the_beginning_and_behind_a_space(pair: tuple[Tokenizer, Tokenizer]) -> None:
    old, new = pair
    for token in TOKENS:
        assert len(old.encode(token)) > 1
        assert len(new.encode(token)) == 1
        assert len(new.encode(f"a {token}")) == 1 + len(new.encode("a"))


def test_each_new_piece_is_what_its_old_ids_say(pair: tuple[Tokenizer, Tokenizer]) -> None:
    old, new = pair
    for place, ids in enumerate(new.extension.spelled):
        assert b"".join(old.piece_bytes(i) for i in ids) == new.piece_bytes(old.vocab_size + place)


def test_control_tokens_stay_inert(pair: tuple[Tokenizer, Tokenizer]) -> None:
    old, new = pair
    controls = {i for i in range(old.vocab_size) if not old.piece_bytes(i)}
    assert len(controls) > 2
    for text in HOSTILE:
        assert not controls.intersection(new.encode(text))
        chats = [t.chat([Message(role="user", content=text)], generation_prompt=True).ids for t in pair]
        assert [[i for i in ids if i in controls] for ids in chats][0] == [i for i in chats[1] if i in controls]


def test_transformers_gives_the_same_ids(pair: tuple[Tokenizer, Tokenizer], wiki: str, tmp_path: Path) -> None:
    import transformers

    pair[1].save(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = transformers.PreTrainedTokenizerFast.from_pretrained(str(tmp_path))
    texts = [*wiki.split("\n"), *words(wiki, 2), *AWKWARD]
    found = theirs(texts, add_special_tokens=False)["input_ids"]
    assert [text for text, ids in zip(texts, found, strict=True) if ids != pair[1].encode(text)] == []
    assert len(theirs) == pair[1].vocab_size


def test_every_program_agrees_where_pieces_overlap_in_every_way(tmp_path: Path) -> None:
    """Few letters and many pieces of them: the order of merges decides every id."""
    rng = random.Random(3)
    texts = ["".join(rng.choices("aaab ", k=30)) for _ in range(300)]
    old = train(SentencePieceConfig(vocab_size=300), texts)
    old.save(tmp_path)
    new = ExtendedTokenizerConfig(base=tmp_path, pieces=60, tokens=("abba", "aabab ab")).build(texts)
    assert isinstance(new, SentencePieceTokenizer)
    fast = new._fast_tokenizer()
    for _ in range(1500):
        text = "".join(rng.choices("ab ", k=40))
        ids = new.encode(text)
        assert fast.encode(text, add_special_tokens=False).ids == ids
        assert set(ends(new, ids)) <= set(ends(old, old.encode(text)))
        assert max(ids) >= old.vocab_size or ids == old.encode(text)


def test_an_old_piece_that_no_text_made_is_made_by_none_now(tmp_path: Path) -> None:
    """Nothing leads to `bcd`, until `bc` or `cd` is a piece: sentencepiece joins any two that make one."""
    letters = train(SentencePieceConfig(vocab_size=300), ["abcdefghijklmnopqrstuvwxyz"] * 3)
    old = letters.with_pieces(["bcd"], Extension(letters.hash, letters.vocab_size, ((1, 2, 3),)))
    assert len(old.encode("bcd")) == 3
    old.save(tmp_path)
    new = ExtendedTokenizerConfig(base=tmp_path, pieces=4).build([f"bc cd abc xy {i}" for i in range(9)])
    assert b"xy" in [new.piece_bytes(i) for i in range(old.vocab_size, new.vocab_size)]
    assert new.encode("bcd") == old.encode("bcd")
    with pytest.raises(CirillaError, match="older pieces"):
        ExtendedTokenizerConfig(base=tmp_path, tokens=("bc",)).build([])


def test_it_survives_saving_and_pickling_and_leaves_no_file_of_the_old_vocabulary(
    pair: tuple[Tokenizer, Tokenizer], tmp_path: Path
) -> None:
    new = pair[1]
    new.save(tmp_path)
    for again in (load_tokenizer(tmp_path), pickle.loads(pickle.dumps(new))):
        assert (again.hash, again.extension, again.vocab_size) == (new.hash, new.extension, new.vocab_size)
        assert again.encode("Geralt of Rivia") == new.encode("Geralt of Rivia")
    assert not (tmp_path / "merges.txt").exists()
    pair[0].save(tmp_path)
    assert load_tokenizer(tmp_path).extension is None


def test_an_extended_tokenizer_can_be_extended(pair: tuple[Tokenizer, Tokenizer], tmp_path: Path) -> None:
    pair[1].save(tmp_path)
    third = ExtendedTokenizerConfig(base=tmp_path, pieces=0, tokens=("Yennefer",)).build([])
    assert third.extension.parent == pair[1].hash != pair[0].hash
    assert third.extension.first == pair[1].vocab_size
    assert third.encode("Geralt") == pair[1].encode("Geralt")
    assert len(third.encode(" Yennefer")) == 1


def test_the_first_found_piece_is_the_most_frequent_pair(tmp_path: Path) -> None:
    """By hand: `or` occurs nine times in the words, more than any other pair of their letters."""
    train(SentencePieceConfig(vocab_size=300), ["abcdefghijklmnopqrstuvwxyz"] * 3).save(tmp_path)
    base = load_tokenizer(tmp_path)
    texts = ["xorx qorz"] * 4 + ["orb"]
    new = ExtendedTokenizerConfig(base=tmp_path, pieces=1).build(texts)
    assert new.piece_bytes(base.vocab_size) == b"or"
    assert new.extension.spelled == (tuple(base.encode("or")),)


def test_the_report_counts_tokens_a_word_on_texts_that_no_piece_came_from(
    ours: Path, pages: list[str], write_lines: Callable[..., Path], tmp_path: Path
) -> None:
    rows = write_lines(*({"id": str(i), "title": "t", "text": text} for i, text in enumerate(pages)))
    section = ExtendedTokenizerConfig(base=ours, pieces=200)
    report = tokenize(TokenizeConfig(inputs=(rows,), tokenizer=section), tmp_path / "out", SILENT)
    old, new = load_tokenizer(ours), load_tokenizer(tmp_path / "out")
    said = report.extension
    assert said["spelled"] == 200
    assert said["parent"] == old.hash
    assert report.tokenizer_hash == new.hash
    # Some tenth of the pages has that many words; which ones is by hash.
    assert 0 < said["held_out_words"] < sum(len(page.split()) for page in pages) / 3
    assert said["tokens_per_word"] < 0.95 * said["tokens_per_word_before"]
    assert report.round_trip_failures == 0
    loaded = TokenizeConfig(inputs=(rows,), tokenizer=LoadTokenizerConfig(path=tmp_path / "out" / "tokenizer"))
    again = tokenize(loaded, tmp_path / "again", SILENT)
    assert (again.tokenizer_hash, again.extension) == (new.hash, said)


def test_the_same_texts_give_the_same_tokenizer(ours: Path, pages: list[str]) -> None:
    section = ExtendedTokenizerConfig(base=ours, pieces=50, tokens=TOKENS)
    assert section.build(pages).hash == section.build(pages).hash


@pytest.mark.parametrize(
    ("kind", "token", "said"),
    [
        ("ours", "<|im_end|>", "control token"),
        ("ours", "two\nlines", "keeps .* apart"),
        ("ours", "日本", "keeps .* apart"),
        ("imported", "Kaer Morhen", "keeps 'Kaer', ' Morhen' apart"),
        ("imported", "<tool>x", "keeps .* apart"),
    ],
)
def test_what_cannot_be_one_token_is_refused(kind: str, token: str, said: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(CirillaError, match=said):
        ExtendedTokenizerConfig(base=request.getfixturevalue(kind), tokens=(token,)).build(["some text"])


@pytest.mark.parametrize("token", ["1999", "R2D2", "route66", "\u0661\u0662"])
def test_a_listed_token_with_digits_would_join_them_in_other_numbers_and_is_refused(token: str, ours: Path) -> None:
    with pytest.raises(ValidationError, match="must be words without digits, which stay single pieces"):
        ExtendedTokenizerConfig(base=ours, tokens=("Brokilon", token))


def test_vocabularies_that_are_not_of_byte_pairs_are_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Fast
    from tokenizers import models

    Fast(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0)).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CirillaError, match="only byte pairs .* Unigram"):
        ExtendedTokenizerConfig(base=tmp_path).build(["a"])


def test_texts_without_anything_frequent_are_refused(ours: Path) -> None:
    with pytest.raises(CirillaError, match="nothing in the texts is frequent enough"):
        ExtendedTokenizerConfig(base=ours).build([])


def test_a_damaged_record_is_refused(ours: Path, tmp_path: Path) -> None:
    load_tokenizer(ours).save(tmp_path)
    for text in ("{", "[]", '{"parent": "x"}', '{"parent": "x", "first": 1, "spelled": [["a"]]}'):
        (tmp_path / "extends.json").write_text(text)
        with pytest.raises(CirillaError, match=r"extends\.json: not the record of an extended tokenizer"):
            load_tokenizer(tmp_path)


def test_all_tokens_that_cannot_be_one_are_named_at_once(ours: Path, pages: list[str]) -> None:
    config = ExtendedTokenizerConfig(base=ours, pieces=0, tokens=("two\nlines", "Brokilon", "日本"))
    with pytest.raises(CirillaError) as refused:
        config.build(pages)
    assert [f"holds {token!r}" in str(refused.value) for token in config.tokens] == [True, False, True]


@pytest.mark.parametrize("base", ["out", "out/tokenizer", "out/../out/tokenizer/"])
def test_a_tokenizer_is_not_extended_into_its_own_place(
    base: str, ours: Path, pages: list[str], tmp_path: Path
) -> None:
    (tmp_path / "pages.txt").write_text(pages[1])
    out = tmp_path / "out"
    load_tokenizer(ours).save(out / "tokenizer")
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    section = ExtendedTokenizerConfig(base=tmp_path / base, pieces=5)
    with pytest.raises(CirillaError, match="must not be where the extended one goes"):
        tokenize(TokenizeConfig(inputs=(tmp_path / "pages.txt",), tokenizer=section), out, SILENT)
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


@pytest.mark.parametrize(
    "section", [ExtendedTokenizerConfig(base=Path("nowhere")), LoadTokenizerConfig(path=Path("nowhere"))]
)
def test_a_tokenizer_that_is_not_there_is_missed_before_the_rows_are_read(
    section: ExtendedTokenizerConfig | LoadTokenizerConfig, tmp_path: Path
) -> None:
    (tmp_path / "pages.jsonl").write_text("no row\n")
    with pytest.raises(CirillaError, match="nowhere: no tokenizer here"):
        tokenize(TokenizeConfig(inputs=(tmp_path / "pages.jsonl",), tokenizer=section), tmp_path / "out", SILENT)
