"""Questions with gold answers: both forms give the same rows, offsets are exact, bad rows are refused with their id."""

import copy
import json
from collections import Counter

import datasets
import pytest
from pydantic import ValidationError

from bench.config import yaml_loader
from bench.config.cards import DatasetCard
from bench.config.resolve import SHIPPED
from bench.data import dataset, squad
from bench.errors import DataError, RecipeError
from tests.helpers.cases import together
from tests.helpers.launching import ROOT

SHARED = ROOT.parent / "shared" / "data"
CONTEXT = "The mill of Orsa was built in 1742 by Anna Berg. It is 24 metres high."
COLUMNS = {"id": "id", "text": "context", "text_pair": "question", "answers": "answers", "group": "title"}


def question(identity, text="1742", start=30, **more):
    """A question of an official file."""
    answers = [{"text": text, "answer_start": start}] if text is not None else []
    return {"id": identity, "question": f"What about {identity}?", "answers": answers, **more}


def official(*questions, title="Orsa", context=CONTEXT):
    """The content of an official file with one paragraph."""
    return {"version": "x", "data": [{"title": title, "paragraphs": [{"context": context, "qas": [*questions]}]}]}


def flat(content):
    """The same questions in the Hub's form, made independently of bench.squad."""
    rows = []
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for item in paragraph["qas"]:
                answers = {
                    "text": [answer["text"] for answer in item["answers"]],
                    "answer_start": [answer["answer_start"] for answer in item["answers"]],
                }
                row = {"id": item["id"], "title": article["title"], "context": paragraph["context"]}
                rows.append({**row, "question": item["question"], "answers": answers})
    return rows


def json_lines(rows):
    return "\n".join(json.dumps(row) for row in rows) + "\n"


@pytest.fixture
def card(tmp_path):
    """card(splits={"train": "all"}, ...) -> a card on tmp_path's official JSON, or on JSON lines."""

    def make(kind="squad", names=("all",), **changes):
        ending = "json" if kind == "squad" else kind
        files = {name: f"{name}.{ending}" for name in names}
        content = {
            "task": "question_answering",
            "licence": "none",
            "columns": COLUMNS,
            "splits": {"train": "all"},
            "source": {"kind": kind, "folder": str(tmp_path), "files": files},
        }
        return DatasetCard.model_validate({**content, **changes})

    return make


def load(card, limit=None, needed=None):
    return dataset.load(card, limit or {}, needed or {*card.split_names})


