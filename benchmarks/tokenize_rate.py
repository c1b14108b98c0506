"""Tokenizing much text, beside sentencepiece's own rate on two processes, in one run.

    python -m benchmarks.tokenize_rate --text gcide.txt [--megabytes 1000] [--work FOLDER] [--vocab 8192]

Rows of text of a few kilobytes are made from ``--text``: as it stands once, then again and again with the words of
each line in another order and one word in fifty changed by a letter, so that new words keep coming. Each way runs in
processes of its own: `cirilla tokenize` reads the rows, encodes and writes shards; sentencepiece gets the same texts
from the same file, half in each of two processes, and writes the ids. Then a run is killed at nine tenths and run
again, and the ids of every text are compared. Memory is flat where a tenth of the
text takes about as much as all of it.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece as spm

from cirilla_cli.data.rows import Document
from cirilla_cli.data.shards import TokenShards

_LINES = 40
"""Lines of the source in a row."""


def rows(source: Path, most_bytes: int) -> Iterator[str]:
    """Texts of the source, then of shuffled and changed copies, until there are enough bytes."""
    lines = source.read_text(encoding="utf-8", errors="replace").replace("▁", "_").split("\n")
    done, lap = 0, 0
    while done < most_bytes:
        draw = random.Random(lap)
        for start in range(0, len(lines), _LINES):
            some = lines[start : start + _LINES]
            text = "\n".join(some if lap == 0 else [_changed(line, draw) for line in some])
            done += len(text.encode())
            yield text
            if done >= most_bytes:
                return
        lap += 1


def _changed(line: str, draw: random.Random) -> str:
    words = line.split(" ")
    draw.shuffle(words)
    for i in range(0, len(words) - 1, 50):
        words[i] = words[i][:2] + draw.choice("abcdefghijklmnopqrstuvwxyz") + words[i][2:]
    return " ".join(words)


def write(source: Path, megabytes: int, folder: Path) -> tuple[Path, int]:
    """`rows.jsonl`, once; its path and the bytes of its texts."""
    path, size = folder / f"rows-{megabytes}.jsonl", folder / f"rows-{megabytes}.size"
    if not size.is_file():
        total = 0
        with path.open("w", encoding="utf-8") as file:
            for text in rows(source, megabytes * 1_000_000):
                total += len(text.encode())
                file.write(Document(id=str(total), title="", text=text).line() + "\n")
        size.write_text(str(total))
    return path, int(size.read_text())


def texts_of(path: Path) -> Iterator[str]:
    """The texts of a file of rows."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]


def sentencepiece_alone(model: Path, path: Path, part: int, parts: int, out: Path) -> None:
    """Every ``parts``th text encoded by sentencepiece and written: what one of its processes does."""
    processor = spm.SentencePieceProcessor(model_file=str(model))
    with out.open("wb") as file:
        for i, text in enumerate(texts_of(path)):
            if i % parts == part:
                file.write(np.array(processor.encode(text), dtype=np.uint16).tobytes())


def _theirs(model: Path, path: Path, folder: Path) -> float:
    """Seconds that two processes of sentencepiece take."""
    started = time.perf_counter()
    call = [sys.executable, "-m", "benchmarks.tokenize_rate", "--alone", str(model), str(path)]
    running = [subprocess.Popen([*call, str(part), str(folder / f"theirs-{part}.bin")]) for part in range(2)]
    assert not any(process.wait() for process in running)
    return time.perf_counter() - started


def _call(path: Path, tokenizer: Path, out: Path, workers: int) -> list[str]:
    return [
        sys.executable, "-m", "cirilla_cli", "tokenize", str(path), "tokenize.tokenizer.kind=load",
        f"tokenize.tokenizer.path={tokenizer}", f"tokenize.workers={workers}", "tokenize.val=0", f"out={out}", "--json",
    ]  # fmt: skip


