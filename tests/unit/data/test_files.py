"""Data files: compressed, in other encodings, lists and patterns of them, and what is not a file to read at all."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import pickle
import tarfile

import datasets
import pandas
import pytest

from bench.config import resolve
from bench.config.cards import DatasetCard
from bench.config.data_source import Source
from bench.data import dataset
from bench.errors import DataError
from tests.helpers.cases import together

ROWS = [{"text": "Zażółć gęślą jaźń", "label": "pos"}, {"text": "it is bad", "label": "neg"}]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n"
TABLE = "text,label\n" + "\n".join(",".join(row.values()) for row in ROWS) + "\n"


def tarred(name, content):
    """A tar archive of one file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def card(tmp_path):
    """card("jsonl", "train.jsonl.gz") -> a card on these files of tmp_path, for the split train."""

    def make(kind, files, **source):
        content = {
            "task": "text_classification",
            "licence": "none",
            "splits": {"train": "train"},
            "source": {"kind": kind, "folder": str(tmp_path), "files": {"train": files}, **source},
        }
        return DatasetCard.model_validate(content)

    return make


def load(card):
    return dataset.load(card, {}, {"train"})


def texts(card):
    return [row["text"] for row in load(card).splits["train"].rows]


def refused(card):
    with pytest.raises(DataError) as caught:
        load(card)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- compression and encodings