def refused(card, **options):
    with pytest.raises(DataError) as caught:
        load(card, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- both forms, and what a row is


def test_a_row(card, write):
    content = official(question("a"), question("b", None, is_impossible=True, plausible_answers=[{"text": "24"}]))
    content["data"][0]["paragraphs"][0]["qas"][0]["answers"].append({"text": "in 1742", "answer_start": 27})
    write("all.json", json.dumps(content))
    corpus = load(card())
    assert corpus.splits["train"].rows == [
        {
            "id": "a",
            "text": CONTEXT,
            "text_pair": "What about a?",
            "label": 1,
            "answers": ["1742", "in 1742"],
            "answer_starts": [30, 27],
            "title": "Orsa",
        },
        {
            "id": "b",
            "text": CONTEXT,
            "text_pair": "What about b?",
            "label": 0,
            "answers": [],
            "answer_starts": [],
            "title": "Orsa",
        },
    ]
    assert corpus.labels == ("unanswerable", "answerable")
    assert corpus.splits["train"].labels(corpus.labels) == {"unanswerable": 1, "answerable": 1}
    assert corpus.notes == ("all: 1 questions have plausible answers, which are not used",)


@pytest.mark.parametrize("as_list", [False, True])
def test_both_forms_give_the_same_rows(card, write, as_list):
    content = official(question("a"), question("b", None), question("c", "Anna Berg", 38))
    rows = flat(content)
    if as_list:
        # A list of pairs, as some uploads have it.
        for row, item in zip(rows, content["data"][0]["paragraphs"][0]["qas"], strict=True):
            row["answers"] = item["answers"]
    write("all.json", json.dumps(content))
    write("all.jsonl", json_lines(rows))
    one, other = load(card()), load(card("jsonl"))
    assert one.splits["train"].rows == other.splits["train"].rows
    assert one.splits["train"].fingerprint == other.splits["train"].fingerprint
    assert one.version == other.version == "2.0"


def test_a_card_without_group(card, write):
    write("all.json", json.dumps(official(question("a"))))
    row = load(card(columns={**COLUMNS, "group": None})).splits["train"].rows[0]
    assert row["title"] == ""


def test_the_fingerprint_is_of_the_answers_too(card, write):
    def fingerprint(*answers):
        content = official(question("a"))
        content["data"][0]["paragraphs"][0]["qas"][0]["answers"] = list(answers)
        write("all.json", json.dumps(content))
        return load(card()).splits["train"].fingerprint

    first, second = {"text": "1742", "answer_start": 30}, {"text": "4", "answer_start": 32}
    other_place = {"text": "4", "answer_start": CONTEXT.index("24 m") + 1}
    assert len({fingerprint(first), fingerprint(first, second), fingerprint(second), fingerprint(other_place)}) == 4


@pytest.mark.parametrize("version", ["1.1", "2.0"])
@pytest.mark.parametrize("part", ["train", "eval"])
@pytest.mark.skipif(not (SHARED / "squad_v1.1").is_dir(), reason="there are no SQuAD samples in ../shared/data")
def test_real_files_in_both_forms(card, write, version, part):
    text = (SHARED / f"squad_v{version}" / f"{part}.json").read_text(encoding="utf-8")
    write("all.json", text)
    write("all.jsonl", json_lines(flat(json.loads(text))))
    one, other = load(card()), load(card("jsonl"))
    rows = one.splits["train"].rows
    assert rows == other.splits["train"].rows
    assert len(rows) == {"1.1": {"train": 2000, "eval": 300}, "2.0": {"train": 1000, "eval": 300}}[version][part]
    assert one.version == other.version == version
    for row in rows:
        for answer, start in zip(row["answers"], row["answer_starts"], strict=True):
            assert row["text"][start : start + len(answer)] == answer


@pytest.mark.parametrize(
    ("name", "version", "asked"),
    [("squad_local", "1.1", ["squad"]), ("squad_v2_local", "2.0", ["squad_v2"])],
)
@pytest.mark.skipif(not (SHARED / "squad_v1.1").is_dir(), reason="there are no SQuAD samples in ../shared/data")
def test_shipped_cards_on_real_files(name, version, asked):
    card = shipped(name)
    source = card.source.model_copy(update={"folder": str(SHARED.parent / card.source.folder)})
    corpus = load(card.model_copy(update={"source": source}))
    assert corpus.version == version
    squad.check_version(corpus.version, card.metrics)
    assert list(card.metrics) == asked
    titles = {split: {row["title"] for row in found.rows} for split, found in corpus.splits.items()}
    assert set(titles) == {"train", "validation", "test"}
    assert not titles["train"] & (titles["validation"] | titles["test"])
    sizes = {split: len(found.rows) for split, found in corpus.splits.items()}
    assert sizes["test"] == 300
    assert sizes["validation"] / (sizes["validation"] + sizes["train"]) == pytest.approx(0.1, abs=0.02)
    assert any(note.startswith(f"validation: {sizes['validation']} rows") for note in corpus.notes)


def shipped(name):
    path = SHIPPED / "datasets" / f"{name}.yaml"
    return DatasetCard.model_validate(yaml_loader.read(path, str(path)).data)


@pytest.mark.parametrize(("name", "version"), [("passages", "1.1"), ("passages_v2", "2.0")])
def test_shipped_cards_of_the_built_in_passages(name, version):
    card = shipped(name)
    corpus = load(card)
    assert (corpus.version, corpus.notes) == (version, ())
    assert {split: len(found.rows) for split, found in corpus.splits.items()} == {
        "train": 800,
        "validation": 80,
        "test": 80,
    }
    squad.check_version(corpus.version, card.metrics)
    assert all(squad.misaligned(row) is None for found in corpus.splits.values() for row in found.rows)


@pytest.mark.parametrize("name", ["squad", "squad_v2", "squad_local", "squad_v2_local", "passages", "passages_v2"])
def test_shipped_cards_agree(name):
    card = shipped(name)
    assert card.columns.model_dump(exclude_defaults=True) == COLUMNS
    assert card.labels == squad.LABELS
    assert set(card.split_names) == {"train", "validation", "test"}
    assert card.metrics == (("squad_v2",) if "v2" in name else ("squad",))


# ---------------------------------------------------------------- versions


@pytest.mark.parametrize(
    ("questions", "version"),
    [
        ([question("a"), question("b")], "1.1"),
        ([question("a"), question("b", None)], "2.0"),
        ([question("a", is_impossible=False)], "2.0"),
    ],
)
def test_the_version_is_derived(card, write, questions, version):
    write("all.json", json.dumps(official(*questions)))
    assert load(card()).version == version


def test_the_version_is_that_of_all_splits_and_of_what_a_filter_keeps(card, write):
    write("all.json", json.dumps(official(question("a"))))
    write("other.json", json.dumps(official(question("b", None), title="Velm", context="Nothing.")))
    both = {"names": ("all", "other"), "splits": {"train": "all", "test": "other"}}
    assert load(card(**both), needed={"train"}).version == "2.0"
    write("all.json", json.dumps(official(question("a"), question("b", None))))
    corpus = load(card(filters={"labels": ("answerable",)}))
    assert corpus.version == "1.1"
    assert corpus.splits["train"].dropped == {"labels": 1}


def test_metrics_of_the_other_version_are_refused():
    squad.check_version("1.1", ["squad", "rouge"])
    squad.check_version("2.0", ["squad_v2"])
    squad.check_version(None, ["accuracy", "f1"])
    with pytest.raises(
        RecipeError, match=r"'squad' does not fit: these data have questions without an answer .* squad_v2"
    ):
        squad.check_version("2.0", ["f1", "squad"])
    with pytest.raises(
        RecipeError, match=r"'squad_v2' does not fit: in these data every question has an .* ask for squad"
    ):
        squad.check_version("1.1", ["squad_v2"])
    with pytest.raises(RecipeError, match=r"these data have no gold answers; a card names them with columns\.answers"):
        squad.check_version(None, ["squad"])


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "all.json: not valid JSON: "),
        ("[]", "all.json: not in SQuAD's format: expected an object with a list 'data', got []"),
        ('{"data": [3]}', "all.json: data[0]: not in SQuAD's format: expected an object, got 3"),
        (
            '{"data": [{"title": "x"}]}',
            "all.json: data[0]: not in SQuAD's format: expected an object with a list 'paragraphs'",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "x"}]}]}',
            "data[0].paragraphs[0]: not in SQuAD's format: expected an obj",
        ),
        (
            '{"data": [{"paragraphs": [{"qas": [[]]}]}]}',
            "data[0].paragraphs[0].qas[0]: not in SQuAD's format: expected an",
        ),
        ('{"data": []}', "the split 'all' is empty: the source holds no rows for it"),
        (b'{"data": "\xff"}', "all.json: not UTF-8 text"),
    ],
)
def test_files_of_another_shape(card, write, content, message):
    write("all.json", content)
    assert message in refused(card())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": "1742"}, "'answers' must hold lists `text` and `answer_start` of equal length"),
        ({"answers": {"text": ["1742"]}}, "'answers' must hold lists"),
        ({"answers": {"text": ["1742"], "answer_start": []}}, "'answers' must hold lists"),
        ({"answers": ["1742"]}, "'answers' must hold lists"),
        ({"answers": None}, "'answers' must hold lists"),
        ({"answers": [{"text": " \n", "answer_start": 3}]}, "an answer must be text that is not empty, got ' \\n'"),
        ({"answers": [{"text": "", "answer_start": 3}]}, "an answer must be text that is not empty, got ''"),
        ({"answers": [{"text": 1742, "answer_start": 30}]}, "an answer must be text that is not empty, got 1742"),
        ({"answers": [{"text": "1742"}]}, "the start of the answer '1742' must be a whole number, got None"),
        ({"answers": [{"text": "1742", "answer_start": 30.0}]}, "must be a whole number, got 30.0"),
        ({"answers": [{"text": "1742", "answer_start": True}]}, "must be a whole number, got True"),
        ({"is_impossible": True}, "is_impossible is True, but the question has 1 answer"),
        ({"is_impossible": False, "answers": []}, "is_impossible is False, but the question has no answer"),
        ({"question": ""}, "has an empty text ('question'); remove the row, or set filters.drop_empty: true"),
        ({"question": " \t"}, "has an empty text ('question')"),
        ({"question": None}, "has an empty text ('question')"),
        ({"question": 7}, "the column 'question': expected text, got 7"),
    ],
)
def test_bad_questions_are_refused_with_their_id(card, write, changes, message):
    write("all.json", json.dumps(official(question("good"), {**question("bad"), **changes})))
    found = refused(card())
    assert found.startswith("row bad of the split 'all'")
    assert message in found