def _ours(call: Sequence[str], kill_after: float | None = None) -> tuple[float, float]:
    """Seconds of a run, and the peak memory in MB of it and of the largest of its processes together."""
    started = time.perf_counter()
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, process_group=0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.killpg(process.pid, signal.SIGKILL)
    _, said = process.communicate()
    assert kill_after is not None or process.returncode == 0, said.decode()
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000


def _tenth(source: Path, megabytes: int, folder: Path, tokenizer: Path) -> float:
    """The peak memory in MB of a run over a tenth of the text."""
    path, _ = write(source, max(1, megabytes // 10), folder)
    subprocess.run(["rm", "-rf", str(folder / "tenth")], check=True)
    return _ours(_call(path, tokenizer, folder / "tenth", 1))[1]


def _train(path: Path, folder: Path, vocab: int) -> Path:
    """The tokenizer that all use, made once from the first rows."""
    out = folder / f"tokenizer-{vocab}"
    if not (out / "tokenizer" / "tokenizer.model").is_file():
        first = folder / "first.jsonl"
        with first.open("w", encoding="utf-8") as file:
            for number, text in zip(range(2000), texts_of(path), strict=False):
                file.write(Document(id=str(number), title="", text=text).line() + "\n")
        words = [str(first), f"tokenize.tokenizer.vocab_size={vocab}", f"out={out}"]
        subprocess.run([sys.executable, "-m", "cirilla_cli", "tokenize", *words], check=True, capture_output=True)
    return out / "tokenizer"


def _differing(path: Path, model: Path, shards: Path) -> tuple[int, int]:
    """Texts whose ids differ from sentencepiece's own, and all texts; sentencepiece's are read from its files."""
    read, different, count = TokenShards.open(shards), 0, 0
    parts = [np.fromfile(model.parent.parent.parent / f"theirs-{part}.bin", dtype=np.uint16) for part in range(2)]
    place = [0, 0]
    for count in range(read.n_documents):
        ids, part = read.document(count)[1:-1], count % 2
        different += not np.array_equal(ids, parts[part][place[part] : place[part] + len(ids)])
        place[part] += len(ids)
    return different, count + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--work", type=Path, default=Path("tokenize_rate"))
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--alone", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        model, path, part, out = given.alone
        sentencepiece_alone(Path(model), Path(path), int(part), 2, Path(out))
        return
    folder = given.work.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    path, size = write(given.text, given.megabytes, folder)
    tokenizer = _train(path, folder, given.vocab)
    model = tokenizer / "tokenizer.model"
    # First, for a peak is known of the largest process up to then.
    peak = _tenth(given.text, given.megabytes, folder, tokenizer)
    print(f"ours, workers=1, a tenth of the text{'':37}{peak:6.0f} MB in its largest process")
    theirs = _theirs(model, path, folder)
    print(f"sentencepiece, two processes   {theirs:7.1f} s  {size / theirs / 1e6:6.1f} MB/s")
    for workers in (1, 2):
        out = folder / f"ours-{workers}"
        subprocess.run(["rm", "-rf", str(out)], check=True)
        seconds, peak = _ours(_call(path, tokenizer, out, workers))
        rate = f"{size / seconds / 1e6:6.1f} MB/s  {theirs / seconds:5.2f} of sentencepiece"
        print(f"ours, workers={workers}                {seconds:7.1f} s  {rate}  {peak:6.0f} MB in its largest process")
    out = folder / "killed"
    subprocess.run(["rm", "-rf", str(out)], check=True)
    _ours(_call(path, tokenizer, out, 2), kill_after=0.9 * seconds)
    before = {file.name: file.stat().st_mtime_ns for file in out.rglob("*.bin")}
    again, _ = _ours(_call(path, tokenizer, out, 2))
    after = {file.name: file.stat().st_mtime_ns for file in out.rglob("*.bin")}
    redone = sum(after[name] != before[name] for name in before)
    print(f"killed at 90%: {len(before)} of {len(after)} shards stood, {redone} made again, in {again:.1f} s")
    print("ids: {} of {} texts differ from sentencepiece's".format(*_differing(path, model, out / "shards" / "text")))


if __name__ == "__main__":
    main()
