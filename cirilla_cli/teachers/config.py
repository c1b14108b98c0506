"""Sections for teachers, the models that write text for us; torch-free."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import NonNegativeFloat, PositiveInt, SecretStr

from cirilla_cli.config import ByKind, FilePath, Section
from cirilla_cli.units import Seconds

if TYPE_CHECKING:
    from cirilla_cli.teachers.base import Teacher


class OllamaConfig(Section):
    """A model served by Ollama."""

    kind: Literal["ollama"] = "ollama"
    model: str = "qwen3:4b"
    """Name of the model, as `ollama list` shows it."""
    url: str = "http://127.0.0.1:11434"
    """Where Ollama listens."""
    num_ctx: PositiveInt = 8192
    """Context length sent with every request; longer prompts would be cut without a word, so they are refused."""
    think: bool | None = None
    """Switch a reasoning model's thinking on or off; null leaves it to the model."""
    timeout: Seconds = 300.0
    """Longest wait for one answer."""
    patience: Seconds = 120.0
    """Longest total waiting between tries of one request while the server is busy or away."""

    def build(self) -> "Teacher":
        """The teacher that this section describes."""
        from cirilla_cli.teachers.ollama import OllamaTeacher

        return OllamaTeacher(self)


class PriceConfig(Section):
    """What a million tokens cost, in any currency; a judge's tokens are counted at the same price."""

    input: NonNegativeFloat
    """Of those that the model reads."""
    output: NonNegativeFloat
    """Of those that it writes."""


class OpenAIConfig(Section):
    """A model behind any server that speaks OpenAI's chat completions, such as vLLM or llama.cpp."""

    kind: Literal["openai"] = "openai"
    model: str = "default"
    """Name of the model, as the server's /models lists it."""
    url: str = "http://127.0.0.1:8000/v1"
    """Base address, with /v1."""
    api_key: SecretStr | None = None
    """Key sent as a bearer token; filled in by the command line, never written down."""
    context: PositiveInt = 8192
    """Context length of the served model; longer prompts are refused before sending."""
    price: PriceConfig | None = None
    """What it costs, for the estimate of `--preview`; null: no cost is estimated."""
    timeout: Seconds = 300.0
    """Longest wait for one answer."""
    patience: Seconds = 120.0
    """Longest total waiting between tries of one request while the server is busy or away."""

    def build(self) -> "Teacher":
        """The teacher that this section describes."""
        from cirilla_cli.teachers.openai import OpenAITeacher

        return OpenAITeacher(self)


class ReplayConfig(Section):
    """Recorded completions instead of a server: a journal of an earlier run, or rows written by hand."""

    kind: Literal["replay"] = "replay"
    path: FilePath
    """Rows of JSON with `text`, and `id` (of the request) or `contains` (a piece of the prompt)."""

    def build(self) -> "Teacher":
        """The teacher that this section describes."""
        from cirilla_cli.teachers.replay import ReplayTeacher

        return ReplayTeacher(self)


class OwnConfig(Section):
    """A model of one's own, which answers in this process, one request at a time."""

    kind: Literal["own"] = "own"
    path: FilePath
    """A run, a checkpoint, or a folder in the Hugging Face layout; the model must know conversations."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where it computes; auto takes the fastest device there is."""
    dtype: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """Number format of weights and computation; auto is bfloat16 on GPUs that multiply it, else float32."""

    def build(self) -> "Teacher":
        """The teacher that this section describes."""
        from cirilla_cli.teachers.own import OwnTeacher

        return OwnTeacher(self)


TeacherSection = Annotated[OllamaConfig | OpenAIConfig | ReplayConfig | OwnConfig, ByKind()]


def parse_teacher(text: str) -> OllamaConfig | OpenAIConfig | OwnConfig:
    """``ollama:MODEL@URL``, ``openai:MODEL@URL`` or ``own:PATH`` as a section; model and address may be left out.

    Raises:
        CirillaError: another kind, an address that is not http(s), or no path.
    """
    from cirilla_cli.errors import CirillaError

    kind, _, rest = text.partition(":")
    if kind == "own" and rest:
        return OwnConfig(path=Path(rest))
    model, at, url = rest.rpartition("@") if "@http" in rest else (rest, "", "")
    given = {"kind": kind, **{name: value for name, value in (("model", model), ("url", url)) if value}}
    if (
        kind not in ("ollama", "openai")
        or "@" in model
        and "://" in model
        or (at and not url.startswith(("http://", "https://")))
    ):
        raise CirillaError(
            f"--teacher {text}: expected ollama:MODEL@URL, openai:MODEL@URL or own:PATH",
            hint="for example --teacher ollama:qwen3:4b@http://127.0.0.1:11434, or --teacher own:runs/mine-sft",
        )
    return (OllamaConfig if kind == "ollama" else OpenAIConfig).model_validate(given)