def test_a_question_without_answers_id_or_context(card, write):
    bad = question("bad")
    del bad["answers"]
    write("all.json", json.dumps(official(question("good"), bad)))
    assert refused(card()).startswith("row bad of the split 'all' has no 'answers'.")
    bad = question("bad")
    del bad["id"]
    write("all.json", json.dumps(official(question("good"), bad)))
    assert refused(card()) == "row 2 of the split 'all' has no value in the id column 'id'"
    for context in (None, "", "  "):
        write("all.json", json.dumps(official(question("lost", None), context=context)))
        assert refused(card()).startswith("row lost of the split 'all' has an empty text ('context')")
    write(
        "all.jsonl",
        json_lines([{key: value for key, value in flat(official(question("a")))[0].items() if key != "context"}]),
    )
    assert refused(card("jsonl")).startswith("the split 'all' has no column 'context'.")


def test_duplicate_ids(card, write):
    write("all.json", json.dumps(official(question("a"), question("b"), question("a"))))
    assert refused(card()) == "duplicate id 'a' in the split 'all'"


@pytest.mark.parametrize(
    ("start", "hint"),
    [(29, ""), (31, ", which is there if offsets count from 1"), (-len(CONTEXT) + 30, ""), (10_000, "")],
)
def test_an_answer_elsewhere_is_refused(card, write, start, hint):
    write("all.json", json.dumps(official(question("good"), question("bad", start=start))))
    message = refused(card())
    assert message.startswith(f"row bad of the split 'train': at character {start} of the context is ")
    assert f"not the answer '1742'{hint}; " in message
    assert message.endswith("1 such rows; correct them, or set filters.drop_misaligned: true")


