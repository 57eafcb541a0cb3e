"""Run folders: nothing is lost that no run of this recipe made, no link is followed, and one run at a time writes."""

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

from bench.cli import main as cli
from bench.errors import DataError, SetupError
from bench.records import store
from bench.records.record import RecipePart, Record
from bench.runner import resume, run_folder
from bench.training import checkpoint_files
from bench.utils import files
from tests.helpers.cases import together
from tests.helpers.launching import ROOT

OWN, OTHER = "a" * 64, "b" * 64
# Every kind of file that a run writes, and some that it leaves where it is killed.
MADE = [
    ".ballast",
    ".before.json",
    "record.json",
    "report.md",
    "train_log.jsonl",
    "traceback.txt",
    ".record.json.0123abcd",
    "predictions/before-test.jsonl",
    "predictions/after-my split.jsonl",
    "predictions/.after-test.jsonl.k3x_9ab2",
    "figures/learning_curves.png",
    "figures/confusion_matrix-test.png",
    "tensorboard/run/events.out.tfevents.1.host",
    "checkpoints/best.safetensors",
    "checkpoints/step-00000004/state.json",
    "checkpoints/step-00000004/global_step4/zero_pp_rank_0_mp_rank_00_optim_states.pt",
    "checkpoints/step-00000004/pytorch_model_fsdp_0/.metadata",
    "checkpoints/step-00000004/zero_to_torch.py",
    "checkpoints/.step-00000006.partial/trained.safetensors",
    "checkpoints/.step-00000006.partial/optimizer_0/.metadata.tmp",
    "model/config.json",
    "model/model-00001-of-00002.safetensors",
    "model/adapter_model.safetensors",
    "model/tokenizer.json",
    "model/base/model.safetensors",
]
# What a person may keep in a run's folder, also inside of the folders that a run makes.
OTHERS = [
    "notes.txt",
    ".hidden",
    "record.json.bak",
    "model.tar",
    "own/thesis.tex",
    "predictions/mine.csv",
    "figures/poster.svg",
    "model/train.py.orig",
    "checkpoints/notes.md",
    "checkpoints/step-00000004/why.txt",
]


def write(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}", encoding="utf-8")


