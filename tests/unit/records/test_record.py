"""The record: written whole or not at all, read strictly."""

import errno
import json
import math
import os
from pathlib import Path

import pytest

from bench.errors import DataError, SetupError
from bench.records import record, store
from bench.records.record import RecipePart, Record, Score
from bench.runner import run_folder
from bench.utils import files


@pytest.fixture
def example():
    """A record with something in most of its parts."""
    made = Record(
        name="tiny--bert--full",
        study="tiny",
        method="full",
        seed=13,
        started_at="2026-01-01T00:00:00+00:00",
        recipe=RecipePart(path="recipes/tiny/bert-full.yaml", as_written={"labels": ("a", "b")}, resolved={"x": 1}),
        comparability=record.Comparability(key="k", parts={"data": "d", "template": None}),
        model=record.Model(
            id="m", weights="random", class_="BertForSequenceClassification", attention="sdpa",
            parameters={"total": 10}, dtypes={"float32": 10},
        ),
        scores={"after": {"test": {"f1": Score(value=0.5, low=0.4, high=0.6, examples=9, signature="f1|v1")}}},
        throughput={"train": {"steps": 3}},
        phases=[record.PhaseTime(name="load", seconds=0.5)],
    )  # fmt: skip
    made.check("ids", True)
    made.note("Zażółć: 3 texts cut")
    return made


@pytest.fixture
def edited(example, tmp_path):
    """edited(change) -> the folder of a record whose JSON `change` has altered by hand."""

    def edit(change):
        path = store.write(example, tmp_path)
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content)
        path.write_text(json.dumps(content), encoding="utf-8")
        return tmp_path

    return edit


def test_round_trip(example, tmp_path):
    path = store.write(example, tmp_path)
    assert path == tmp_path / "record.json"
    again = store.read(tmp_path)
    assert again == store.read(path)
    assert again.model_dump(mode="json") == example.model_dump(mode="json")
    assert store.write(again, tmp_path).read_bytes() == path.read_bytes()
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["schema"] == record.SCHEMA
    assert content["model"]["class"] == "BertForSequenceClassification"
    assert again.notes == ["Zażółć: 3 texts cut"]


def test_a_record_that_was_never_filed_is_crashed(example):
    assert example.status == "crashed"
    assert example.reason


def test_a_note_stands_once(example):
    example.note("again")
    example.note("again")
    assert example.notes.count("again") == 1


def test_numbers_that_json_does_not_have_become_null(example, tmp_path):
    score = Score(value=[math.nan, 1.0, [math.inf]], low=-math.inf, high=math.nan, examples=1, signature="s")
    example.scores = {"after": {"test": {"f1": score}}}
    example.baselines = {"test": {"majority": {"mcc": math.nan}}}
    example.throughput = {"train": {"mfu": math.nan, "list": [math.inf]}}
    example.memory_predicted = {"x": {"y": math.nan}}
    example.recipe.resolved = {"a": math.inf}
    path = store.write(example, tmp_path)

    def refuse(name):
        raise AssertionError(name)

    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    written = content["scores"]["after"]["test"]["f1"]
    assert (written["value"], written["low"], written["high"]) == ([None, 1.0, [None]], None, None)
    assert content["baselines"]["test"]["majority"]["mcc"] is None
    assert content["throughput"]["train"] == {"mfu": None, "list": [None]}
    assert content["memory_predicted"]["x"]["y"] is None
    assert content["recipe"]["resolved"]["a"] is None
    assert store.read(path).scores["after"]["test"]["f1"].low is None


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_in_the_middle_leaves_the_old_file(example, tmp_path, monkeypatch, step):
    path = store.write(example, tmp_path)
    before = path.read_bytes()
    example.status = "ok"

    def full_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full_disk)
    with pytest.raises(OSError, match="No space left"):
        store.write(example, tmp_path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["record.json"]


def test_an_interrupt_in_the_middle_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_others_may_read_what_was_written(tmp_path):
    files.write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_the_ballast_makes_room_for_the_record(example, tmp_path):
    folder = tmp_path / "runs" / "one"
    store.reserve(folder)
    assert (folder / ".ballast").stat().st_size == store.BALLAST_BYTES
    assert len(store.write(example, folder).read_bytes()) < store.BALLAST_BYTES
    assert not (folder / ".ballast").exists()


def test_half_a_record(example, tmp_path):
    path = store.write(example, tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"record\.json: not a whole record \(half-written or edited\?\)"):
        store.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a whole record"),
        ("\0" * 100, "not a whole record"),
        (b"\xff\xfe\x00", "not a whole record"),
        ("[" * 100_000, "not a whole record"),
        ('{"schema": 1, "seed": NaN}', "NaN is no JSON value"),
        ('{"schema": 1, "seed": ' + "9" * 400 + "}", "a whole number of 400 digits"),
        ("[]", "not a run record: it has no `schema` number"),
        ("3", "not a run record"),
        ('{"loss": 1.5}', "not a run record"),
        ('{"schema": "1"}', "not a run record"),
        ('{"schema": true}', "not a run record"),
        ('{"schema": 0}', "not a run record"),
        ('{"schema": 999}', "schema 999 is newer than this version reads"),
        ('{"schema": 1}', "not a valid record: name: Field required"),
    ],
)
def test_what_is_no_record(write, content, message):
    path = write("run/record.json", content)
    with pytest.raises(DataError) as caught:
        store.read(path.parent)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(status="fine"), "status: Input should be 'ok', 'oom', 'diverged'"),
        (lambda content: content.update(accuracy=1.0), "accuracy: Extra inputs are not permitted"),
        (lambda content: content.pop("started_at"), "started_at: Field required"),
        (lambda content: content.update(seed="13"), "seed: Input should be a valid integer"),
        (lambda content: content.update(seed=13.5), "seed: Input should be a valid integer"),
        (lambda content: content.update(notes="x"), "notes: Input should be a valid list"),
        (
            lambda content: content["scores"]["after"]["test"]["f1"].pop("signature"),
            "scores.after.test.f1.signature: Field",
        ),
        (lambda content: content["scores"]["after"]["test"]["f1"].update(value="0.9"), "scores.after.test.f1.value"),
        (lambda content: content["recipe"].update(resolved=[]), "recipe.resolved: Input should be a valid dictionary"),
    ],
)
def test_edited_by_hand(edited, change, message):
    folder = edited(change)
    with pytest.raises(DataError, match="not a valid record") as caught:
        store.read(folder)
    assert message in str(caught.value)