def test_misaligned_rows_are_left_out_of_training_alone(card, write):
    bad = official(question("good"), question("bad", start=29), question("none", None))
    write("all.json", json.dumps(bad))
    write("other.json", json.dumps(official(question("fine"), title="Velm", context=CONTEXT.replace("Orsa", "Velm"))))
    both = {"names": ("all", "other"), "filters": {"drop_misaligned": True}}
    corpus = load(card(**both, splits={"train": "all", "test": "other"}))
    assert [row["id"] for row in corpus.splits["train"].rows] == ["good", "none"]
    assert corpus.splits["train"].dropped == {"drop_misaligned": 1}
    assert "train: 1 rows left out (drop_misaligned)" in corpus.notes
    for scored in ("test", "validation"):
        message = refused(card(**both, splits={"train": "other", scored: "all"}))
        assert message.startswith(f"row bad of the split '{scored}': at character ")
        assert message.endswith("nothing is left out of a split that is scored")
    write("all.json", json.dumps(official(question("bad", start=29))))
    assert refused(card(**both)) == "the split 'train' is empty: left out 1 rows by drop_misaligned"


@pytest.mark.parametrize(
    "context",
    [
        "I\u0307stanbul \u1e9e stra\u00dfe e\u0301 \ufb01 \U0001f600 \u212b: founded in 1742.",
        "A\u00a0b\u2003c  two  spaces\r\n\tand <br /> &amp; @someone http://x.y in 1742",
    ],
)
def test_nothing_is_done_to_a_context(card, write, context):
    """Characters whose number changes under case folding or composition, and white space, stay where they are."""
    start = context.index("1742")
    write("all.json", json.dumps(official(question("a", start=start), context=context)))
    row = load(card()).splits["train"].rows[0]
    assert row["text"] == context
    assert row["text"][row["answer_starts"][0] :][:4] == "1742"
    # Offsets in UTF-16 units or bytes, as other languages count, are seen.
    in_bytes = len(context[:start].encode())
    if in_bytes != start:
        write("all.json", json.dumps(official(question("a", start=in_bytes), context=context)))
        assert "of the context is " in refused(card())


