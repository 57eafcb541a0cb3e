"""The form `vllm`: a server that speaks the OpenAI completions API, with log-probabilities of the prompt (`echo`).

The server is started by the user, with the run's exported model: `python -m bench export RUN --merge --out FOLDER`,
then `vllm serve FOLDER`. Before anything is scored, a probe of the prompt's tokens refuses a server with another
tokenizer or chat template than the run's. Prompts are then sent as tokens.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

from torch import nn

from bench.data.prompts.chat_frame import ChatFrame
from bench.errors import SetupError, did_you_mean
from bench.evaluation.likelihood import Answer, Item
from bench.shipping.form import Loaded, Server, Workshop
from bench.shipping.names import FormName

# vLLM's own variable for the key that its `--api-key` asks for.
KEY_VARIABLE = "VLLM_API_KEY"
TIMEOUT_S = 120.0
# Requests at a time: enough that a server fills its batches.
PARALLEL = 16
# Prompts whose tokens are compared with the server's.
PROBED = 3
QUESTION = "A question of several words, with a number: 17."


class Vllm:
    """A served model. Of text alone: the completions API has no task heads."""

    def why_not(self, work: Workshop, name: FormName) -> str | None:
        """Return that no server is named, or that the model is none that a server completes texts with."""
        source = work.source
        if source.recipe.objective != "text" or source.description["model_card"]["family"] != "decoder":
            return "the completions API is for decoders that score text, and this run's model has a head or an encoder"
        if work.writes:
            return "the run's answers are written, and this form scores likelihoods of answers alone"
        if any("prompt_ids" not in feature for feature in source.split.features):
            return "these examples ask by several prompts each, which this form does not send"
        if work.server is None:
            return "no server is named: start `vllm serve FOLDER` of the exported model, and give --server URL"
        return None

    def make(self, work: Workshop, name: FormName, folder: Path) -> None:
        """Make nothing: the server has its model."""

    def load(self, work: Workshop, name: FormName, folder: Path) -> Loaded:
        """Find the served model, and probe it. Raises SetupError for one that is none of the run's."""
        assert work.server is not None
        api = Api(work.server)
        notes = probe(api, work)
        scoring = replace(work.plain_scoring(), scorer=partial(ServedScorer, api))
        return Loaded(model=nn.Module().eval(), scoring=scoring, notes=notes)


