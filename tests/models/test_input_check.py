"""A model has rows for so many tokens, positions and kinds of text, and data beyond are refused before they are run."""

from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from bench.data.examples import Encoded
from bench.errors import SetupError
from bench.evaluation import input_check
from bench.models import input_limits
from tests.helpers.every_decoder import SMALL

VOCABULARY, STATED = 60, 24
SIZES = {**SMALL, "vocab_size": VOCABULARY, "max_position_embeddings": STATED, "n_positions": STATED, "pad_token_id": 1}
BART = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
BART |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
CLASSIFIERS: dict[str, tuple[int | None, dict[str, Any]]] = {
    "bert": (24, {}),
    "electra": (24, {}),
    "albert": (24, {"embedding_size": 16}),
    "distilbert": (24, {}),
    "mobilebert": (24, {"true_hidden_size": 32, "intra_bottleneck_size": 32, "embedding_size": 32}),
    "roberta": (22, {}),
    "camembert": (22, {}),
    "xlm-roberta": (22, {}),
    "mpnet": (22, {}),
    "data2vec-text": (22, {}),
    "opt": (24, {}),
    "gpt2": (24, {}),
    "bart": (24, BART),
    "llama": (None, {"num_key_value_heads": 4}),
    "bloom": (None, {}),
    "t5": (None, {"d_kv": 8}),
    "deberta-v2": (None, {"relative_attention": True, "position_biased_input": False}),
}
WRITERS = {
    "gpt2": AutoModelForCausalLM,
    "opt": AutoModelForCausalLM,
    "biogpt": AutoModelForCausalLM,
    "bart": AutoModelForSeq2SeqLM,
}


def config_of(kind: str, **fields: Any) -> Any:
    family = transformers.models.auto.configuration_auto.CONFIG_MAPPING[kind]
    known = {*family().to_dict(), *family.attribute_map}
    return family(**{name: value for name, value in {**SIZES, **fields}.items() if name in known})


def build(kind: str, auto: Any = AutoModelForSequenceClassification, **fields: Any) -> Any:
    torch.manual_seed(13)
    config = config_of(kind, **fields)
    if config.is_encoder_decoder:
        config.decoder_start_token_id = 1
    return auto.from_config(config).eval()


class Tokens:
    """A tokenizer, as far as the check asks one."""

    def __init__(self, size: int = VOCABULARY, pad: int = 1) -> None:
        self.size, self.pad_token_id, self.pad_token = size, pad, f"t{pad}"

    def __len__(self) -> int:
        return self.size

    def get_vocab(self) -> dict[str, int]:
        return {self.convert_ids_to_tokens(number): number for number in range(self.size)}

    def convert_ids_to_tokens(self, token: int) -> str:
        return f"t{token}"


def split(*features: dict[str, Any]) -> dict[str, Encoded]:
    ids = tuple(f"row {number}" for number in range(len(features)))
    return {"test": Encoded(name="test", ids=ids, features=list(features), truncated=0)}


def text(length: int, **more: Any) -> dict[str, Any]:
    # BART's classifier reads its last end token.
    return {"input_ids": [3 + number % 40 for number in range(length - 1)] + [2], "labels": 0, **more}


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_positions_of_classifiers(kind):
    """The longest text that can be run, run; one token more is what the library itself can't do."""
    limit, fields = CLASSIFIERS[kind]
    model = build(kind, **fields)
    assert input_limits.of_input(model).positions == limit
    length = limit or 2 * STATED
    with torch.no_grad():
        model(input_ids=torch.tensor([text(length)["input_ids"]]))
        if limit is not None:
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=torch.tensor([text(length + 1)["input_ids"]]))
    found = input_check.check(model, Tokens(), split(text(4), text(length)))
    assert bool(found) is (kind in ("llama", "deberta-v2"))  # rotary and relative positions go on
    if limit is not None:
        with pytest.raises(SetupError, match=f"test: the longest text needs {limit + 1} positions, .* has {limit};"):
            input_check.check(model, Tokens(), split(text(limit + 1)))


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("answer", ["labels", "written", "learned"])
def test_positions_of_prompts_with_their_answers(kind, answer):
    model = build(kind, WRITERS[kind], **(BART if kind == "bart" else {}))
    apart = kind == "bart"
    limit = input_limits.of_input(model).positions
    # A decoder's answer stands behind its prompt; an encoder-decoder counts it anew.
    prompt, tokens = (limit, limit) if apart else (limit - 4, {"labels": 5, "written": 4, "learned": 0}[answer])

    def data(more: int) -> dict[str, Encoded]:
        ids = text(prompt + more)["input_ids"]
        if answer == "labels":
            return split({"prompt_ids": ids, "continuation_ids": [[5], [6] * tokens], "labels": 0})
        if answer == "learned":
            ids = ids if apart else text(limit + more)["input_ids"]
            labels = [6] * tokens if apart else [-100] * len(ids)
            return {"train": split({"input_ids": ids, "token_labels": labels, "labels": 0})["test"]}
        return split({"input_ids": ids, "labels": 0})

    new_tokens = tokens if answer == "written" else None
    assert input_check.check(model, Tokens(), data(0), new_tokens) == []
    with pytest.raises(SetupError, match=f"the longest text needs {limit + 1} positions"):
        input_check.check(model, Tokens(), data(1), new_tokens)
    if apart and answer == "written":
        with pytest.raises(SetupError, match=f"the longest answer needs {limit + 1} positions"):
            input_check.check(model, Tokens(), data(0), tokens + 1)


