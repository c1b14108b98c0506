"""Tiny random models of transformers' own classes, and of ours."""

import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from cirilla_cli.model.config import DecoderConfig
from cirilla_cli.model.decoder import Decoder
from cirilla_cli.model.init import fresh
from cirilla_cli.model.mixers.config import AttentionConfig
from cirilla_cli.model.sections import RopeConfig, SwiGLUConfig

from .server import Hub

VOCAB, WINDOW = 300, 5


@pytest.fixture(scope="session")
def transformers() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        return transformers


@pytest.fixture(autouse=True)
def _quiet_libraries() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def scramble(model: torch.nn.Module, seed: int = 0) -> None:
    """Give every parameter random values, norms included, so that none can be mistaken for another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.5 if parameter.ndim == 1 else 0.15
            noise = torch.empty_like(parameter).normal_(0.0, spread, generator=generator)
            parameter.copy_(noise + (1.0 if parameter.ndim == 1 else 0.0))


def make_config(
    *,
    tied: bool = False,
    qk_norm: bool = False,
    windows: str = "A",
    window: int | None = None,
    vocab_size: int = VOCAB,
    n_layers: int = 3,
    context_length: int = 64,
) -> DecoderConfig:
    """A tiny decoder; ``windows`` is its pattern, L sees ``WINDOW`` positions."""
    base = AttentionConfig(
        n_heads=4, n_kv_heads=2, head_dim=16, window=window, rope=RopeConfig(theta=5000.0), qk_norm=qk_norm
    )
    mixers = {"A": base, "L": base.model_copy(update={"window": WINDOW})}
    return DecoderConfig(
        vocab_size=vocab_size,
        d_model=32,
        n_layers=n_layers,
        context_length=context_length,
        mixers={letter: mixers[letter] for letter in sorted(set(windows))},
        pattern=windows,
        mlp=SwiGLUConfig(d_ff=48),
        tie_embeddings=tied,
    )


def make_model(config: DecoderConfig, seed: int = 0) -> Decoder:
    model = fresh(config, seed=seed)
    scramble(model, seed)
    return model.eval()


@pytest.fixture
def save_hf(transformers: Any, tmp_path: Path) -> Callable[..., tuple[Any, Path]]:
    """Make a tiny random model of a transformers class, save it, and return both."""

    def save(kind: str, *, max_shard_size: str = "5GB", **keys: Any) -> tuple[Any, Path]:
        shape = {
            "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}, "bos_token_id": 1, "eos_token_id": 2,
        }  # fmt: skip
        config = getattr(transformers, f"{kind}Config")(**{**shape, **keys})
        model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
        scramble(model)
        folder = tmp_path / "hf"
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        return model, folder

    return save


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
