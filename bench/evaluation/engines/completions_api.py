"""Requests to a server that speaks the OpenAI completions API."""

import contextlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from bench.errors import SetupError, did_you_mean
from bench.utils import secret_formats

# vLLM's own variable for the key that its `--api-key` asks for.
KEY_VARIABLE = "VLLM_API_KEY"
TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server of an OpenAI-compatible API. model: the name under which it serves the model; None for its only one.

    option, model_option: what the user named them by, for messages.
    """

    url: str
    model: str | None = None
    option: str = "--server"
    model_option: str = "--served-model"


class Api:
    """Requests to a server. model: the name under which it serves the run's model. Raises SetupError for all faults."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = server.url.rstrip("/").removesuffix("/v1")
        if not self.url.startswith(("http://", "https://")):
            raise SetupError(f"{server.option}: {server.url} is no address of a server; it begins with http://")
        listed = self.get("/v1/models").get("data")
        names = [str(item.get("id")) for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
        if not names:
            raise SetupError(f"{self.url}/v1/models lists no model: is this an OpenAI-compatible server?")
        if server.model is None and len(names) > 1:
            raise SetupError(
                f"{self.url} serves several models; name one with {server.model_option}: {', '.join(names)}"
            )
        self.model = server.model or names[0]
        if self.model not in names:
            raise SetupError(f"{self.url} serves no model {self.model!r}.{did_you_mean(self.model, names)}")

    def version(self) -> str | None:
        """Return the version that vLLM's server tells at /version; None of a server that tells none."""
        try:
            found = self.get("/version").get("version")
        except SetupError:
            return None
        return found if isinstance(found, str) else None

    def get(self, path: str) -> dict[str, Any]:
        """Return the object at a path."""
        return self._sent(urllib.request.Request(self.url + path))

    def post(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to an object that is sent to a path, with the model's name."""
        body = json.dumps({"model": self.model, **content}).encode()
        return self._sent(
            urllib.request.Request(self.url + path, data=body, headers={"Content-Type": "application/json"})
        )

    def completions(self, content: dict[str, Any], count: int, tokens: int) -> list[dict[str, Any]]:
        """Return the completions of so many prompts, in their order. tokens: of all prompts together.

        Raises SetupError for a server that returns others than were asked for, or that cut a prompt.
        """
        reply = self.post("/v1/completions", content)
        choices = reply.get("choices")
        found = [each for each in choices if isinstance(each, dict)] if isinstance(choices, list) else []
        if len(found) != count:
            raise SetupError(f"{self.url} answers {count} prompts with {len(found)} completions")
        usage = reply.get("usage")
        if isinstance(usage, dict) and (read := usage.get("prompt_tokens")) not in (None, tokens):
            raise SetupError(f"{self.url} reads {read} tokens where {tokens} were sent")
        with understood(self.url):
            return sorted(found, key=lambda choice: int(choice.get("index") or 0))

    def _sent(self, request: urllib.request.Request) -> dict[str, Any]:
        if key := os.environ.get(KEY_VARIABLE):
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
                found = json.loads(reply.read())
        except urllib.error.HTTPError as error:
            text = " ".join(error.read().decode("utf-8", "replace").split())[:300]
            said = secret_formats.remove(text or str(error.reason))
            raise Refused(f"{request.full_url} answers {error.code}: {said}", error.code) from error
        except TimeoutError as error:
            raise SetupError(
                f"{request.full_url} gives no answer within {TIMEOUT_S:g} seconds: the server hangs, or is too busy"
            ) from error
        except json.JSONDecodeError as error:
            raise SetupError(
                f"{request.full_url} answers with no JSON: is this an OpenAI-compatible server?"
            ) from error
        except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError; a URL that is none a ValueError
            why = getattr(error, "reason", None) or error
            if isinstance(why, TimeoutError):
                why = f"no connection within {TIMEOUT_S:g} seconds"
            raise SetupError(
                f"the server at {self.url} can't be reached: {why}; start it, or correct {self.server.option}"
            ) from error
        if not isinstance(found, dict):
            raise SetupError(f"{request.full_url} answers with no JSON object: is this an OpenAI-compatible server?")
        return found


@contextlib.contextmanager
def understood(url: str) -> Iterator[None]:
    """Raise SetupError for an answer that is read here and has another form than the API's."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise SetupError(f"{url} answers in another form than the completions API's: {error}") from error


class Refused(SetupError):
    """A server's answer with an error code."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code