def test_a_very_long_context(card, write):
    context = "word " * 10_000 + "1742"
    write("all.json", json.dumps(official(question("a", start=50_000), context=context)))
    row = load(card()).splits["train"].rows[0]
    assert (len(row["text"].split()), row["answer_starts"]) == (10_001, [50_000])


@together("false, true", [(False, True), (0, 1), ("false", "true"), ("False", "True"), (0.0, 1.0), ("0", "1")])
def test_is_impossible_in_other_words(card, write, false, true):
    rows = official(question("a", is_impossible=false), question("b", None, is_impossible=true), question("c"))
    write("all.json", json.dumps(rows))
    corpus = load(card())
    assert [row["label"] for row in corpus.splits["train"].rows] == [1, 0, 1]
    assert corpus.version == "2.0"
    write("all.json", json.dumps(official(question("a", is_impossible=true))))
    assert f"is_impossible is {true!r}, but the question has 1 answer" in refused(card())
    write("all.json", json.dumps(official(question("a", None, is_impossible=false))))
    assert f"is_impossible is {false!r}, but the question has no answer" in refused(card())


@together("value", ["maybe", "", 2, [], -1])
def test_is_impossible_that_can_not_be_read(card, write, value):
    write("all.json", json.dumps(official(question("a", is_impossible=value))))
    assert f"is_impossible is {value!r}; expected true or false, or 1 or 0" in refused(card())


@together(
    "start, hint",
    [
        (len("Zażółć gęślą jaźń w 1742".encode()) - 4, "bytes (UTF-8)"),
        (len("Zażółć gęślą jaźń w ") + 1, "from 1"),
    ],
)
def test_offsets_that_count_otherwise(card, write, start, hint):
    content = official(question("a", start=start), context="Zażółć gęślą jaźń w 1742 roku.")
    write("all.json", json.dumps(content))
    assert f"which is there if offsets count {hint}" in refused(card())


def test_offsets_in_units_of_utf_16(card, write):
    context = "\U0001f44d\U0001f44d in 1742"
    write("all.json", json.dumps(official(question("a", start=8), context=context)))
    assert "which is there if offsets count units of UTF-16, as JavaScript does" in refused(card())


def test_a_filter_that_leaves_no_answer(card):
    with pytest.raises(ValidationError, match="only questions without an answer would be left"):
        card(filters={"labels": ("unanswerable",)})


# ---------------------------------------------------------------- leakage, dividing, limits