@pytest.mark.parametrize(
    "feature",
    [
        {"input_ids": [3, 60], "labels": 0},
        {"windows": [text(3), {"input_ids": [60, 4]}], "labels": []},
        {"input_ids": [3], "pairs": [text(3), {"input_ids": [60, 4]}], "labels": 0},
        {"input_ids": [3], "prompt_ids": [3], "continuation_ids": [[4], [5, 60]], "labels": 0},
        {"prompt_ids": [3], "continuation_ids": [[4]], "content_free": [text(3), {"input_ids": [60]}]},
    ],
)  # fmt: skip
def test_a_token_beyond_the_vocabulary_wherever_it_stands(feature):
    model = build("gpt2", AutoModelForCausalLM)
    with pytest.raises(
        SetupError, match=r"tokenizer has 61 tokens, the model's vocabulary 60: test 'row 1' holds 't60'"
    ):
        input_check.check(model, Tokens(61), split(text(3), feature))


def test_a_token_beyond_the_vocabulary_that_no_text_holds_is_told():
    found = input_check.check(build("bert"), Tokens(61), split(text(3)))
    assert found == [
        "the tokenizer has 61 tokens, the model's vocabulary 60; no text of these data holds one of those beyond"
    ]


def test_a_pad_token_beyond_the_vocabulary():
    with pytest.raises(SetupError, match="its pad token 't60' is number 60"):
        input_check.check(build("bert"), Tokens(61, pad=60), split(text(3)))


def test_the_answers_vocabulary_counts_too():
    """A model whose output head has fewer rows than its embedding has no logit for the others."""
    model = build("t5", AutoModelForSeq2SeqLM, d_kv=8, tie_word_embeddings=False)
    model.lm_head = torch.nn.Linear(32, 50, bias=False)
    rows = split({"prompt_ids": [3], "continuation_ids": [[4], [55]], "labels": 0})
    with pytest.raises(SetupError, match="the model's vocabulary 50: test 'row 0' holds 't55'"):
        input_check.check(model, Tokens(), rows)


@pytest.mark.parametrize("kind", ["bert", "electra", "mobilebert", "roberta"])
def test_kinds_of_text_beyond_the_models(kind):
    model = build(kind, type_vocab_size=1, **CLASSIFIERS[kind][1])
    pair = text(4, token_type_ids=[0, 0, 1, 1])
    with torch.no_grad(), pytest.raises(IndexError):
        model(**{name: torch.tensor([pair[name]]) for name in ("input_ids", "token_type_ids")})
    with pytest.raises(
        SetupError, match=r"'row 0': the tokenizer numbers the parts of a text up to 1, .* knows 1 kinds"
    ):
        input_check.check(model, Tokens(), split(pair))
    assert input_check.check(model, Tokens(), split(text(4, token_type_ids=[0] * 4))) == []


def test_an_adapters_own_tokens_take_positions():
    from peft import PromptTuningConfig, get_peft_model

    model = get_peft_model(
        build("gpt2", AutoModelForCausalLM), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    )
    assert input_limits.of_input(model).positions == STATED - 4


def test_a_wrapped_embedding_is_found():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        build("gpt2", AutoModelForCausalLM), LoraConfig(task_type="CAUSAL_LM", target_modules=["wte", "wpe"])
    )
    found = input_limits.of_input(model)
    assert (found.tokens, found.positions) == (VOCABULARY, STATED)
