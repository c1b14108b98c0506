"""Uploading to a server that speaks the Hub's commit protocol: what arrives, what is said when it fails."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from pydantic import SecretStr

from cirilla_cli.checkpoint import Loaded
from cirilla_cli.errors import CirillaError, ServiceError
from cirilla_cli.hub.config import PushConfig
from cirilla_cli.hub.download import download
from cirilla_cli.hub.run import push

from .conftest import make_config, make_model
from .server import TOKEN, Handler, Heard, Hub


@pytest.fixture
def source() -> Loaded:
    config = make_config(n_layers=1)
    return Loaded(make_model(config), config, None, Path("nowhere"))


def pushed(hub: Hub, source: Loaded, heard: Heard | None = None, token: str | None = TOKEN, **keys: Any) -> Any:
    config = PushConfig(**{"to": "me/witcher", "message": "First words", **keys})
    secret = None if token is None else SecretStr(token)
    return push(config, source, token=secret, progress=heard or Heard(), endpoint=hub.url)


@pytest.mark.parametrize("lfs", [(), ("model.safetensors",)])
@pytest.mark.parametrize("xet", [True, False])
def test_every_file_arrives_byte_for_byte(
    hub: Hub, source: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lfs: tuple[str, ...], xet: bool
) -> None:
    if xet and lfs:
        pytest.skip("large files would go to another service than this server")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not xet)
    hub.lfs = lfs
    report = pushed(hub, source)
    push(PushConfig(to=f"dir:{tmp_path / 'same'}"), source, progress=Heard())
    here = {p.name: p.read_bytes() for p in (tmp_path / "same").iterdir()}
    for name in ("model.safetensors", "config.json"):
        assert hub.files[name] == here[name]
    assert {name: len(data) for name, data in hub.files.items()} == {f.name: f.bytes for f in report.files}
    assert {f.name: f.sha256 for f in report.files} == {n: hashlib.sha256(d).hexdigest() for n, d in hub.files.items()}
    assert bool(hub.blobs) == bool(lfs)
    assert report.to.endswith("/me/witcher")


def test_the_repository_is_created_as_asked_with_the_token_given(hub: Hub, source: Loaded) -> None:
    pushed(hub, source, private=True)
    assert (hub.created["organization"], hub.created["name"]) == ("me", "witcher")
    assert hub.created["visibility"] == "private"
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert hub.messages == ["First words"]
    pushed(hub, source, private=False)
    assert hub.created["visibility"] == "public"


def test_the_token_is_in_nothing_that_is_said_or_written(
    hub: Hub, source: Loaded, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()
    with caplog.at_level(logging.INFO):
        report = pushed(hub, source, heard)
        hub.fail = {"/commit/": 500}
        with pytest.raises(ServiceError) as caught:
            pushed(hub, source, heard)
    said = capfd.readouterr()
    everything = [*heard.lines, said.out, said.err, caplog.text, json.dumps(report.as_dict()), repr(caught.value)]
    everything += [str(caught.value.hint), *(data.decode("latin-1") for data in hub.files.values())]
    assert not any(TOKEN in text or "s3cr3t" in text for text in everything)


@pytest.mark.parametrize("where", ["/repos/create", "/preupload/", "/commit/", "/validate-yaml"])
@pytest.mark.parametrize(("status", "said"), [(401, "401"), (403, "403"), (404, "404"), (500, "500")])
def test_a_refusing_server_ends_in_one_clear_line(
    hub: Hub, source: Loaded, where: str, status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    hub.fail = {where: status}
    if where == "/repos/create":
        hub.fail["/preupload/"] = 404
    with pytest.raises(ServiceError) as caught:
        pushed(hub, source)
    assert caught.value.exit_code == 4
    assert said in str(caught.value)
    assert str(caught.value).startswith("me/witcher: ")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("status", [403, 409])
def test_a_token_that_may_not_create_repositories_may_write_to_one_that_stands(
    hub: Hub, source: Loaded, status: int
) -> None:
    hub.fail = {"/repos/create": status}
    pushed(hub, source)
    assert "model.safetensors" in hub.files


def test_a_hub_that_is_not_there_is_said_to_be_so(hub: Hub, source: Loaded) -> None:
    hub.shutdown()
    hub.server_close()
    with pytest.raises(ServiceError, match="cannot be reached"):
        pushed(hub, source)


def test_a_card_the_hub_refuses_is_the_users_to_mend(hub: Hub, source: Loaded) -> None:
    def refuse(handler: Handler) -> None:
        if handler.path == "/api/validate-yaml":
            handler.body()
            handler.answer({"errors": [{"message": '"license" must be one of [mit]'}], "warnings": []}, 400)
            return
        Handler.do_POST(handler)

    hub.RequestHandlerClass = type("Refusing", (Handler,), {"do_POST": refuse})
    with pytest.raises(CirillaError, match="must be one of") as caught:
        pushed(hub, source, license="mine")
    assert caught.value.exit_code == 1
    assert not hub.files


def test_nothing_is_sent_when_a_check_fails(hub: Hub, source: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    import cirilla_cli.hub.write as write

    def wrong(tensors: dict[str, Any], path: Path) -> None:
        original({**tensors, "model.norm.weight": tensors["model.norm.weight"] * 2}, path)

    original = write.save_tensors
    monkeypatch.setattr(write, "save_tensors", wrong)
    with pytest.raises(CirillaError, match=r"weights: differ: model\.norm\.weight"):
        pushed(hub, source)
    assert hub.calls == []


def test_what_was_pushed_is_downloaded_and_nothing_else(hub: Hub, source: Loaded) -> None:
    pushed(hub, source)
    hub.files |= {
        "pytorch_model.bin": b"pickle",
        "modeling_x.py": b"import os",
        "original/consolidated.safetensors": b"x",
    }
    folder = download("me/witcher", Heard(), endpoint=hub.url)
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert names == {"config.json", "model.safetensors", "README.md", "cirilla.json"}
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


@pytest.mark.parametrize(("status", "said"), [(401, "401"), (404, "404"), (500, "500")])
def test_a_download_that_fails_ends_in_one_clear_line(
    hub: Hub, status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    hub.fail = {"/api/models/": status}
    with pytest.raises(ServiceError) as caught:
        download("me/witcher", Heard(), endpoint=hub.url)
    assert said in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