def test_missing_and_unreadable(tmp_path):
    with pytest.raises(DataError, match="there is no record here"):
        store.read(tmp_path)
    with pytest.raises(DataError, match="there is no record here"):
        store.read(tmp_path / "none.json")
    (tmp_path / "record.json").mkdir()
    with pytest.raises(DataError, match="not a whole record"):
        store.read(tmp_path)


def test_find_walks_down_sorts_and_repeats_nothing(example, tmp_path):
    for name in ("b", "a", "a/deep/er"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        store.write(example, tmp_path / name)
    expected = [Path("a/deep/er/record.json"), Path("a/record.json"), Path("b/record.json")]
    assert [path.relative_to(tmp_path) for path in store.find([tmp_path, tmp_path / "a"])] == expected
    assert store.find([tmp_path / "b" / "record.json", tmp_path / "b"]) == [tmp_path / "b" / "record.json"]


def test_find_follows_links_once_and_leaves_a_sweep_s_trials_out(example, tmp_path):
    for name in ("runs/a", "runs/trials/x", "elsewhere/b"):
        (tmp_path / name).mkdir(parents=True)
        store.write(example, tmp_path / name)
    assert len(store.find([tmp_path / "runs"])) == 2  # a folder of that name is nothing special
    store.mark_trials(tmp_path / "runs" / "trials")
    (tmp_path / "runs" / "b").symlink_to(tmp_path / "elsewhere" / "b")
    (tmp_path / "runs" / "a" / "loop").symlink_to(tmp_path / "runs")
    found = store.find([tmp_path / "runs"])
    assert [path.relative_to(tmp_path / "runs").parts[0] for path in found] == ["a", "b"]
    assert len(store.find([tmp_path / "runs" / "trials"])) == 1
    assert len(store.locate([tmp_path / "runs", tmp_path / "elsewhere"])) == 2
    (tmp_path / "runs" / "itself").mkdir()
    (tmp_path / "runs" / "itself" / "record.json").symlink_to("record.json")
    *_, itself = store.locate([tmp_path / "runs"])
    with pytest.raises(DataError, match="not a whole record"):
        store.read(itself)


def test_a_folder_is_for_one_run_at_a_time(tmp_path):
    assert not run_folder.is_taken(tmp_path)
    taken = run_folder.lock(tmp_path)
    assert run_folder.is_taken(tmp_path)
    with pytest.raises(SetupError, match="is being written by another run; wait for its end"):
        run_folder.lock(tmp_path)
    run_folder.unlock(tmp_path, taken)
    assert list(tmp_path.iterdir()) == []
    run_folder.lock(tmp_path).close()
