"""Bad input of every kind, through the real commands: one clear message, the documented status, nothing lost."""

import ctypes
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mistakes import CASES, SFT, SOME, Case
from program import call

from cirilla_cli.checkpoint import Checkpoint


def fingerprint(folder: Path) -> dict[str, str]:
    """Every file below a folder and the hash of its bytes."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def bench(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One copy for all cases: each must leave it as it was."""
    folder = tmp_path_factory.mktemp("bench") / "lab"
    shutil.copytree(made, folder)
    return folder


@pytest.fixture
def workshop(bench: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The shared copy as working directory; what a case adds is removed, what was there must be unchanged."""
    monkeypatch.chdir(bench)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before, names = fingerprint(bench), set(os.listdir(bench))
    yield bench
    for name in set(os.listdir(bench)) - names:
        shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink()
    assert fingerprint(bench) == before


def write(files: dict[str, str | bytes | None]) -> None:
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_a_mistake_ends_in_one_clear_message(name: str, as_json: bool, workshop: Path) -> None:
    mistake = CASES[name]
    write(mistake.files)
    given = fingerprint(workshop)
    done = call(
        *mistake.words.split(" "), *(["--json"] if as_json and takes_json(mistake) else []), stdin=mistake.stdin
    )
    assert done.code == mistake.code, done
    assert "Traceback" not in done.err
    if as_json and takes_json(mistake):
        report = json.loads(done.out)
        assert set(report) == {"error", "hint", "where"}
        assert all(part in f"{report['error']}\n{report['hint']}" for part in mistake.says), report
        assert all(set(where) <= {"file", "line", "key", "value", "expected"} for where in report["where"])
        places = {(str(where.get("file")).rpartition("/")[2], where.get("line")) for where in report["where"]}
        named = [re.match(r"([\w.<>]+):(\d+):", part) for part in mistake.says]
        assert {(match[1], int(match[2])) for match in named if match} <= places, report
        assert "error:" not in done.err
    else:
        assert not done.out
        assert all(part in done.err for part in mistake.says), done.err
    after = fingerprint(workshop)
    assert {path: after.get(path) for path in given} == given, "an input was changed"
    assert not list(workshop.rglob("*.partial"))


def takes_json(mistake: Case) -> bool:
    words = mistake.words.split(" ")
    return words[:2] not in (["recipe", "copy"], ["recipe", "explain"], ["recipe", "schema"])


def checkpoint(run: str) -> Path:
    newest = Checkpoint.newest(Path(run))
    assert newest is not None
    return newest.path


def keep_size(path: Path, content: bytes) -> None:
    """Damage that a check of sizes does not find."""
    path.write_bytes(content * (path.stat().st_size // len(content)) + content[: path.stat().st_size % len(content)])


def forget_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)
    manifest = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
    manifest["files"] = {name: info for name, info in manifest["files"].items() if (folder / name).is_file()}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest), encoding="utf-8")


def of_another_model() -> None:
    """The weights of a wider model under this model's description."""
    folder, other = checkpoint("runs/sft"), Path("other")
    assert call("pretrain", "tiny.yaml", "model.d_model=64", "train.steps=1", "--out", str(other), "-q").code == 0
    shutil.copy(checkpoint("other") / "model.safetensors", folder)
    shutil.rmtree(other)
    manifest = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
    manifest["files"]["model.safetensors"]["bytes"] = (folder / "model.safetensors").stat().st_size
    (folder / "MANIFEST.json").write_text(json.dumps(manifest), encoding="utf-8")


DAMAGE: dict[str, tuple[Callable[[], None], str, str]] = {
    "weights of another model": (of_another_model, SOME, "weights of another model"),
    "half a checkpoint": (
        lambda: os.truncate(checkpoint("runs/sft") / "model.safetensors", 100),
        SOME,
        "no complete checkpoint",
    ),
    "damaged weights": (
        lambda: keep_size(checkpoint("runs/sft") / "model.safetensors", b"{"),
        SOME,
        "model.safetensors: cannot be read",
    ),
    "a damaged description": (
        lambda: keep_size(checkpoint("runs/sft") / "model.json", b"{"),
        SOME,
        "model.json: not JSON",
    ),
    "a damaged manifest": (
        lambda: keep_size(checkpoint("runs/sft") / "MANIFEST.json", b"{"),
        SOME,
        "no complete checkpoint",
    ),
    "a missing checkpoint": (lambda: shutil.rmtree(checkpoint("runs/sft")), SOME, "no complete checkpoint"),
    "a model without tokenizer": (
        lambda: forget_tokenizer(checkpoint("runs/sft")),
        SOME,
        "no tokenizer in this folder",
    ),
    "no tokenizer to tune with": (
        lambda: forget_tokenizer(checkpoint("runs/pre")),
        SFT.format("samples.jsonl"),
        "has no tokenizer",
    ),
    "a damaged lock": (
        lambda: keep_size(Path("runs/pre/lock.json"), b"{"),
        "pretrain tiny.yaml --out runs/pre",
        "lock.json: not JSON",
    ),
    "a damaged index of shards": (
        lambda: keep_size(Path("tok/shards/text/index.json"), b"{"),
        "pretrain tiny.yaml --out new",
        "index.json: not JSON",
    ),
    "a torn shard": (
        lambda: os.truncate("tok/shards/text/train-00000.bin", 100),
        "pretrain tiny.yaml --out new",
        "100 bytes, its index says",
    ),
    "no runs at all": (lambda: shutil.rmtree("runs"), "generate -p x", "there is no trained model yet"),
    "no run to tune": (lambda: shutil.rmtree("runs"), "sft samples.jsonl", "no run of `cirilla pretrain` under runs/"),
    "nothing to pretrain on": (lambda: shutil.rmtree("runs"), "pretrain", "no tokenized text under runs/"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_results_are_refused_with_the_file_named(name: str, lab: Path) -> None:
    damage, words, says = DAMAGE[name]
    damage()
    before = fingerprint(lab)
    done = call(*words.split())
    assert done.code == 1, done
    assert says in done.err
    after = fingerprint(lab)
    assert {path: after.get(path) for path in before} == before


class _Who(ctypes.Structure):
    """What capget(2) is asked about: the version of its answer and a thread (0: the calling one)."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Rights(ctypes.Structure):
    """Half of what capget(2) answers; capabilities 0 to 31 lie in the first half."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


READS_EVERYTHING = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


@contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Without the superuser's right to read and write what its permissions forbid.

    Only that right goes: another user might not reach the installed package or the folder of the test at all.
    """
    if os.geteuid() != 0:
        yield
        return
    libc, who, rights = ctypes.CDLL(None), _Who(0x20080522, 0), (_Rights * 2)()
    if libc.capget(ctypes.byref(who), rights) != 0:
        pytest.skip("this system does not tell its capabilities")
    before = rights[0].effective
    rights[0].effective = before & ~READS_EVERYTHING
    libc.capset(ctypes.byref(who), rights)
    try:
        yield
    finally:
        rights[0].effective = before
        libc.capset(ctypes.byref(who), rights)


LOCKED = {
    "a file to tokenize": (
        "documents.jsonl",
        "tokenize documents.jsonl --out new",
        "documents.jsonl: cannot be read: permission denied (chmod u+r documents.jsonl)\n\nhint: fix or leave out",
    ),
    "a file to synth": (
        "documents.jsonl",
        "synth documents.jsonl --out new",
        "documents.jsonl: cannot be read: permission denied",
    ),
    "a folder to tokenize": ("synth", "tokenize synth --out new", "synth: cannot be read: permission denied"),
    "a folder to scrape": ("synth", "scrape --files synth --out new", "synth: cannot be read: Permission denied"),
    "a folder in a folder": (
        "runs/pre/checkpoints",
        "scrape --files runs --out new",
        "runs/pre/checkpoints: cannot be read",
    ),
    "a recipe": ("tiny.yaml", "pretrain tiny.yaml --out new", "cannot read `tiny.yaml`: Permission denied"),
    "a run": ("runs/sft", SOME, "runs/sft/checkpoints: Permission denied"),
    "shards": ("tok/shards/text", "pretrain tiny.yaml --out new", "tok/shards/text/index.json: Permission denied"),
    "prompts": (
        "documents.jsonl",
        "generate runs/sft --prompt-file documents.jsonl",
        "documents.jsonl: cannot be read: Permission denied",
    ),
}


@pytest.mark.parametrize("name", LOCKED)
def test_what_may_not_be_read_is_named(name: str, lab: Path) -> None:
    path, words, says = LOCKED[name]
    Path(path).chmod(0)
    try:
        with bound_by_permissions():
            if os.access(path, os.R_OK, effective_ids=True):
                pytest.skip("this system lets everybody read everything")
            done = call(*words.split())
    finally:
        Path(path).chmod(0o777)
    assert (done.code, says in done.err) == (1, True), done
    assert "Traceback" not in done.err


def test_a_folder_that_may_not_be_written_is_named_before_any_work(lab: Path) -> None:
    Path("runs").chmod(0o555)
    try:
        with bound_by_permissions():
            done = call("pretrain", "tiny.yaml", "--out", "runs/new")
    finally:
        Path("runs").chmod(0o777)
    assert (done.code, done.err.splitlines()[0]) == (1, "error: runs/new: cannot be written: Permission denied")


LINKS = {
    "a place for a run": ("pretrain tiny.yaml --out link/new", "link: is a link that leads nowhere"),
    "a run": ("report link", "link: no such folder"),
    "a recipe": ("pretrain link.yaml", "link.yaml"),
    "a recipe that is checked": ("recipe check link.yaml", "link.yaml"),
    "a dump": ("scrape --dump link --out new", "link: the dump cannot be read"),
    "rows": ("tokenize ./link --out new", "link"),
}


@pytest.mark.parametrize("target", ["link", "gone"], ids=["circle", "nowhere"])
@pytest.mark.parametrize("name", LINKS)
def test_links_that_lead_nowhere_are_named(name: str, target: str, lab: Path) -> None:
    words, says = LINKS[name]
    Path("link").symlink_to(target)
    Path("link.yaml").symlink_to(f"{target}.yaml")
    done = call(*words.split())
    assert (done.code, says in done.err) == (1, True), done


@pytest.fixture
def limit_file_size() -> Iterator[Callable[[int], None]]:
    """Sets the system's limit on the size of a file, which is lifted again after the test."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


NO_ROOM = {
    "scrape": ("scrape quickstart --limit 8 --out new", "new/.documents.jsonl.part"),
    "synth": ("synth documents.jsonl --out new/few.jsonl", "new/.few.jsonl.partial"),
    "curate": ("curate documents.jsonl --out new", "new/.documents.jsonl.partial"),
    "tokenize": ("tokenize documents.jsonl tokenize.tokenizer.vocab_size=400 --out new", "new/tokenizer/tokenizer"),
    "push": ("push runs/sft --to dir:new", "/new/tokenizer.model"),
    "report": ("report runs/sft --out new.html", "new.html"),
    "init": ("init new --files synth", "new/pipeline.yaml"),
}


@pytest.mark.parametrize("name", NO_ROOM)
def test_where_there_is_no_room_the_file_and_the_remedy_are_named(
    name: str, lab: Path, limit_file_size: Callable[[int], None]
) -> None:
    words, path = NO_ROOM[name]
    limit_file_size(1000)
    done = call(*words.split())
    limit_file_size(1 << 30)
    said = [line for line in done.err.splitlines() if line.startswith(("error: ", "hint: "))]
    assert done.code == 1
    assert path in said[0]
    assert said[0].endswith(": File too large")
    assert said[1].startswith("hint: make room there, or --out on another disk")


def test_an_empty_prompt_is_continued_from_the_begin_token(lab: Path) -> None:
    done = call("generate", "runs/sft", "-p", "", "-n", "2", "--json")
    assert done.code == 0
    assert json.loads(done.out)["prompt_tokens"] == [1]


def test_rows_that_go_to_the_pipe_before_a_bad_one_are_not_held_back(lab: Path) -> None:
    rows = Path("documents.jsonl").read_text(encoding="utf-8") + "{nope}\n"
    done = call("synth", "-", "--source", "fandom", "--out", "-", "-q", stdin=rows)
    assert done.code == 1
    assert done.out
    assert all(json.loads(line)["kind"] for line in done.out.splitlines())
    assert "<stdin>:9: not JSON" in done.err


@pytest.mark.parametrize("flag", ["--dump", "--api"])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_password_in_an_address_is_refused_and_not_repeated(
    flag: str, more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for flags in (more, ["--dry-run", *more]):
        told = call("scrape", flag, "https://me:passw0rd@example.org/w.xml", *flags)
        assert told.code == 1
        assert "passw0rd" not in told.out + told.err
        assert "https://***@example.org/w.xml" in told.out + told.err
    assert list(tmp_path.iterdir()) == []
