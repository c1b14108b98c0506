"""Checkpoints copied to a server that speaks the Hub's protocol, and brought back from it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cirilla_cli.checkpoint import Checkpoint, write_checkpoint
from cirilla_cli.errors import CirillaError, ServiceError
from cirilla_cli.hub.mirror import HubStore
from cirilla_cli.loading import load_model
from cirilla_cli.mirror import check_mirror, clear, fetch, put

from .conftest import make_config, make_model
from .server import TOKEN, Heard, Hub

Save = Callable[[int], Checkpoint]


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("lock.json", "metrics.jsonl"):
        (folder / name).write_text(json.dumps({"step": 1, "of": name}) + "\n")
    return folder


@pytest.fixture
def save(run: Path) -> Save:
    def go(step: int) -> Checkpoint:
        model = make_model(make_config(n_layers=1), seed=step)
        optimizer = torch.optim.SGD(model.parameters())
        return write_checkpoint(
            run, step, model, tokenizer=None, optimizer=optimizer, state={"step": step}, texts={"recipe.yaml": "x\n"}
        )

    return go


@pytest.fixture
def store(hub: Hub) -> HubStore:
    made = HubStore("me/witcher", endpoint=hub.url)
    made.prepare()
    return made


def _mirrored(hub: Hub) -> dict[str, bytes]:
    """The files of the repository, but for the one that says that it is a mirror."""
    assert json.loads(hub.files["mirror.json"]) == {"version": 1}
    return {name: data for name, data in hub.files.items() if name != "mirror.json"}


def _there(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("lfs", [False, True])
def test_a_repository_holds_what_the_run_holds_in_one_commit_a_checkpoint(
    hub: Hub, store: HubStore, run: Path, save: Save, lfs: bool
) -> None:
    names = [f"checkpoints/step-00000{n}/{part}.safetensors" for n in (2, 4) for part in ("model", "optimizer")]
    hub.lfs = tuple(names) if lfs else ()
    put(store, run, save(2), {2})
    assert _mirrored(hub) == _there(run)
    (run / "metrics.jsonl").write_text("longer\n")
    put(store, run, save(4), {2, 4})
    assert _mirrored(hub) == _there(run)
    assert hub.messages == ["step 2", "step 4"]
    assert hub.created["visibility"] == "private"
    assert hub.tokens == ({f"Bearer {TOKEN}"} if not lfs else {f"Bearer {TOKEN}", None} & hub.tokens)
    assert bool(hub.blobs) == lfs


def test_what_is_no_longer_kept_goes_and_what_stands_is_not_sent_again(
    hub: Hub, store: HubStore, run: Path, save: Save
) -> None:
    put(store, run, save(2), {2})
    put(store, run, save(4), {4})
    assert {name.split("/")[1] for name in hub.files if name.startswith("checkpoints")} == {"step-000004"}
    before, sent = dict(hub.files), len(hub.messages)
    preuploads = [call for call in hub.calls if "preupload" in call]
    put(store, run, Checkpoint(4, run / "checkpoints" / "step-000004"), {4})
    assert hub.files == before
    assert len(hub.messages) <= sent + 1
    assert len([call for call in hub.calls if "preupload" in call]) <= len(preuploads) + 1


def test_another_machine_gets_the_run_back(hub: Hub, store: HubStore, run: Path, save: Save, tmp_path: Path) -> None:
    put(store, run, save(2), {2})
    put(store, run, save(4), {2, 4})
    other, heard, seen = tmp_path / "other", Heard(), []

    def look(records: Path) -> None:
        seen.append((records / "lock.json").read_bytes())

    found = fetch(HubStore("me/witcher", endpoint=hub.url), other, look, lambda _: set(), heard)
    assert found == Checkpoint(4, other / "checkpoints" / "step-000004")
    assert found.verify() == []
    assert seen == [(run / "lock.json").read_bytes()]
    expected = {name: data for name, data in _there(run).items() if "step-000002" not in name}
    assert _there(other) == expected
    assert any("step 4 fetched" in line for line in heard.lines)
    assert load_model(other).step == 4


def test_a_damaged_copy_is_passed_over(hub: Hub, store: HubStore, run: Path, save: Save, tmp_path: Path) -> None:
    put(store, run, save(2), {2})
    put(store, run, save(4), {2, 4})
    name = "checkpoints/step-000004/model.safetensors"
    hub.files[name] = hub.files[name][:-1] + bytes([hub.files[name][-1] ^ 1])
    heard = Heard()
    found = fetch(store, tmp_path / "other", lambda _: None, lambda _: set(), heard)
    assert found is not None
    assert found.step == 2
    assert any("step-000004 is damaged" in line for line in heard.lines)
    hub.files["checkpoints/step-000002/MANIFEST.json"] = b"[]"
    assert fetch(store, tmp_path / "another", lambda _: None, lambda _: set(), heard) is None


def test_a_manifest_cannot_name_a_place_outside(
    hub: Hub, store: HubStore, run: Path, save: Save, tmp_path: Path
) -> None:
    put(store, run, save(2), {2})
    name = "checkpoints/step-000002/MANIFEST.json"
    manifest = json.loads(hub.files[name])
    manifest["files"]["../../../../escaped"] = {"bytes": 1, "sha256": "0"}
    hub.files[name] = json.dumps(manifest).encode()
    assert fetch(store, tmp_path / "a" / "b", lambda _: None, lambda _: set(), Heard()) is None
    assert not (tmp_path / "escaped").exists()


def test_a_run_of_another_recipe_brings_nothing(
    hub: Hub, store: HubStore, run: Path, save: Save, tmp_path: Path
) -> None:
    put(store, run, save(2), {2})

    def refuse(records: Path) -> None:
        raise CirillaError("another recipe")

    with pytest.raises(CirillaError, match="another recipe"):
        fetch(store, tmp_path / "other", refuse, lambda _: set(), Heard())
    assert _there(tmp_path / "other") == {}


@pytest.mark.parametrize(("path", "status"), [("/api/repos/create", 401), ("/api/models/", 500)])
def test_a_hub_that_refuses_is_named_before_the_run_and_the_token_is_not(
    hub: Hub, path: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    hub.fail = {path: status, "/api/models/": status}
    with pytest.raises(ServiceError, match=str(status)) as caught:
        HubStore("me/witcher", endpoint=hub.url).prepare()
    assert "s3cr3t" not in f"{caught.value} {caught.value.hint}"


def test_a_token_that_may_write_but_not_create_is_enough(hub: Hub, run: Path, save: Save) -> None:
    hub.fail = {"/api/repos/create": 403}
    store = HubStore("me/witcher", endpoint=hub.url)
    store.prepare()
    put(store, run, save(2), {2})
    assert _mirrored(hub) == _there(run)


@pytest.mark.parametrize("name", ["README.md", "model.safetensors", "checkpoints/index.json", "data/lock.json"])
def test_a_repository_that_holds_something_else_is_not_a_mirror(hub: Hub, store: HubStore, name: str) -> None:
    hub.files = {".gitattributes": b"", name: b"precious"}
    with pytest.raises(CirillaError, match=r"`checkpoint.mirror`: me/witcher .*mirror.*nothing there was changed"):
        check_mirror(store, store.names())


def test_a_repository_is_cleared_of_a_run_in_one_commit(hub: Hub, store: HubStore, run: Path, save: Save) -> None:
    hub.files = {".gitattributes": b""}
    check_mirror(store, store.names())
    put(store, run, save(2), {2})
    check_mirror(store, store.names())
    clear(store)
    assert set(hub.files) == {".gitattributes", "mirror.json"}
    assert hub.messages == ["step 2", "started over"]
