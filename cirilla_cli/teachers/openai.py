"""Models behind any server that speaks OpenAI's chat completions."""

from typing import Any

from cirilla_cli.errors import ServiceError
from cirilla_cli.http import BadStatus, Client
from cirilla_cli.teachers.base import Completion, Failure, PerThread, Request, overflow
from cirilla_cli.teachers.config import OpenAIConfig

_CHECK_TRIES = 2


class OpenAITeacher:
    """`ask` posts to ``/chat/completions`` with the schema as response format."""

    def __init__(self, config: OpenAIConfig) -> None:
        self.config = config
        self.name = f"openai:{config.model}"
        self.address = config.url.rstrip("/")
        self._clients = PerThread(lambda: self._client(max_tries=8, patience_s=config.patience))

    def check(self) -> None:
        """See `Teacher.check`; servers without /models count as there."""
        try:
            self._client(max_tries=_CHECK_TRIES, patience_s=2.0).get_json(f"{self.address}/models")
        except BadStatus as error:
            if error.status in (401, 403):
                raise ServiceError(f"{self.address}: the server wants a valid key (HTTP {error.status})") from None
        except ServiceError as error:
            raise ServiceError(
                f"no server answers at {self.address}: {error}",
                hint="start one, for example `vllm serve MODEL` or `llama-server -m MODEL.gguf --port 8000`; "
                "another address: --teacher openai:MODEL@URL",
            ) from None

    def ask(self, request: Request) -> Completion | Failure:
        """See `Teacher.ask`."""
        return overflow(request, self.config.context) or self._post(request)

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
            answer = self._clients.get().post_json(f"{self.address}/chat/completions", self._body(request))
            choice = answer["choices"][0]
            text, reason = choice["message"].get("content") or "", choice.get("finish_reason")
            usage = answer.get("usage") or {}
        except BadStatus as error:
            return Failure("refused", self._without_key(error))
        except ServiceError as error:
            busy = "HTTP 503" in str(error) or "HTTP 429" in str(error)
            return Failure("busy" if busy else "transport", self._without_key(error))
        except (KeyError, IndexError, TypeError, AttributeError):
            return Failure("transport", f"{self.address}: the answer is not a chat completion")
        return Completion(text, reason == "length", usage.get("prompt_tokens"), usage.get("completion_tokens"))

    def _without_key(self, error: ServiceError) -> str:
        """The message; servers that quote the key they refuse do not get it into a file."""
        key = self.config.api_key
        return str(error) if key is None else str(error).replace(key.get_secret_value(), "***")

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": [message.model_dump() for message in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
        }
        if request.schema is not None:
            form = {"name": "answer", "schema": dict(request.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        return body
