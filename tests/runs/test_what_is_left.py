"""Resuming: taken over only as it was written, completed where only its report lacks, and failures are said at once."""

import errno
import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file

from bench.errors import SetupError
from bench.reporting.figures import run as run_figures
from bench.runner import completion, lifecycle, stages
from bench.training import checkpoint_files, checkpointing
from bench.training.state import Observer, Steps
from bench.utils import files
from tests.helpers.cases import together
from tests.helpers.launching import ROOT

RECIPE = ROOT / "recipes" / "tiny" / "bert-full.yaml"
SMALL = [
    "training.epochs=null", "training.steps=4", "training.global_batch=8", "checkpoints.every_steps=2",
    "limit={train: 24, test: 16, validation: 16}", "save=false",
]  # fmt: skip

pytestmark = pytest.mark.usefixtures("bare_runs")


class Killed(BaseException):
    """The end of a process that no handler sees."""


def run(folder, *extra):
    settings = dict(text.split("=", 1) for text in [*SMALL, *extra])
    return lifecycle.main([str(RECIPE), *(f"{key}={value}" for key, value in settings.items()), "--out", str(folder)])


def record_of(folder):
    return json.loads((folder / "record.json").read_text(encoding="utf-8"))


def kill_in_step(monkeypatch, step):
    start, begun = Steps.start, []

    def begin(steps):
        begun.append(None)
        if len(begun) == step:
            raise Killed
        start(steps)

    monkeypatch.setattr(Steps, "start", begin)