def write_record(folder, status="crashed", hash=OWN, seed=13, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    part = RecipePart(path="x.yaml", hash=hash, resolved={"save": True})
    record = Record(name="x", seed=seed, started_at="x", recipe=part, status=status, **changes)
    store.write(record, folder, last=False)
    return record


def tree(folder):
    """Every file, link and folder below one, with its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        name = str(path.relative_to(folder))
        found[name] = path.read_bytes() if stat.S_ISREG(mode) else os.readlink(path) if path.is_symlink() else mode
    return found


def start(folder, overwrite=False, resume_=False, hash=OWN, seed=13):
    """Do what a run does with its folder before anything else."""
    held = run_folder.claim(folder)
    try:
        previous = resume.find_previous(folder, hash, seed, overwrite=overwrite, resume=resume_)
        if previous.finished is None:
            resume.clear(folder, previous)
            run_folder.reserve(folder)
    finally:
        run_folder.unlock(folder, held)
    return previous


def refused(folder, **options):
    """The sentence of a refusal, which leaves everything as it was."""
    before = tree(folder) if folder.is_dir() else None
    with pytest.raises(SetupError) as caught:
        start(folder, **options)
    assert (tree(folder) if folder.is_dir() else None) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- what is in a folder


def test_what_a_run_writes_and_what_it_does_not(tmp_path):
    write(tmp_path, [*MADE, *OTHERS])
    found = run_folder.survey(tmp_path)
    assert found.made == sorted(MADE, key=lambda name: found.made.index(name) if name in found.made else -1)
    assert sorted(found.made) == sorted(MADE)
    assert sorted(found.others) == sorted({name.replace("own/thesis.tex", "own") for name in OTHERS})
    assert found.wrong == []


# ---------------------------------------------------------------- folders of nobody known

FOREIGN = {
    "a file": lambda folder: write(folder, ["notes.txt"]),
    "a hidden file": lambda folder: write(folder, [".config"]),
    "a link": lambda folder: (folder / "data").symlink_to("/etc"),
    "a link to nowhere": lambda folder: (folder / "data").symlink_to("nowhere"),
    "a folder": lambda folder: write(folder, ["photos/1.jpg"]),
    "an empty folder": lambda folder: (folder / "photos").mkdir(),
    "a FIFO": lambda folder: os.mkfifo(folder / "pipe"),
    "a lock and a file": lambda folder: write(folder, [".lock", "notes.txt"]),
    "a lock and a model": lambda folder: write(folder, [".lock", "model/config.json", "model/model.safetensors"]),
    "a ballast and predictions": lambda folder: write(folder, [".ballast", "predictions/after-test.jsonl"]),
    "a model": lambda folder: write(folder, ["model/config.json", "model/model.safetensors"]),
    "checkpoints": lambda folder: write(folder, ["checkpoints/step-00000004/state.json"]),
    "checkpoints of a library": lambda folder: write(folder, ["checkpoints/checkpoint-500/optimizer.pt"]),
    "figures": lambda folder: write(folder, ["figures/learning_curves.png"]),
    "a log": lambda folder: write(folder, ["train_log.jsonl"]),
    "a report": lambda folder: write(folder, ["report.md"]),
    "all but the record": lambda folder: write(folder, [*(name for name in MADE if name != "record.json"), *OTHERS]),
}


@together("kind", FOREIGN)
def test_a_folder_without_a_record_is_left_as_it_is(kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    FOREIGN[kind](folder)
    for overwrite in (False, True):
        said = refused(folder, overwrite=overwrite)
        assert f"{folder} is not empty and holds no record (" in said
        assert "give another --out" in said
        assert not run_folder.is_free(folder)


@together("names", [[], [".lock"], [".lock", ".ballast"], [".ballast", ".record.json.0a1b2c3d"]])
def test_what_a_run_leaves_that_is_killed_at_once_is_an_empty_folder(names, tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    write(folder, names)
    assert start(folder) == resume.PreviousRun()
    assert list(tree(folder)) == [".ballast"]


# ---------------------------------------------------------------- records


def newer(content):
    return {**content, "schema": 999}


def one_more_key(content):
    return {**content, "colour": "blue"}


RECORDS = {
    "newer": lambda text: json.dumps(newer(json.loads(text))),
    "one more key": lambda text: json.dumps(one_more_key(json.loads(text))),
    "truncated": lambda text: text[: len(text) // 2],
    "another type": lambda text: text.replace('"seed": 13', '"seed": "13"'),
    "a key less": lambda text: text.replace('"started_at"', '"begun_at"'),
    "deep": lambda text: text.replace('"speed": {}', f'"speed": {{"x": {"[" * 5000}{"]" * 5000}}}'),
}


@together("kind", RECORDS)
def test_a_record_that_cant_be_read_keeps_its_run(kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unreadable")
    write(folder, [*MADE, *OTHERS])
    write_record(folder, "ok")
    path = folder / "record.json"
    harmed = RECORDS[kind](path.read_text(encoding="utf-8"))
    assert harmed != path.read_text(encoding="utf-8")
    path.write_text(harmed, encoding="utf-8")
    said = refused(folder)
    assert "nothing was removed: give --overwrite to replace that run, or another --out" in said
    refused(folder, resume_=True)
    previous = start(folder, overwrite=True)
    left = tree(folder)
    assert {name for name in OTHERS if name not in left} == set()
    assert {name for name in MADE if name in left} == {".ballast"}
    assert ".hidden, checkpoints/notes.md" in previous.notes[0]


@together("content", ["", "[]", '{"artist": "x", "year": 1970}', "\0" * 50, '{"schema": "mine"}', "<html>"])
def test_a_file_of_that_name_that_no_run_wrote_is_not_even_overwritten(content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "record.json").write_text(content, encoding="utf-8")
    refused(folder)
    assert "no run wrote this file, so that --overwrite does not remove it" in refused(folder, overwrite=True)


@pytest.mark.parametrize("status", ["invalid", "oom", "crashed", "diverged", "interrupted", "ok"])
def test_another_recipe_s_run_is_kept_however_it_ended(status, tmp_path):
    write(tmp_path, MADE)
    for changes in ({"hash": OTHER}, {"seed": 14}, {"hash": None}):
        write_record(tmp_path, status, **changes)
        said = refused(tmp_path)
        assert "give --overwrite to replace it, or another --out" in said
        assert ("a finished run" in said) == (status == "ok")
    start(tmp_path, overwrite=True)
    assert list(tree(tmp_path)) == [".ballast", *()]


@pytest.mark.parametrize("status", ["invalid", "oom", "crashed", "diverged", "interrupted"])
def test_this_recipe_s_own_failed_run_is_replaced_but_for_a_person_s_files(status, tmp_path):
    write(tmp_path, [*(name for name in MADE if "checkpoints" not in name), *OTHERS])
    write_record(tmp_path, status, scores={"after": {}}, artifacts={"model": "model"})
    previous = start(tmp_path)
    left = tree(tmp_path)
    assert {name for name in left if (tmp_path / name).is_file()} == {*OTHERS, ".ballast"}
    assert previous.notes[0].startswith(
        f"left as they are, since no run writes such files: {len(OTHERS)} in its folder ("
    )


def test_the_record_of_a_refused_command_is_replaced_and_nothing_else_with_it(tmp_path):
    write_record(tmp_path, "invalid", hash=None, seed=None)
    assert start(tmp_path).record is None
    write_record(tmp_path, "invalid", hash=None, seed=None)
    write(tmp_path, ["model/config.json"])
    assert "its recipe's hash is unknown" in refused(tmp_path)


@together(
    "names, changes",
    [
        (["model/config.json", "model/model.safetensors"], {}),
        (["model/config.json"], {"scores": {"before": {}}}),
        (["model/base/config.json", "model/adapter_model.safetensors"], {"scores": {"before": {}}}),
    ],
)
def test_a_model_that_the_unfinished_run_did_not_make_is_kept(names, changes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write(folder, names)
    write_record(folder, **changes)
    assert "which the unfinished run in it did not make" in refused(folder)


def test_a_model_that_was_being_saved_is_replaced(tmp_path):
    write(tmp_path, ["model/config.json", "model/base/config.json"])
    write_record(tmp_path, scores={"before": {}, "after": {}})
    start(tmp_path)
    assert list(tree(tmp_path)) == [".ballast"]
    write(tmp_path, ["model/base/config.json"])
    write_record(tmp_path)
    start(tmp_path)
    assert list(tree(tmp_path)) == [".ballast"]


def test_checkpoints_of_another_version_are_kept(tmp_path):
    write_record(tmp_path)
    partial = checkpoint_files.begin(tmp_path / "checkpoints", 4)
    (partial / "state.json").write_text("{}", encoding="utf-8")
    manifest = checkpoint_files.seal(partial) / "manifest.json"
    for number in (1, 99):
        known = json.loads(manifest.read_text(encoding="utf-8"))
        manifest.write_text(json.dumps({**known, "format": number}), encoding="utf-8")
        assert f"the checkpoint of step 4 is of format {number}, and this version reads 2" in refused(tmp_path)
    assert start(tmp_path, overwrite=True).checkpoint is None
    assert list(tree(tmp_path)) == [".ballast"]


@pytest.mark.parametrize("spread", ["whole", "ZeRO-2", "FSDP"])
def test_unsigned_shards_are_refused_before_anything_is_loaded(spread, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    write_record(folder)
    partial = checkpoint_files.begin(folder / "checkpoints", 4)
    state = {"hash": OWN, "seed": 13, "step": 4, "spread": spread}
    (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
    checkpoint_files.seal(partial)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another home"))
    if spread == "whole":
        assert "not signed with your key: it is read as data" in start(folder).notes[0]
    else:
        assert "is not signed with your key" in refused(folder)


# ---------------------------------------------------------------- links and devices

WRITTEN = [".lock", ".ballast", "record.json", "report.md", "train_log.jsonl", "traceback.txt", ".before.json"]
INSIDE = [
    *run_folder.FOLDERS,
    "predictions/before-test.jsonl",
    "figures/learning_curves.png",
    "model/config.json",
    "model/base",
    "checkpoints/step-00000004",
    "checkpoints/best.safetensors",
    "checkpoints/notes",
]


@together("name", [*WRITTEN, *INSIDE])
def test_no_link_is_followed_or_removed(name, tmp_path_factory):
    above = tmp_path_factory.mktemp("links")
    target = above / "precious"
    folder = above / "run"
    write_record(folder)
    path = folder / name
    for kind in ("a file", "a folder", "nowhere"):
        if kind == "a file":
            target.write_text("precious", encoding="utf-8")
        elif kind == "a folder":
            target.mkdir()
            (target / "precious").write_text("precious", encoding="utf-8")
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        before = tree(above)
        for overwrite in (False, True):
            said = refused(folder, overwrite=overwrite)
            assert f"{name} is a link" in said or "holds no record" in said
        assert tree(above) == before
        if kind == "a file":
            target.unlink()
        elif kind == "a folder":
            (target / "precious").unlink()
            target.rmdir()


@together("name", [*WRITTEN, "model", "checkpoints", "predictions/before-test.jsonl"])
def test_a_fifo_or_a_folder_in_the_place_of_a_file_is_refused_at_once(name, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fifo")
    write_record(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert f"{name} is a FIFO" in refused(folder)
    (folder / name).unlink()
    if name in WRITTEN:
        (folder / name).mkdir()
        assert f"{name} is a folder" in refused(folder)
    elif "/" not in name:
        (folder / name).write_text("a file", encoding="utf-8")
        assert f"{name} is a file" in refused(folder)


@together("name", [".lock", ".ballast"])
def test_another_name_of_a_file_elsewhere_does_not_empty_that(name, tmp_path_factory):
    above = tmp_path_factory.mktemp("hard")
    (above / "precious").write_text("precious", encoding="utf-8")
    folder = above / "run"
    folder.mkdir()
    (folder / name).hardlink_to(above / "precious")
    start(folder)
    assert (above / "precious").read_text(encoding="utf-8") == "precious"


# ---------------------------------------------------------------- the path itself


def test_a_path_that_no_run_can_write_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "link").symlink_to("nowhere")
    cases = {
        tmp_path / "file": "is a file, and a run writes into a folder",
        tmp_path / "file" / "below": "is a file, so nothing can lie below it",
        tmp_path / "file" / "far" / "below": "is a file, so nothing can lie below it",
        tmp_path / ("x" * 300): "the name is too long",
        tmp_path / "/".join(["y" * 200] * 30): "the name is too long",
        tmp_path / "new" / ("x" * 300): "the name is too long",
        tmp_path / "link": "is a link to nowhere",
        tmp_path / "link" / "below": "link",
        tmp_path / "file.yaml" / ".." / ("z" * 256): "the name is too long",
    }
    before = tree(tmp_path)
    for path, expected in cases.items():
        with pytest.raises(SetupError) as caught:
            start(path)
        said = str(caught.value)
        assert said.startswith("--out ")
        assert expected in said
        assert len(said) < 600
        assert "\n" not in said
        said.encode("utf-8")
        assert not run_folder.is_free(path)
    assert tree(tmp_path) == before
    with pytest.raises(SetupError, match=r"x\\xc5\\xbc: this locale can't hold its characters; set LC_ALL=C.UTF-8"):
        start(tmp_path / "x\udcc5\udcbc")
    with pytest.raises(SetupError, match="--out /proc/x"):
        start(run_folder.Path("/proc/x/y"))


def test_a_folder_that_may_not_be_written_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SetupError, match="is not writable for you; give another path"):
        start(tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []


def test_what_was_made_for_a_refused_run_goes_again(tmp_path, monkeypatch):
    def full(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(store, "reserve", full)
    with pytest.raises(SetupError, match="the folder can't be written: Permission denied"):
        start(tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_folder_is_a_good_place(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to("disk")
    start(tmp_path / "runs" / "one")
    assert list(tree(tmp_path / "disk")) == ["one", "one/.ballast"]


# ---------------------------------------------------------------- the lock


def test_the_lock_is_that_of_the_file_that_is_there(tmp_path, monkeypatch):
    """One process waits for a lock whose file the holder removes, while a third locks the new file."""
    first = run_folder.lock(tmp_path)
    flock, waited = run_folder.fcntl.flock, threading.Event()

    def slow(stream, how):
        if threading.current_thread() is not threading.main_thread():
            waited.wait(10)  # it has opened the file that is removed now
        return flock(stream, how)

    monkeypatch.setattr(run_folder.fcntl, "flock", slow)
    outcome = []

    def second():
        try:
            outcome.append(run_folder.lock(tmp_path))
        except SetupError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=second)
    thread.start()
    time.sleep(0.1)
    run_folder.unlock(tmp_path, first)
    third = run_folder.lock(tmp_path)
    waited.set()
    thread.join(20)
    assert "is being written by another run" in outcome[0]
    assert run_folder.is_taken(tmp_path)
    run_folder.unlock(tmp_path, third)
    assert not run_folder.is_taken(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_who_only_looks_keeps_nobody_out(tmp_path):
    run_folder.lock(tmp_path).close()
    done = threading.Event()

    def look():
        while not done.is_set():
            run_folder.is_taken(tmp_path)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(50):
            run_folder.unlock(tmp_path, run_folder.lock(tmp_path))
    finally:
        done.set()
        thread.join()


def test_a_lock_that_a_killed_process_left_holds_nobody(tmp_path):
    script = "import pathlib, sys, time\nfrom bench.runner import run_folder\n"
    script += "held = run_folder.lock(pathlib.Path(sys.argv[1]))\nprint('held', flush=True)\ntime.sleep(600)\n"
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    assert run_folder.is_taken(tmp_path)
    process.kill()
    process.wait()
    process.stdout.close()
    assert (tmp_path / ".lock").exists()
    start(tmp_path)


def test_a_file_system_without_locks_is_noted(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(run_folder.fcntl, "flock", none)
    held = run_folder.claim(tmp_path / "run")
    assert held.note == (
        "the folder's file system has no locks (No locks available): nothing keeps a second run out of it"
    )
    assert not run_folder.is_taken(tmp_path / "run")
    held.close()


# ---------------------------------------------------------------- files


@together("mask", [0o022, 0o027, 0o077, 0o002])
def test_all_files_have_the_mode_of_the_umask(mask, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mode")
    before = os.umask(mask)
    try:
        files.write_text(folder / "a", "x")
        store.reserve(folder)
        (folder / "narrow").touch(mode=0o600)
        (folder / "narrow").chmod(0o600)
        files.use_umask(folder / "narrow")
        checkpoint_files.keep_best(folder, lambda path: path.touch(mode=0o600))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o666 & ~mask}
    assert len(list(folder.iterdir())) == 4


@together("kind", ["device", "fifo", "folder", "large", "descriptors", "socket"])
def test_only_a_regular_file_of_some_size_is_read(kind, tmp_path_factory, capsys):
    path = tmp_path_factory.mktemp("read") / "record.json"
    bound = socket.socket(socket.AF_UNIX)
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "large":
        path.touch()
        os.truncate(path, 2**32)
    elif kind == "descriptors":
        path.symlink_to("/proc/self/fd")
    else:
        bound.bind(str(path))
    bound.close()
    with pytest.raises(OSError, match=r"not a regular file|more than the|No such device or address"):
        files.read_text(path, store.LIMIT_BYTES)
    with pytest.raises(DataError, match="not a whole record") as caught:
        store.read(path.parent)
    assert "\n" not in str(caught.value)
    capsys.readouterr()
    assert cli.main(["compare", str(path.parent)]) == 2
    said = capsys.readouterr().err.replace("\n", " ")
    assert said.startswith("error: ")
    assert "record.json" in said
    if kind not in ("folder", "descriptors"):
        assert cli.main(["report", str(path.parent), "-o", str(path.with_name("out"))]) == 1
        assert "not a whole record" in (path.with_name("out") / "report.md").read_text(encoding="utf-8")
