"""Models served by Ollama, through its own client."""

from collections.abc import Mapping
from typing import Any

import httpx
import ollama

from cirilla_cli.errors import ServiceError
from cirilla_cli.teachers.base import Completion, Failure, Request, overflow, patiently
from cirilla_cli.teachers.config import OllamaConfig

_BUSY = frozenset({408, 429, 503})
_TRANSPORT = (ConnectionError, httpx.TransportError, ValueError, TypeError)
"""What the client lets through besides its ResponseError (read in its code, 0.6.3): no connection; torn or odd JSON,
which json and pydantic refuse with ValueErrors; JSON that is no object."""
_CHECK_S = 10.0
_MOST_CHARS_PER_TOKEN = 8
"""More than prose has in any tokenizer and language: 4 to 5 in English and German, fewer in Chinese."""


class OllamaTeacher:
    """`ask` sends one chat; the context length goes with it, since Ollama cuts longer prompts without a word."""

    def __init__(self, config: OllamaConfig) -> None:
        self.config = config
        self.name = f"ollama:{config.model}"
        self.context: int | None = config.num_ctx
        self.settings: Mapping[str, Any] = {} if config.think is None else {"think": config.think}
        self.address = config.url
        self._client = ollama.Client(host=config.url, timeout=config.timeout)

    def check(self) -> str | None:
        """See `Teacher.check`; the model must be there."""
        client = ollama.Client(host=self.config.url, timeout=_CHECK_S)
        names = self.config.model, f"{self.config.model}:latest"
        try:
            if found := [one for one in client.list().models if one.model in names]:
                digest: str | None = found[0].digest
                return digest
            client.show(self.config.model)  # which knows a model by its longer names too
        except (ConnectionError, httpx.TransportError) as error:
            raise self._away(f"no Ollama server answers at {self.address} ({type(error).__name__})") from None
        except ollama.ResponseError as error:
            if error.status_code == 404 and self.config.model in error.error:
                raise self._missing() from None
        except ValueError:
            pass
        return None  # something answers; whether it can chat, the first request tells

    def ask(self, request: Request) -> Completion | Failure:
        """See `Teacher.ask`.

        Raises:
            ServiceError: the model is gone from the server.
        """
        return overflow(request, self.config.num_ctx) or patiently(lambda: self._once(request), self.config.patience)

    def close(self) -> None:
        """See `Teacher.close`; the client closes its connections by itself."""

    def _once(self, request: Request) -> Completion | Failure:
        try:
            text, answer = self._sent(request)
        except (httpx.ReadTimeout, httpx.WriteTimeout):
            return Failure("slow", f"{self.address}: no answer within {self.config.timeout:g} s")
        except ollama.ResponseError as error:
            return self._refusal(error)
        except _TRANSPORT as error:
            return Failure("transport", f"{self.address}: {type(error).__name__}: {error}"[:300])
        used = (answer.prompt_eval_count or 0) + (answer.eval_count or 0)
        if used >= self.config.num_ctx:
            # Ollama then has dropped the beginning, which is the page, and gone on.
            return Failure("context", f"prompt and answer took {used} tokens of a context of {self.config.num_ctx}")
        chars, read = sum(len(message.content) for message in request.messages), answer.prompt_eval_count
        if read and read * _MOST_CHARS_PER_TOKEN < chars:
            # It holds less than `num_ctx`, and has dropped the beginning all the same.
            return Failure("context", f"the server read {read} tokens of a prompt of {chars} characters: it was cut")
        cut = answer.done_reason == "length"
        return Completion(text, cut, answer.prompt_eval_count, answer.eval_count)

    def _sent(self, request: Request) -> tuple[str, ollama.ChatResponse | ollama.GenerateResponse]:
        call = self._call(request)
        if request.until:
            raw = self._client.generate(prompt=request.messages[0].content, raw=True, **call)
            return raw.response, raw
        messages = [message.model_dump() for message in request.messages]
        chat = self._client.chat(messages=messages, format=dict(request.schema) if request.schema else None, **call)
        return chat.message.content or "", chat

    def _call(self, request: Request) -> dict[str, Any]:
        options = {
            "num_ctx": self.config.num_ctx,
            "num_predict": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            **({"stop": [request.until]} if request.until else {}),
        }
        return {"model": self.config.model, "options": options, **self.settings}

    def _refusal(self, error: ollama.ResponseError) -> Failure:
        if error.status_code == 404:
            raise self._missing() from None
        detail = f"{self.address}: HTTP {error.status_code}: {error.error[:200]}"
        if error.status_code in _BUSY:
            return Failure("busy", detail)
        return Failure("transport" if error.status_code >= 500 or error.status_code < 0 else "refused", detail)

    def _missing(self) -> ServiceError:
        return ServiceError(
            f"{self.address}: Ollama has no model `{self.config.model}`", hint=f"ollama pull {self.config.model}"
        )

    def _away(self, said: str) -> ServiceError:
        start = f"start one with `ollama serve`, then `ollama pull {self.config.model}`"
        return ServiceError(said, hint=f"{start}; another address: --teacher ollama:MODEL@URL")
