"""Models behind any server that speaks OpenAI's chat completions."""

import re
from collections.abc import Mapping
from typing import Any

from cirilla_cli.errors import ServiceError
from cirilla_cli.http import BadStatus, Client, NoAnswer
from cirilla_cli.teachers.base import (
    Completion,
    Failure,
    FailureKind,
    PerThread,
    Request,
    overflow,
    patiently,
)
from cirilla_cli.teachers.config import OpenAIConfig

_CHECK_TRIES = 2
_KINDS: Mapping[str, FailureKind] = {"HTTP 429": "busy", "HTTP 503": "busy", "no answer (ReadTimeout)": "slow"}
_TOO_LONG = re.compile(r"context.{0,12}(?:length|size|window)", re.IGNORECASE)
"""How vLLM and llama.cpp say that a prompt does not fit."""


class OpenAITeacher:
    """`ask` posts to ``/chat/completions`` with the schema as response format."""

    def __init__(self, config: OpenAIConfig) -> None:
        self.config = config
        self.name = f"openai:{config.model}"
        self.context: int | None = config.context
        self.settings: Mapping[str, Any] = {}
        self.address = config.url.rstrip("/")
        self._clients = PerThread(lambda: self._client(max_tries=1, patience_s=0.0))

    def check(self) -> None:
        """See `Teacher.check`; servers without /models count as there."""
        try:
            self._client(max_tries=_CHECK_TRIES, patience_s=2.0).get_json(f"{self.address}/models")
        except BadStatus as error:
            if error.status in (401, 403):
                raise self._no_key(error.status) from None
        except ServiceError as error:
            raise ServiceError(
                f"no server answers at {self.address}: {error}",
                hint="start one, for example `vllm serve MODEL` or `llama-server -m MODEL.gguf --port 8000`; "
                "another address: --teacher openai:MODEL@URL",
            ) from None

    def ask(self, request: Request) -> Completion | Failure:
        """See `Teacher.ask`."""
        return overflow(request, self.config.context) or patiently(lambda: self._post(request), self.config.patience)

    def close(self) -> None:
        """See `Teacher.close`; sessions go with their threads."""

    def _client(self, *, max_tries: int, patience_s: float) -> Client:
        key = self.config.api_key
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key is not None else {}
        return Client(
            "cirilla", timeout_s=self.config.timeout, patience_s=patience_s, max_tries=max_tries, headers=headers
        )

    def _post(self, request: Request) -> Completion | Failure:
        try:
            answer = self._clients.get().post_json(f"{self.address}/{_path(request)}", self._body(request))
            choice = answer["choices"][0]
            text = choice["text"] if request.until else choice["message"].get("content") or ""
            reason = choice.get("finish_reason")
            usage = answer.get("usage") or {}
            used = usage.get("prompt_tokens"), usage.get("completion_tokens")
        except BadStatus as error:
            return self._refusal(error)
        except NoAnswer as error:
            said = f"{self.address}: {error.why}"
            return Failure(_KINDS.get(error.why, "transport"), said, error.wait_s)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError):
            return Failure("transport", f"{self.address}: the answer is not a chat completion")
        # Half a pair of surrogates, which JSON can hold, is no text that a file can.
        return Completion(text.encode("utf-8", "replace").decode(), reason == "length", *used)

    def _refusal(self, error: BadStatus) -> Failure:
        if error.status in (401, 403):
            raise self._no_key(error.status) from None
        if error.status == 404:
            raise ServiceError(
                f"{self.address}: HTTP 404: no model `{self.config.model}`, or no chat completions at this address",
                hint=f"curl {self.address}/models lists the models; an address ends in /v1",
            ) from None
        said = self._without_key(error)
        return Failure("context" if _TOO_LONG.search(said) else "refused", said)

    def _no_key(self, status: int) -> ServiceError:
        return ServiceError(
            f"{self.address}: the server wants a valid key (HTTP {status})", hint="export OPENAI_API_KEY=..."
        )

    def _without_key(self, error: ServiceError) -> str:
        """The message; servers that quote the key they refuse do not get it into a file."""
        key = self.config.api_key
        return str(error) if key is None else str(error).replace(key.get_secret_value(), "***")

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.config.model,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
        }
        if request.until:
            return body | {"prompt": request.messages[0].content, "stop": [request.until]}
        body["messages"] = [message.model_dump() for message in request.messages]
        if request.schema is not None:
            form = {"name": "answer", "schema": dict(request.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        return body


def _path(request: Request) -> str:
    return "completions" if request.until else "chat/completions"