@together("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize(("kind", "content"), [("jsonl", LINES), ("json", json.dumps(ROWS)), ("csv", TABLE)])
def test_compressed_files_are_read_whatever_they_are_called(card, write, pack, kind, content):
    for name in (f"train.{kind}.gz", f"train.{kind}", "train.bin"):
        write(name, pack(content.encode()))
        assert texts(card(kind, name)) == [row["text"] for row in ROWS]


def test_a_gzip_file_of_two_members(card, write):
    first, second = LINES.splitlines(keepends=True)
    write("train.jsonl.gz", gzip.compress(first.encode()) + gzip.compress(second.encode()))
    assert len(texts(card("jsonl", "train.jsonl.gz"))) == 2


def test_a_compressed_parquet_file(card, tmp_path):
    pandas.DataFrame(ROWS).to_parquet(tmp_path / "train.parquet")
    (tmp_path / "train.parquet.gz").write_bytes(gzip.compress((tmp_path / "train.parquet").read_bytes()))
    assert texts(card("parquet", "train.parquet.gz")) == [row["text"] for row in ROWS]


@together("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_file_that_is_damaged(card, write, pack):
    packed = pack(LINES.encode() * 50)
    write("train.jsonl.gz", packed[: len(packed) // 2])
    assert "the compressed file is damaged" in refused(card("jsonl", "train.jsonl.gz"))
    write("train.jsonl.gz", packed[:12] + bytes(20) + packed[32:])
    assert "the compressed file is damaged" in refused(card("jsonl", "train.jsonl.gz"))


@together("encoding", ["utf-16", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize(("kind", "content"), [("jsonl", LINES), ("json", json.dumps(ROWS)), ("csv", TABLE)])
def test_encodings_with_a_byte_order_mark(card, write, encoding, kind, content):
    write(f"train.{kind}", content.encode(encoding))
    corpus = load(card(kind, f"train.{kind}"))
    assert corpus.splits["train"].rows[0]["text"] == ROWS[0]["text"]
    noted = [f"train.{kind} is read as {encoding.upper()}, by its byte order mark"]
    assert [note for note in corpus.notes if "byte order" in note] == (noted if "sig" not in encoding else [])


@together("mark, encoding", [(b"\xfe\xff", "utf-16-be"), (b"\xff\xfe", "utf-16-le"), (b"\0\0\xfe\xff", "utf-32-be")])
def test_byte_orders(card, write, mark, encoding):
    write("train.csv.gz", gzip.compress(mark + TABLE.encode(encoding)))
    assert texts(card("csv", "train.csv.gz"))[0] == ROWS[0]["text"]


@together(
    "content, message",
    [
        (TABLE.encode("utf-16-le"), "it looks like UTF-16 without a byte order mark: save it as UTF-8"),
        (TABLE.replace("ż", "ó").encode("cp1250", "replace"), "not UTF-8 text"),
        (b"PK\x03\x04 and so on", "is a ZIP archive (also an Excel file is one); unpack it, or export it as CSV"),
        (b"\x28\xb5\x2f\xfd....", "is compressed with Zstandard"),
        (b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive"),
        (b"PAR1....", "is a Parquet file; set source.kind: parquet"),
        (b"ARROW1..", "is an Arrow file"),
        (b"\xd0\xcf\x11\xe0\xa1", "is an old Excel file; export it as CSV"),
        (pickle.dumps(ROWS), "is a pickle of Python, which is never read, for it can run code"),
        (b"<!DOCTYPE html>\n<html><body>Sign in", "is a web page, not the data themselves"),
        (gzip.compress(gzip.compress(TABLE.encode())), "is compressed twice; unpack it once"),
        (gzip.compress(tarred("train.csv", TABLE.encode())), "is a tar archive; unpack it"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "is a pointer of Git LFS, not the data themselves; run `git lfs pull`",
        ),
    ],
)
def test_files_of_another_kind_are_named(card, write, content, message):
    for kind in ("csv", "jsonl"):
        write(f"train.{kind}", content)
        assert message in refused(card(kind, f"train.{kind}"))


def test_a_pointer_in_place_of_a_parquet_file(card, write):
    write("train.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    assert "run `git lfs pull`" in refused(card("parquet", "train.parquet"))


# ---------------------------------------------------------------- JSON


@together("content", [ROWS, {"data": ROWS}, {"version": "1.0", "data": ROWS}])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_of_objects(card, write, content, indent):
    write("train.json", json.dumps(content, indent=indent))
    assert texts(card("json", "train.json")) == [row["text"] for row in ROWS]


@together(
    "content, message",
    [
        ({"train": ROWS}, "expected a list of rows, or an object with a list `data`; its keys are 'train'"),
        ({}, "its keys are none"),
        ({"data": {"0": ROWS[0]}}, "its keys are 'data'"),
        ([ROWS[0], "x"], "train.json[1]: expected an object, got 'x'"),
        ({"data": [["a", "pos"]]}, "train.json: data[0]: expected an object, got ['a', 'pos']"),
        ("text", "expected a list of rows, got 'text'"),
        ([], "the split 'train' is empty"),
    ],
)
def test_other_json_is_refused(card, write, content, message):
    write("train.json", json.dumps(content))
    assert message in refused(card("json", "train.json"))


def test_one_kind_of_json_as_the_other(card, write):
    write("train.json", LINES)
    assert "for a row on each line, set source.kind: jsonl" in refused(card("json", "train.json"))
    for indent in (None, 2):
        write("train.jsonl", json.dumps(ROWS, indent=indent))
        assert "for a file that is one JSON array, set source.kind: json" in refused(card("jsonl", "train.jsonl"))
    write("train.jsonl", json.dumps({"data": ROWS}, indent=1))
    assert "set source.kind: json for a list of rows" in refused(card("jsonl", "train.jsonl"))


def test_a_key_with_two_values_is_refused(card, write):
    write("train.jsonl", '{"text": "a", "label": "neg", "label": "pos"}\n')
    assert "train.jsonl:1: not valid JSON: the key 'label' is there twice" in refused(card("jsonl", "train.jsonl"))
    write("train.json", '[{"text": "a", "text": "b", "label": "pos"}]')
    assert "the key 'text' is there twice" in refused(card("json", "train.json"))


# ---------------------------------------------------------------- several files


@pytest.fixture
def shards(write):
    """shards(3, total=3): numbered files of four rows each, whose texts say where they stand."""

    def make(number, total, ending="jsonl"):
        for place in range(number):
            rows = [{"text": f"shard {place} row {row}", "label": ["neg", "pos"][row % 2]} for row in range(4)]
            write(f"data/train-{place:05d}-of-{total:05d}.{ending}", "\n".join(map(json.dumps, rows)))

    return make


@together(
    "files", ["data/train-*.jsonl", ("data/train-00000-of-00003.jsonl", "data/train-0000[12]*"), ("**/train-*-of-*",)]
)
def test_lists_and_patterns_of_files(card, shards, files):
    shards(3, 3)
    corpus = load(card("jsonl", files))
    expected = [f"shard {place} row {row}" for place in range(3) for row in range(4)]
    assert [row["text"] for row in corpus.splits["train"].rows] == expected
    counts = ", ".join(f"data/train-0000{place}-of-00003.jsonl (4 rows)" for place in range(3))
    assert f"train: read from 3 files: {counts}" in corpus.notes


def test_a_list_keeps_its_order_and_a_pattern_is_sorted(card, write):
    for name in ("b", "a", "c"):
        write(
            f"{name}.jsonl",
            json.dumps({"text": f"{name} 0", "label": 0}) + "\n" + json.dumps({"text": name, "label": 1}),
        )
    assert [text for text in texts(card("jsonl", ("c.jsonl", "a.jsonl"))) if len(text) == 1] == ["c", "a"]
    assert [text for text in texts(card("jsonl", "*.jsonl")) if len(text) == 1] == ["a", "b", "c"]


def test_shards_that_are_missing(card, shards):
    shards(2, 3)
    assert "matches not all shards: train has 3 shards, and number 2 is left out" in refused(card("jsonl", "data/*"))
    corpus = load(card("jsonl", "data/train-00000-of-00003.jsonl"))
    assert "train: not all shards are read: train has 3 shards, and number 1, 2 is left out" in corpus.notes


def test_hidden_files_match_no_pattern(card, write):
    write("train.jsonl", LINES)
    write("._train.jsonl", b"\0\5\x16\7")
    assert len(texts(card("jsonl", "*.jsonl"))) == 2


def test_a_name_with_signs_of_a_pattern(card, write):
    write("train[1].jsonl", LINES)
    assert len(texts(card("jsonl", "train[1].jsonl"))) == 2


@together(
    "files, message",
    [
        ("*.csv", "no file in {folder} matches '*.csv', of the split 'train'"),
        (("a.jsonl", "*.jsonl"), "the data file {folder}/a.jsonl is named twice for the split 'train'"),
        ("b.jsonl", "the data file 'b.jsonl' is missing in {folder}. Did you mean 'a.jsonl'?"),
        ("sub", "the data file {folder}/sub is a folder; name the files in it"),
        ("pipe", "the data file {folder}/pipe is a pipe, a socket or a device; only regular files are read"),
        ("zero", "the data file {folder}/zero is a pipe, a socket or a device; only regular files are read"),
        ("lost", "the data file 'lost' in {folder} is a link to a file that is missing"),
        ("z*", "the data file {folder}/zero is a pipe, a socket or a device"),
        ("a.jsonl/b", "the data file 'a.jsonl/b' is missing in {folder}"),
    ],
)
def test_files_that_can_not_be_read(card, write, tmp_path, files, message):
    write("a.jsonl", LINES)
    write("sub/c.jsonl", LINES)
    if not (tmp_path / "pipe").exists():
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "zero").symlink_to("/dev/zero")
        (tmp_path / "lost").symlink_to("/no/such/file")
    assert refused(card("jsonl", files)).startswith(message.format(folder=tmp_path))


def test_a_folder_that_is_a_file(card, write, tmp_path):
    write("train.jsonl", LINES)
    found = refused(card("jsonl", "train.jsonl", folder=str(tmp_path / "train.jsonl")))
    assert "is a file; name its folder, and the file in source.files" in found


def test_a_pipe_in_a_saved_data_set(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path)
    os.mkfifo(tmp_path / "more.arrow")
    saved = {"kind": "saved", "folder": str(tmp_path)}
    content = {"task": "text_classification", "licence": "none", "splits": {"train": "train"}, "source": saved}
    assert "more.arrow is a pipe, a socket or a device" in refused(DatasetCard.model_validate(content))


@pytest.mark.parametrize(
    "files", [{"all": ()}, {"all": ("a", "a")}, {"all": ("a", "../b")}, {"all": "/etc/*"}, {"all": 3}]
)
def test_files_of_a_card_that_are_refused(files):
    with pytest.raises(ValueError, match="files"):
        Source(kind="jsonl", folder="x", files=files)


# ---------------------------------------------------------------- quotes in TSV

QUOTED = [['say "hi" x', "neg"], ["with\ttab", "pos"], ["plain", "neg"], ["two\nlines", "pos"]]


def table_of(rows, quoting):
    frame = pandas.DataFrame(rows, columns=["text", "label"])
    return frame.to_csv(sep="\t", index=False, quoting=quoting)


@together("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_quotes_of_pandas_are_read_where_the_card_says_so(card, write, quoting):
    write("train.tsv", table_of(QUOTED, quoting))
    assert texts(card("tsv", "train.tsv", quoting=True)) == [text for text, _ in QUOTED]


@together("rows", [[QUOTED[0], ["plain", "pos"]], [["a", "neg"], ['""', "pos"]]])
def test_quotes_that_could_be_read_in_two_ways_are_refused(card, write, rows):
    write("train.tsv", table_of(rows, csv.QUOTE_MINIMAL))
    found = refused(card("tsv", "train.tsv"))
    assert "1 cells look quoted, as pandas writes them; row" in found
    assert "Set source.quoting: true to read them without these quotes, or false to keep every character" in found
    kept = texts(card("tsv", "train.tsv", quoting=False))
    assert [text for text in kept if text.startswith('"')]


def test_two_quotes_with_nothing_between_them(card, write):
    write("train.tsv", 'text\tlabel\tnote\ngood one\tpos\t""\nbad one\tneg\tseen\n')
    assert '1 cells look quoted, as pandas writes them; row 1 has ""' in refused(card("tsv", "train.tsv"))


def test_a_column_that_is_all_in_quotes(card, write):
    write("train.tsv", 'text\tlabel\n"good one"\tpos\n"bad one"\tneg\n')
    assert '2 cells look quoted, as pandas writes them; row 1 has "good one"' in refused(card("tsv", "train.tsv"))


@together("cell", ['"open quote, and so on', '\'s "fine"', '"one" and "two"', 'he said "no"', '"', 'a "" b'])
def test_quotes_that_belong_to_the_text(card, write, cell):
    write("train.tsv", f'text\tlabel\n{cell}\tpos\nplain\tneg\n"a whole sentence"\tneg\n')
    assert texts(card("tsv", "train.tsv")) == [cell, "plain", '"a whole sentence"']


def test_a_field_in_quotes_that_holds_a_tab(card, write):
    write("train.tsv", table_of(QUOTED, csv.QUOTE_MINIMAL))
    assert "if cells are in quotes, set source.quoting: true" in refused(card("tsv", "train.tsv"))


def test_a_delimiter_and_an_encoding_of_tables(card, write):
    for kind, delimiter, content in (
        ("csv", ";", 'text;label\n"a; né";pos\nb;neg\n'),
        ("tsv", "|", "text|label\na; né|pos\nb|neg\n"),
    ):
        write("train", content.encode("cp1250"))
        assert texts(card(kind, "train", delimiter=delimiter, encoding="cp1250")) == ["a; né", "b"]
        assert "is one column" in refused(card(kind, "train", encoding="cp1250"))
        assert "or name its encoding" in refused(card(kind, "train", delimiter=delimiter))
    with pytest.raises(ValueError, match="a source of kind 'jsonl' has no `delimiter`"):
        card("jsonl", "train", delimiter=";")


def test_an_encoding_that_the_file_does_not_look_like_is_noted(card, write):
    for content, notes in (("né", True), ("ne", False), ("né" * 10_000, True)):
        write("train", f"text,label\n{content},pos\nb,neg\n".encode())
        said = load(card("csv", "train", encoding="cp1252")).notes
        assert ("train is read as cp1252, as the card says, and looks like UTF-8" in said) is notes
    write("train", "text,label\nné,pos\nb,neg\n".encode("cp1252"))
    assert not load(card("csv", "train", encoding="cp1252")).notes


def test_quoting_is_a_key_of_tsv(card):
    for kind in ("csv", "jsonl"):
        with pytest.raises(ValueError, match=f"a source of kind '{kind}' has no `quoting`"):
            card(kind, "train", quoting=False)


# ---------------------------------------------------------------- folders

CARD = """task: text_classification
licence: none
source: {kind: csv, folder: FOLDER, files: {train: train.csv, test: train.csv}}
splits: {train: train, test: test}
labels: [neg, pos]
leakage: allow
"""
RECIPE = "dataset: mine\nmodel: tiny_bert\nmethod: full\n"


@pytest.fixture
def project(write, tmp_path, monkeypatch):
    """project("data") -> a recipe whose card names this folder; the working folder is another one with such data."""

    def make(folder, home="home"):
        recipe = write(f"{home}/study/own.yaml", RECIPE)
        write(f"{home}/datasets/mine.yaml", CARD.replace("FOLDER", folder))
        write(f"elsewhere/{folder}/train.csv", "text,label\nwrong,neg\nelsewhere,pos\n")
        monkeypatch.chdir(tmp_path / "elsewhere")
        return recipe

    return make


def words_of(recipe, *overrides):
    card = resolve.load(recipe, overrides).recipe.dataset
    return [row["text"] for row in dataset.load(card, {}, {"train"}).splits["train"].rows]


@pytest.mark.parametrize("folder", [".", "data", "data/deep"])
def test_a_relative_folder_is_the_project_s(project, write, folder):
    recipe = project(folder)
    write(f"home/{folder}/train.csv", "text,label\nright,neg\nhere,pos\n")
    assert words_of(recipe) == ["right", "here"]


@pytest.mark.parametrize("folder", [".", "data"])
def test_a_relative_folder_is_the_card_s_where_its_data_are_there(project, write, folder):
    recipe = project(folder)
    write(f"home/{folder}/train.csv", "text,label\nwrong,neg\nproject,pos\n")
    write(f"home/datasets/{folder}/train.csv", "text,label\nright,neg\nhere,pos\n")
    assert words_of(recipe) == ["right", "here"]


def test_the_project_around_a_folder_of_recipes(project, write):
    recipe = project("data", home="home/recipes")
    write("home/data/train.csv", "text,label\nright,neg\nhere,pos\n")
    assert words_of(recipe) == ["right", "here"]


def test_data_that_are_only_in_the_working_folder_are_not_taken(project, tmp_path):
    recipe = project("data")
    with pytest.raises(DataError, match=f"the data folder '{tmp_path}/home/data' does not exist"):
        words_of(recipe)
    assert words_of(recipe, "dataset.source.folder=data") == ["wrong", "elsewhere"]


def test_a_folder_that_the_recipe_names(project, write, tmp_path):
    recipe = project("data")
    write("home/study/own.yaml", RECIPE.replace("mine", "{card: mine, source: {folder: other}}", 1))
    write("home/other/train.csv", "text,label\nright,neg\nhere,pos\n")
    assert words_of(recipe) == ["right", "here"]


def test_a_folder_below_the_working_folder_stays_as_it_is_written(project, write, tmp_path, monkeypatch):
    recipe = project("data")
    write("home/data/train.csv", "text,label\nright,neg\nhere,pos\n")
    away = resolve.load(recipe)
    monkeypatch.chdir(tmp_path / "home")
    near = resolve.load(recipe)
    assert near.recipe.dataset.source.folder == "data"
    assert away.recipe.dataset.source.folder == str(tmp_path / "home" / "data")
    assert near.hash == away.hash


def test_a_folder_here_in_place_of_the_hub(card, tmp_path, monkeypatch):
    (tmp_path / "imdb").mkdir()
    monkeypatch.chdir(tmp_path)
    hub = {"task": "text_classification", "licence": "none", "splits": {"train": "train"}}
    found = refused(DatasetCard.model_validate({**hub, "source": {"kind": "hub", "id": "imdb"}}))
    assert found.startswith("'imdb' is on the Hub and a file or folder here, which `datasets` would read in its place")