class Api:
    """Requests to a server. model: the name under which it serves the run's model. Raises SetupError for all faults."""

    def __init__(self, server: Server) -> None:
        self.url = server.url.rstrip("/").removesuffix("/v1")
        listed = self.get("/v1/models").get("data")
        names = [str(item.get("id")) for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
        if not names:
            raise SetupError(f"{self.url}/v1/models lists no model: is this an OpenAI-compatible server?")
        if server.model is None and len(names) > 1:
            raise SetupError(f"{self.url} serves several models; name one with --served-model: {', '.join(names)}")
        self.model = server.model or names[0]
        if self.model not in names:
            raise SetupError(f"{self.url} serves no model {self.model!r}.{did_you_mean(self.model, names)}")

    def get(self, path: str) -> dict[str, Any]:
        """Return the object at a path."""
        return self._sent(urllib.request.Request(self.url + path))

    def post(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to an object that is sent to a path, with the model's name."""
        body = json.dumps({"model": self.model, **content}).encode()
        return self._sent(
            urllib.request.Request(self.url + path, data=body, headers={"Content-Type": "application/json"})
        )

    def _sent(self, request: urllib.request.Request) -> dict[str, Any]:
        if key := os.environ.get(KEY_VARIABLE):
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
                found = json.loads(reply.read())
        except urllib.error.HTTPError as error:
            text = " ".join(error.read().decode("utf-8", "replace").split())[:300]
            raise Refused(f"{request.full_url} answers {error.code}: {text or error.reason}", error.code) from error
        except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError; a URL that is none a ValueError
            why = getattr(error, "reason", None) or error
            raise SetupError(
                f"the server at {self.url} can't be reached: {why}; start it, or correct --server"
            ) from error
        if not isinstance(found, dict):
            raise SetupError(f"{request.full_url} answers with no JSON object: is this an OpenAI-compatible server?")
        return found


class Refused(SetupError):
    """A server's answer with an error code."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


class ServedScorer:
    """Scores items by a server, as `likelihood.Scorer` does by a model of torch. Takes that one's arguments."""

    def __init__(self, api: Api, model: Any, items: Sequence[Item], **_: Any) -> None:
        self.api, self.items = api, list(items)
        self.batches = [
            list(range(first, min(first + 4 * PARALLEL, len(items)))) for first in range(0, len(items), 4 * PARALLEL)
        ]
        self.notes: list[str] = []
        self.check_s = 0.0

    def run(self, numbers: list[int]) -> list[Answer]:
        """Score the items of these numbers, in their order."""
        if len(numbers) == 1:
            return [self._scored(numbers[0])]
        with ThreadPoolExecutor(PARALLEL) as threads:
            return [*threads.map(self._scored, numbers)]

    def _scored(self, number: int) -> Answer:
        """Send a prompt with each of its continuations; read the log-probabilities behind the prompt."""
        item = self.items[number]
        prompts = [[*item.context, *continuation] for continuation in item.continuations]
        content = {"prompt": prompts, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        reply = self.api.post("/v1/completions", content)
        choices = sorted(reply.get("choices") or [], key=lambda choice: int(choice.get("index", 0)))
        if len(choices) != len(prompts):
            raise SetupError(f"{self.api.url} answers {len(prompts)} prompts with {len(choices)} completions")
        if (read := (reply.get("usage") or {}).get("prompt_tokens")) not in (None, sum(map(len, prompts))):
            raise SetupError(f"{self.api.url} reads {read} tokens where {sum(map(len, prompts))} were sent")
        first = len(item.context)
        scored = [
            _behind(choice, range(first, first + len(continuation)), self.api.url)
            for choice, continuation in zip(choices, item.continuations, strict=True)
        ]
        return Answer(sums=tuple(sum(part) for part, _ in scored), greedy=tuple(likeliest for _, likeliest in scored))


def _behind(choice: dict[str, Any], places: range, url: str) -> tuple[list[float], bool]:
    """Return log-probabilities of the tokens at these places, and whether each is the likeliest one."""
    given = choice.get("logprobs") or {}
    values, tops = given.get("token_logprobs") or [], given.get("top_logprobs") or []
    known = values[places.start : places.stop]
    own = [float(value) for value in known if isinstance(value, int | float)]
    if len(own) != len(places):
        raise SetupError(
            f"{url} gives no log-probabilities of the prompt, which `echo` with `logprobs` asks for: without them no "
            "answer can be scored"
        )
    best = [max((tops[place] or {}).values(), default=0.0) if len(tops) > place else 0.0 for place in places]
    return own, all(value >= most for value, most in zip(own, best, strict=True))  # 0 is more than any of them


def probe(api: Api, work: Workshop) -> tuple[str, ...]:
    """Return a note on what was compared. Raises SetupError where the server reads prompts as other tokens.

    Texts of the run's prompts, and of a chat's frame where the run asks in one; counts alone where the server has no
    /tokenize.
    """
    source = work.source
    tokenizer, prompting = source.scoring.tokenizer, source.recipe.prompting
    notes = []
    for feature in source.split.features[:PROBED]:
        text = tokenizer.decode(feature["prompt_ids"])
        notes.append(compared(api, "the text of a prompt", {"prompt": text}, tokenizer, text))
    if prompting.format == "chat":
        frame = ChatFrame(tokenizer, prompting.date, prompting.chat_template_kwargs)
        turns = [{"role": "user", "content": QUESTION}]
        text = frame.render(turns, open_answer=True)
        asked: dict[str, Any] = {"messages": turns}
        if prompting.chat_template_kwargs:
            asked["chat_template_kwargs"] = prompting.chat_template_kwargs
        notes.append(compared(api, "a conversation by its chat template", asked, tokenizer, text))
    return tuple(dict.fromkeys(notes))


def compared(api: Api, what: str, asked: dict[str, Any], tokenizer: Any, text: str) -> str:
    """Compare the server's tokens of a text, or their number, with the run's own."""
    is_chat = "messages" in asked
    own = tokenizer(text, add_special_tokens=False)["input_ids"]
    try:
        found = api.post("/tokenize", {**asked, "add_special_tokens": False}).get("tokens")
    except Refused as error:
        if error.code not in (404, 405):
            raise
    else:
        if found != own:
            raise SetupError(_other(api, what, len(found) if isinstance(found, list) else None, len(own)))
        return "the server's tokens of the run's prompts are the run's own"
    if not is_chat:
        own = tokenizer(text)["input_ids"]  # as the API reads a text
    path = "/v1/chat/completions" if is_chat else "/v1/completions"
    count = (api.post(path, {**asked, "max_tokens": 1, "temperature": 0}).get("usage") or {}).get("prompt_tokens")
    if count != len(own):
        raise SetupError(_other(api, what, count, len(own)))
    return (
        "the server has no /tokenize: its counts of the prompts' tokens are the run's own, the tokens were not compared"
    )


def _other(api: Api, what: str, found: int | None, own: int) -> str:
    read = "no tokens" if found is None else f"{found} other tokens" if found == own else f"{found} tokens"
    return (
        f"{api.url} serves {api.model!r} with another tokenizer or template than the run's: it reads {what} as {read}, "
        f"and the run as {own}; serve the folder that `python -m bench export RUN --merge` writes"
    )
