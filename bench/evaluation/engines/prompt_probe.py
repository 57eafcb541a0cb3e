"""Refuses a server that reads the run's prompts as other tokens: another tokenizer, or another chat template."""

from collections.abc import Sequence
from typing import Any

from bench.config.recipe import Prompting
from bench.data.examples import Feature
from bench.data.prompts.chat_frame import ChatFrame
from bench.errors import SetupError
from bench.evaluation.engines.completions_api import Api, Refused

# Prompts whose tokens are compared with the server's.
PROBED = 3
QUESTION = "A question of several words, with a number: 17."


def probe(api: Api, tokenizer: Any, features: Sequence[Feature], prompting: Prompting, advice: str) -> tuple[str, ...]:
    """Return a note on what was compared. Raises SetupError where the server reads prompts as other tokens.

    Texts of the run's prompts, and of a chat's frame where the run asks in one; counts alone where the server has no
    /tokenize. advice: what to serve.
    """
    notes = []
    for feature in features[:PROBED]:
        ids = feature["prompt_ids"] if "prompt_ids" in feature else feature["input_ids"]
        text = tokenizer.decode(ids)
        notes.append(compared(api, "the text of a prompt", {"prompt": text}, tokenizer, text, advice))
    if prompting.format == "chat":
        frame = ChatFrame(tokenizer, prompting.date, prompting.chat_template_kwargs)
        turns = [{"role": "user", "content": QUESTION}]
        text = frame.render(turns, open_answer=True)
        asked: dict[str, Any] = {"messages": turns}
        if prompting.chat_template_kwargs:
            asked["chat_template_kwargs"] = prompting.chat_template_kwargs
        notes.append(compared(api, "a conversation by its chat template", asked, tokenizer, text, advice))
    return tuple(dict.fromkeys(notes))


def compared(api: Api, what: str, asked: dict[str, Any], tokenizer: Any, text: str, advice: str = "") -> str:
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
            raise SetupError(_other(api, what, len(found) if isinstance(found, list) else None, len(own), advice))
        return "the server's tokens of the run's prompts are the run's own"
    if not is_chat:
        own = tokenizer(text)["input_ids"]  # as the API reads a text
    path = "/v1/chat/completions" if is_chat else "/v1/completions"
    count = (api.post(path, {**asked, "max_tokens": 1, "temperature": 0}).get("usage") or {}).get("prompt_tokens")
    if count != len(own):
        raise SetupError(_other(api, what, count, len(own), advice))
    return (
        "the server has no /tokenize: its counts of the prompts' tokens are the run's own, the tokens were not compared"
    )


def _other(api: Api, what: str, found: int | None, own: int, advice: str) -> str:
    read = "no tokens" if found is None else f"{found} other tokens" if found == own else f"{found} tokens"
    return (
        f"{api.url} serves {api.model!r} with another tokenizer or template than the run's: it reads {what} as {read}, "
        f"and the run as {own}" + (f"; {advice}" if advice else "")
    )