@pytest.fixture
def leaking(card, write):
    """leaking(policy, ...): of ten training questions, two stand on a context of the test, two in its article."""

    def make(policy, **changes):
        train = official(*(question(f"own{number}") for number in range(6)))
        same = CONTEXT.replace("Orsa", "Velm")
        train["data"] += official(question("c1"), question("c2", None), title="", context=same.upper())["data"]
        for item in train["data"][1]["paragraphs"][0]["qas"]:
            item["question"], item["answers"] = f"Another question {item['id']}?", []
        train["data"] += official(question("t1", None), question("t2", None), title="Velm", context="More on it.")[
            "data"
        ]
        test = official(question("x1"), question("x2", None), title="Velm", context=f"{same} ")
        write("all.json", json.dumps(train))
        write("test.json", json.dumps(test))
        return card(names=("all", "test"), splits={"train": "all", "test": "test"}, leakage=policy, **changes)

    return make


def test_contexts_and_articles_on_both_sides(leaking):
    message = refused(leaking("error"))
    assert message.startswith("leakage: the passages or articles of 4 rows of 'train' also occur in another split")
    assert "(c1 = x2, c2 = x2, t1 = x2, ...); set leakage: drop" in message
    corpus = load(leaking("drop"))
    assert [row["id"] for row in corpus.splits["train"].rows] == [f"own{number}" for number in range(6)]
    assert corpus.splits["train"].dropped == {"leakage": 4}
    assert len(corpus.splits["test"].rows) == 2
    corpus = load(leaking("allow"))
    assert len(corpus.splits["train"].rows) == 10
    assert corpus.notes[0].startswith("leakage allowed by the card: the passages or articles of 4 rows")
    by_context = load(leaking("drop", columns={**COLUMNS, "group": None}))
    assert by_context.splits["train"].dropped == {"leakage": 2}


def articles(sizes, answerable=0.5):
    """Content with an article of each size, each with its own share of answerable questions."""
    content = {"data": []}
    for number, size in enumerate(sizes):
        questions = [
            question(f"{number}-{each}", *((None,) if each >= size * answerable else ())) for each in range(size)
        ]
        context = CONTEXT.replace("Orsa", f"O{number:03d}")
        content["data"] += official(*questions, title=f"Article {number}", context=context)["data"]
    return content


def test_articles_are_not_divided(card, write):
    content = articles([7, 12, 3, 20, 9, 14, 5, 8, 11, 6, 16, 10, 4, 13, 2])
    write("all.json", json.dumps(content))
    part = {"of": ("all",), "into": {"train": 0.8, "test": 0.2}, "by_group": True}
    corpus = load(card(splits={}, divide=(part,)))
    titles = {name: {row["title"] for row in split.rows} for name, split in corpus.splits.items()}
    assert not titles["train"] & titles["test"]
    sizes = {name: len(split.rows) for name, split in corpus.splits.items()}
    assert sum(sizes.values()) == 140
    assert abs(sizes["test"] - 28) <= 1
    assert (
        f"test: {sizes['test']} rows, {sizes['test'] / 140:.3g} of all, for 0.2 asked: groups stay together"
        in corpus.notes
    )
    shares = [split.labels(corpus.labels)["answerable"] / sizes[name] for name, split in corpus.splits.items()]
    assert abs(shares[0] - shares[1]) < 0.05
    again = load(card(splits={}, divide=(part,)), needed={"test"})
    assert again.splits["test"].fingerprint == corpus.splits["test"].fingerprint
    assert not any(note.startswith("train") for note in again.notes)
    alone = {**part, "by_group": False}
    divided = load(card(splits={}, divide=(alone,), leakage="allow"))
    assert {name: len(split.rows) for name, split in divided.splits.items()} == {"train": 112, "test": 28}
    assert "the passages or articles of" in refused(card(splits={}, divide=(alone,)))


def test_a_question_of_no_article_cannot_be_placed(card, write):
    content = articles([2, 2])
    content["data"][1]["title"] = " "
    write("all.json", json.dumps(content))
    part = {"of": ("all",), "into": {"train": 0.5, "test": 0.5}, "by_group": True}
    assert (
        refused(card(splits={}, divide=(part,)))
        == "row 1-0 has an empty group; divide.by_group needs one for every row"
    )