@pytest.fixture(scope="module")
def killed(bare_runs, tmp_path_factory):
    """A run that was killed in step 4, with a checkpoint of step 2."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        kill_in_step(patch, 4)
        with pytest.raises(Killed):
            run(folder)
    assert record_of(folder)["finished_at"] is None
    assert (folder / ".before.json").is_file()
    return folder


@pytest.fixture
def left(killed, tmp_path):
    """A copy of it."""
    return shutil.copytree(killed, tmp_path / "run")


def edit(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def edit_line(folder):
    path = folder / "predictions" / "before-test.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    row = json.loads(lines[0])
    row["prediction"] = row["reference"]
    path.write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n", encoding="utf-8")


def raise_score(content):
    content["scores"]["before"]["test"]["accuracy"]["value"] = 1.0


def raise_baseline(content):
    content["baselines"]["test"]["majority"]["accuracy"] = 1.0


def both(folder):
    edit(folder / "record.json", raise_score)
    edit_line(folder)


EDITED = {
    "a score": lambda folder: edit(folder / "record.json", raise_score),
    "a baseline": lambda folder: edit(folder / "record.json", raise_baseline),
    "a prediction": edit_line,
    "scores and predictions": both,
    "no seal": lambda folder: (folder / ".before.json").unlink(),
    "a seal of nobody": lambda folder: (folder / ".before.json").write_text("0" * 64, encoding="utf-8"),
    "no predictions": lambda folder: (folder / "predictions" / "before-test.jsonl").unlink(),
}


@pytest.mark.parametrize("kind", EDITED)
def test_edited_scores_of_before_are_not_taken_over(kind, left, killed):
    EDITED[kind](left)
    assert run(left) == 0
    found, before = record_of(left), record_of(killed)
    assert found["scores"]["before"] == before["scores"]["before"]
    assert found["baselines"] == before["baselines"]
    assert (left / "predictions/before-test.jsonl").read_bytes() == (
        killed / "predictions/before-test.jsonl"
    ).read_bytes()
    (note,) = [note for note in found["notes"] if note.startswith("before: ")]
    assert note.startswith("before: scored again, since its ")
    assert found["resumed"][0]["from_step"] == 2
    assert not (left / ".before.json").exists()


def test_weights_that_a_sealed_checkpoint_lacks_are_not_random_ones(left, capsys):
    path = checkpoint_files.path_of(left / "checkpoints", 2)
    partial = path.rename(checkpoint_files.partial_of(left / "checkpoints", 2))
    weights = load_file(partial / "trained.safetensors")
    del weights["classifier.weight"]
    save_file(weights, partial / "trained.safetensors")
    (partial / "manifest.json").unlink()
    checkpoint_files.seal(partial)
    assert run(left) == 2
    assert "it lacks classifier.weight; give --overwrite to start anew" in capsys.readouterr().err
    assert record_of(left)["status"] == "invalid"
    assert path.is_dir()


def test_another_person_s_checkpoint_of_plain_data_is_noted(left, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another home"))
    assert run(left) == 0
    notes = record_of(left)["notes"]
    assert "the checkpoint of step 2 is not signed with your key: it is read as data" in notes
    assert [note for note in notes if note.startswith("before: scored again")]


@together("key", ["rows", "scheduler", "without_gradient", "data"])
def test_a_state_without_a_key_is_one_sentence(key, killed, tmp_path_factory):
    folder = shutil.copytree(killed, tmp_path_factory.mktemp("state") / "run")
    partial = checkpoint_files.path_of(folder / "checkpoints", 2)
    edit(partial / "state.json", lambda state: state.pop(key))
    (partial / "manifest.json").unlink()
    checkpoint_files.seal(partial.rename(checkpoint_files.partial_of(folder / "checkpoints", 2)))
    PartialState(cpu=True)
    checkpoint, _ = checkpoint_files.newest(folder / "checkpoints")
    inputs = SimpleNamespace(checkpoint_folder=folder / "checkpoints", checkpoint=checkpoint, rank=0)
    with pytest.raises(SetupError, match=rf"lacks '{key}' in its state\.json; give --overwrite"):
        checkpointing.agree_on_checkpoint(inputs, sharded=False)


# ---------------------------------------------------------------- shards are unpickled


class Heard(Observer):
    def __init__(self):
        self.notes = []

    def on_note(self, sentence):
        self.notes.append(sentence)


@pytest.mark.parametrize("how", ["signed", "another's key", "a planted file", "a changed file"])
def test_no_shard_is_unpickled_that_is_not_signed(how, tmp_path, monkeypatch):
    PartialState(cpu=True)
    folder = tmp_path / "checkpoints"
    for step in (2, 4):
        partial = checkpoint_files.begin(folder, step)
        state = {**dict.fromkeys(checkpointing._KEYS), "hash": "a", "seed": 1, "step": step, "data": "d"}
        state |= {"spread": "ZeRO-2", "world_size": 1}
        (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
        (partial / "global_step1").mkdir()
        torch.save({"x": 1}, partial / "global_step1" / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
        with monkeypatch.context() as patch:
            if how == "another's key":
                patch.setenv("XDG_CONFIG_HOME", str(tmp_path / "theirs"))
            path = checkpoint_files.seal(partial)
    if how == "a planted file":
        torch.save({"x": 2}, path / "global_step1" / "zero_pp_rank_1_mp_rank_00_optim_states.pt")
    if how == "a changed file":
        torch.save({"x": 3}, path / "global_step1" / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    checkpoint, damaged = checkpoint_files.newest(folder)
    inputs = SimpleNamespace(
        checkpoint_folder=folder, checkpoint=checkpoint, rank=0, observer=Heard(), identity=SimpleNamespace(data="d")
    )
    assert len(damaged) == (how in ("a planted file", "a changed file"))
    if how == "another's key":
        with pytest.raises(SetupError, match=r"is not signed with your key .* read by unpickling"):
            checkpointing.agree_on_checkpoint(inputs, sharded=True)
    else:
        found = checkpointing.agree_on_checkpoint(inputs, sharded=True)
        assert found.state["step"] == (4 if how == "signed" else 2)
    assert checkpointing.agree_on_checkpoint(inputs, sharded=False).path == checkpoint.path


@together("changes", [{"spread": "whole"}, {"world_size": 2}, {"spread": "whole", "world_size": 4}])
def test_shards_of_another_launch_are_refused_before_a_library_looks_for_them(changes, tmp_path_factory):
    PartialState(cpu=True)
    folder = tmp_path_factory.mktemp("shards")
    partial = checkpoint_files.begin(folder, 2)
    state = {
        **dict.fromkeys(checkpointing._KEYS),
        "hash": "a",
        "seed": 1,
        "step": 2,
        "spread": "ZeRO-2",
        "world_size": 1,
    }
    (partial / "state.json").write_text(json.dumps({**state, **changes}), encoding="utf-8")
    checkpoint_files.seal(partial)
    checkpoint, _ = checkpoint_files.newest(folder)
    inputs = SimpleNamespace(checkpoint_folder=folder, checkpoint=checkpoint, rank=0)
    refused = r"written with sharding (none|ZeRO-2), .*; launch it as before, or give --overwrite to start anew"
    with pytest.raises(SetupError, match=refused):
        checkpointing.agree_on_checkpoint(inputs, sharded=True)


# ---------------------------------------------------------------- a checkpoint that can't be written


def test_a_checkpoint_that_cant_be_written_is_said_while_the_run_lives(tmp_path, monkeypatch, capsys):
    folder, seen = tmp_path / "run", []

    def full(partial):
        raise OSError(errno.ENOSPC, "No space left on device")

    advance = checkpoint_files.begin

    def begin(place, step):
        if step > 2:
            known = record_of(folder)
            seen.append((known["warnings"], known["notes"][-1], capsys.readouterr().err))
        return advance(place, step)

    monkeypatch.setattr(checkpoint_files, "seal", full)
    monkeypatch.setattr(checkpoint_files, "begin", begin)
    assert run(folder, "training.steps=8", "evaluation.before=false") == 0
    (first, note, said), (second, *_) = seen
    assert note == "the checkpoint of step 2 could not be written: [Errno 28] No space left on device"
    codes = ["weights_not_loaded", "checkpoint_not_written"]
    assert [one["code"] for one in first] == [one["code"] for one in second] == codes
    assert first[1]["sentence"].startswith(f"{note}; ")
    assert "stopped or killed, the run goes on from the beginning" in first[1]["sentence"]
    assert "(2 checkpoints so far)" in second[1]["sentence"]
    assert first[1]["sentence"] in said.replace("\n", " ")
    assert not (folder / "checkpoints").exists() or not list((folder / "checkpoints").iterdir())


# ---------------------------------------------------------------- ended while figures are drawn


@pytest.fixture(scope="module")
def half(bare_runs, tmp_path_factory):
    """A run that was killed while its figures were drawn."""
    folder = tmp_path_factory.mktemp("half") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completion, "write_report", lambda run: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            run(folder)
    assert record_of(folder)["status"] == "ok"
    assert not (folder / "report.md").exists()
    return folder


@pytest.fixture
def undrawn(half, tmp_path):
    return shutil.copytree(half, tmp_path / "run")


def nothing_is_trained(*_):
    raise AssertionError("a stage of the run was done again")


@pytest.mark.parametrize("kind", ["nothing else", "no figure file", "checkpoints are left"])
def test_the_same_command_makes_the_report_and_trains_nothing(kind, undrawn, monkeypatch, capsys):
    drawn = {"learning_curves": "figures/learning_curves.png", "length_histogram": "figures/length_histogram.png"}
    asked = []

    def draw(folder, record, rows, lengths):
        asked.append((len(rows), sorted(lengths), {name: len(item) for name, item in lengths.items()}))
        (folder / "figures").mkdir(exist_ok=True)
        for path in drawn.values():
            files.write_text(folder / path, "drawn")
        return drawn

    monkeypatch.setattr(run_figures, "draw_all", draw)
    for name in ("fit", "build_model"):
        monkeypatch.setattr(stages, name, nothing_is_trained)
    before = record_of(undrawn)
    for launch in range(2):
        assert run(undrawn) == 0
        assert asked == [(2, ["test", "train"], {"train": 24, "test": 16})] * (launch + 1)
        found = record_of(undrawn)
        assert found["artifacts"] == {**before["artifacts"], **drawn, "report": "report.md"}
        changed = {name for name in before if before[name] != found[name]}
        assert changed == {"artifacts", "notes"}
        assert found["notes"][-1] == completion.COMPLETED
        assert (undrawn / "report.md").is_file()
        assert sorted(os.listdir(undrawn)) == [
            "figures", "predictions", "record.json", "report.md", "train_log.jsonl",
        ]  # fmt: skip
        if kind == "nothing else" or launch:
            break
        if kind == "no figure file":
            (undrawn / "figures" / "learning_curves.png").unlink()
        else:
            partial = checkpoint_files.begin(undrawn / "checkpoints", 2)
            (partial / "state.json").write_text("{}", encoding="utf-8")
            checkpoint_files.seal(partial)
    capsys.readouterr()
    assert run(undrawn) == 2
    assert "holds a finished run; give --overwrite to replace it" in capsys.readouterr().err


def test_other_processes_leave_it_to_the_first(undrawn, monkeypatch):
    before = record_of(undrawn)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(stages, "fit", nothing_is_trained)
    assert run(undrawn) == 0
    assert record_of(undrawn) == before
    assert not (undrawn / "report.md").exists()


def test_a_report_that_can_not_be_made_now_ends_nothing(undrawn, monkeypatch):
    before = record_of(undrawn)
    (undrawn / "train_log.jsonl").write_text("half a li", encoding="utf-8")

    def broken(*_):
        raise RuntimeError("no canvas")

    monkeypatch.setattr(run_figures, "draw_all", broken)
    assert run(undrawn) == 0
    found = record_of(undrawn)
    assert (found["status"], found["scores"]) == ("ok", before["scores"])
    assert "no report could be written: RuntimeError: no canvas" in found["notes"]
    assert [note for note in found["notes"] if note.startswith("train_log.jsonl can't be read")]


def test_another_recipe_s_half_finished_run_is_not_completed(undrawn, capsys):
    before = record_of(undrawn)
    assert run(undrawn, "training.steps=5") == 2
    assert "holds a finished run" in capsys.readouterr().err
    assert record_of(undrawn) == before