def test_texts_with_labels_can_be_divided_by_group_too(write, tmp_path):
    rows = [{"text": f"sentence {n}", "label": n % 2, "film": f"film {n // 4}"} for n in range(40)]
    write("all.jsonl", json_lines(rows))
    content = {
        "task": "text_classification",
        "licence": "none",
        "labels": ("bad", "good"),
        "columns": {"group": "film"},
        "divide": ({"of": ("all",), "into": {"train": 30, "test": 10}, "by_group": True},),
        "source": {"kind": "jsonl", "folder": str(tmp_path), "files": {"all": "all.jsonl"}},
    }
    corpus = load(DatasetCard.model_validate(content))
    films = [{row["title"] for row in split.rows} for split in corpus.splits.values()]
    assert not films[0] & films[1]
    assert {name: len(split.rows) for name, split in corpus.splits.items()} in (
        {"train": 32, "test": 8},
        {"train": 28, "test": 12},
    )
    assert corpus.version is None


def test_a_limit_keeps_the_share_of_answerable_questions(card, write):
    write("all.json", json.dumps(articles([30, 30], answerable=2 / 3)))
    split = load(card(), limit={"train": 9}).splits["train"]
    assert split.labels(squad.LABELS) == {"unanswerable": 3, "answerable": 6}
    assert split.dropped == {"limit": 51}


# ---------------------------------------------------------------- cards


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clean": ("strip",)}, "passages can't be cleaned: that would shift the answers' offsets"),
        ({"columns": {**COLUMNS, "answers": None}}, "needs `columns.answers`"),
        ({"columns": {**COLUMNS, "text_pair": None}}, "needs the column of the question"),
        ({"columns": {**COLUMNS, "label": "topic"}}, "the label is whether there is an answer"),
        ({"labels": ("answerable", "unanswerable")}, "write [unanswerable, answerable]"),
        ({"multi_label": True}, "a question is answerable or not"),
        ({"task": "text_classification"}, "only task 'question_answering' has gold answers"),
        (
            {"task": "text_classification", "columns": {}, "filters": {"drop_misaligned": True}},
            "needs `columns.answers`",
        ),
        ({"task": "text_classification", "columns": {}}, "needs `columns.answers`"),
        (
            {"columns": {**COLUMNS, "group": None}, "divide": ({"of": ("all",), "into": {"a": 1}, "by_group": True},)},
            "needs `columns.group`",
        ),
        ({"divide": ({"of": ("all",), "into": {"a": 1}, "by_group": True, "balanced": True},)}, "can't be `balanced`"),
    ],
)
def test_cards_that_contradict_themselves(card, changes, message):
    with pytest.raises(ValidationError) as caught:
        card(**changes)
    assert message in str(caught.value)


def test_flatten_copies_and_keeps_the_order():
    content = articles([3, 1, 2])
    before = copy.deepcopy(content)
    rows = squad.flatten(content, "place")
    assert content == before
    assert [row["id"] for row in rows] == ["0-0", "0-1", "0-2", "1-0", "2-0", "2-1"]
    assert Counter(row["title"] for row in rows) == {"Article 0": 3, "Article 1": 1, "Article 2": 2}


@pytest.mark.parametrize("kind", ["saved", "parquet"])
def test_tables_with_nested_columns_give_the_same_rows(card, write, tmp_path, kind):
    content = official(question("a"), question("b", None), question("c", "Anna Berg", 38))
    write("all.json", json.dumps(content))
    table = datasets.Dataset.from_list(flat(content))
    if kind == "saved":
        datasets.DatasetDict({"all": table}).save_to_disk(tmp_path / "saved")
        other = card(source={"kind": "saved", "folder": str(tmp_path / "saved")})
    else:
        table.to_parquet(tmp_path / "all.parquet")
        other = card("parquet")
    assert load(other).splits["train"].rows == load(card()).splits["train"].rows
    assert load(other).version == "2.0"
