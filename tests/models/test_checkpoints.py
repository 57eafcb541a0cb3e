"""Checkpoints as files and as states, SIGTERM, and votes: checkpoint_files, checkpointing, signals, vote."""

import json
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments, get_scheduler

from bench.distributed import launcher, signals
from bench.distributed.signals import StopHandler
from bench.distributed.vote import AsyncFlagVote
from bench.errors import SetupError, StoppedError
from bench.training import checkpoint_files, checkpointing
from bench.utils import signing
from tests.helpers import libraries


def written(folder, step, seed=13, files=()):
    """A checkpoint with a state, a file of bytes in a folder of its own, and others."""
    partial = checkpoint_files.begin(folder, step)
    (partial / checkpoint_files.STATE).write_text(json.dumps({"hash": "abcdef0123456789", "seed": seed, "step": step}))
    (partial / "part").mkdir()
    (partial / "part" / "optimizer.bin").write_bytes(bytes(range(256)) * 10)
    for name in files:
        (partial / name).write_bytes(name.encode())
    return checkpoint_files.seal(partial)


# ---------------------------------------------------------------- files


def test_the_newest_whole_one_is_found(tmp_path):
    assert checkpoint_files.newest(tmp_path / "none") == (None, [])
    for step in (2, 10, 9):
        written(tmp_path, step)
    partial = checkpoint_files.begin(tmp_path, 12)
    (partial / checkpoint_files.STATE).write_text("{}")
    found, damaged = checkpoint_files.newest(tmp_path)
    assert (found.step, found.hash, found.seed, damaged) == (10, "abcdef0123456789", 13, [])
    assert checkpoint_files.newest(tmp_path, below=10)[0].step == 9
    assert checkpoint_files.steps(tmp_path) == [10, 9, 2]


def cut(path):
    os.truncate(path / "part" / "optimizer.bin", 100)


def flip(path):
    file = path / "part" / "optimizer.bin"
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)


def another_format(path):
    file = path / checkpoint_files.MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))


def linked(path):
    (path / "part" / "optimizer.bin").rename(path.parent / "moved")
    (path / "part" / "optimizer.bin").symlink_to(path.parent / "moved")


def fifo(path):
    (path / "part" / "optimizer.bin").unlink()
    os.mkfifo(path / "part" / "optimizer.bin")


def edited(path, name, **changes):
    content = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps({**content, **changes}))


def renamed(path):
    """The checkpoint of an earlier step in the place of this one."""
    path.rename(path.with_name("gone"))
    shutil.copytree(path.with_name("step-00000004"), path)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (cut, "part/optimizer.bin is not as it was written"),
        (flip, "part/optimizer.bin is not as it was written"),
        (lambda path: (path / "part" / "optimizer.bin").unlink(), "optimizer.bin is missing"),
        (lambda path: (path / checkpoint_files.STATE).unlink(), "state.json is missing"),
        (lambda path: (path / checkpoint_files.MANIFEST).unlink(), "manifest.json is missing"),
        (lambda path: (path / checkpoint_files.MANIFEST).write_text('{"format": 1, "fil'), "can't be read"),
        (lambda path: (path / checkpoint_files.MANIFEST).write_text("[]"), "can't be read"),
        (
            lambda path: (path / checkpoint_files.MANIFEST).write_text('{"format": 2, "files": {}}'),
            "does not list state.json",
        ),
        (another_format, "its format is 99"),
        (lambda path: (path / "global_step6_optim_states.pt").write_bytes(b"x"), "is not in its manifest"),
        (lambda path: (path / "part" / ".metadata").write_bytes(b"x"), "part/.metadata is not in its manifest"),
        (lambda path: (path / "more").symlink_to("/etc"), "more is not in its manifest"),
        (linked, "a link, not a regular file"),
        (fifo, "a FIFO, not a regular file"),
        (lambda path: edited(path, "manifest.json", files={"state.json": "/etc/passwd"}), "is not in its manifest"),
        (renamed, "its state.json is not one of step 6"),
    ],
)
def test_a_damaged_one_is_told_and_the_one_before_is_used(harm, says, tmp_path):
    written(tmp_path, 4)
    harm(written(tmp_path, 6))
    found, (damaged,) = checkpoint_files.newest(tmp_path)
    assert found.step == 4
    assert damaged.startswith("the checkpoint of step 6 is damaged and was not used: ")
    assert says in damaged
    assert written(tmp_path, 6) == checkpoint_files.newest(tmp_path)[0].path  # written again, over the damaged one


def resealed(path, key=None):
    """A checkpoint with a changed state, whose manifest is right again; signed with another's key, or not at all."""
    edited(path, checkpoint_files.STATE, rows=[])
    partial = path.rename(checkpoint_files.partial_of(path.parent, 6))
    (partial / checkpoint_files.MANIFEST).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(key))
        return checkpoint_files.seal(partial)


@pytest.mark.parametrize(
    "how", ["another's key", "no key", "no signature", "edited", "another's content", "a key that others read"]
)
def test_only_this_person_s_signature_counts(how, tmp_path, monkeypatch):
    path = written(tmp_path, 6)
    assert checkpoint_files.newest(tmp_path)[0].signed
    if how in ("another's key", "no key"):
        (tmp_path / "file").write_text("x")
        resealed(path, tmp_path / ("theirs" if how == "another's key" else "file"))
    elif how in ("no signature", "edited"):
        edited(path, checkpoint_files.MANIFEST, signature=None if how == "no signature" else "0" * 64)
    elif how == "another's content":
        signature = json.loads((written(tmp_path, 5) / checkpoint_files.MANIFEST).read_text())["signature"]
        edited(path, checkpoint_files.MANIFEST, signature=signature)
    else:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
        path = written(tmp_path, 6)
        assert checkpoint_files.is_signed(path)
        signing.key_path().chmod(0o640)
    found, damaged = checkpoint_files.newest(tmp_path)
    assert (found.step, found.signed, damaged) == (6, False, [])


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "new"))
    assert not signing.is_signed("x", b"y", "z")
    assert not (tmp_path / "new").exists()
    with ThreadPoolExecutor(8) as pool:
        (signature,) = set(pool.map(lambda _: signing.sign("x", b"y"), range(32)))
    path = tmp_path / "new" / "finetune-bench" / "key"
    assert [item.name for item in path.parent.iterdir()] == ["key"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert signing.is_signed("x", b"y", signature)
    for purpose, content, given in (
        ("z", b"y", signature),
        ("x", b"z", signature),
        ("x", b"y", None),
        ("x", b"y", "é"),
    ):
        assert not signing.is_signed(purpose, content, given)
    for harm, says in (
        (lambda: path.chmod(0o604), "chmod 600"),
        (lambda: path.write_text("short"), "is damaged"),
        (lambda: (path.rename(tmp_path / "moved"), path.symlink_to(tmp_path / "moved")), "a link"),
    ):
        path.unlink(missing_ok=True)
        signing.sign("x", b"y")
        harm()
        with pytest.raises(SetupError, match=says):
            signing.sign("x", b"y")
        assert not signing.is_signed("x", b"y", signature)


# ---------------------------------------------------------------- weights and optimisers of another training


def small():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    model[0].bias.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors: tensors.pop("1.bias"), "it lacks 1.bias"),
        (lambda tensors: tensors.clear(), "it lacks 0.weight"),
        (lambda tensors: tensors.update({"2.weight": torch.ones(1)}), "it has 2.weight, which is not trained"),
        (lambda tensors: tensors.update({"0.bias": torch.ones(3)}), "it has 0.bias, which is not trained"),
        (lambda tensors: tensors.update({"1.bias": torch.ones(1)}), "1.bias is of shape [1], and [2] is trained"),
        (lambda tensors: tensors.update({"0.weight": torch.ones(3, 4).half()}), "0.weight is of type F16, and F32"),
        (lambda tensors: tensors.update({"base.1.bias": tensors.pop("1.bias")}), "it lacks 1.bias"),
    ],
)
def test_weights_that_are_not_those_trained_are_refused(change, says, tmp_path):
    tensors = checkpointing.trained_state(small())
    assert sorted(tensors) == ["0.weight", "1.bias", "1.weight"]
    save_file(tensors, tmp_path / "trained.safetensors")
    model = small()
    checkpointing.load_trained(0, model, tmp_path / "trained.safetensors", dtypes=True)
    tensors = {name: tensor + 1 for name, tensor in tensors.items()}
    change(tensors)
    save_file(tensors, tmp_path / "trained.safetensors")
    with pytest.raises(SetupError) as caught:
        checkpointing.load_trained(0, model, tmp_path / "trained.safetensors", dtypes=True)
    assert says in str(caught.value)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), small().parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state["state"].pop(1), "it has none for 1.weight"),
        (lambda state: state["state"].update({7: {}}), "it has a state of parameter 7, which is in no group"),
        (lambda state: state["param_groups"][0]["params"].pop(), "its groups have [2] parameters, these [3]"),
        (lambda state: state["param_groups"].append(state["param_groups"][0]), "its groups have [3, 3]"),
        (lambda state: state["state"][0].update(exp_avg=torch.ones(4, 3)), "exp_avg of 0.weight is of shape [4, 3]"),
        (lambda state: state["state"][2].update(exp_avg_sq=torch.ones(())), "exp_avg_sq of 1.bias is of shape []"),
    ],
)
def test_an_optimiser_s_state_of_another_training_is_refused(change, says):
    model = small()
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad])
    assert checkpointing.find_other_optimizer(optimizer.state_dict(), optimizer, model, ()) is None
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    assert checkpointing.find_other_optimizer(state, optimizer, model, ()) is None
    change(state)
    assert says in checkpointing.find_other_optimizer(state, optimizer, model, ())


def test_few_are_kept(tmp_path):
    for step in (2, 4, 6, 8, 10):
        written(tmp_path, step)
    checkpoint_files.begin(tmp_path, 12)
    checkpoint_files.discard(tmp_path, newest_step=8, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000006", "step-00000008"]


def test_what_somebody_has_put_into_a_checkpoint_is_moved_aside_and_not_removed(tmp_path):
    for step in (2, 4, 6):
        (written(tmp_path, step) / "why.txt").write_text("because")
    checkpoint_files.discard(tmp_path, newest_step=6, keep=1)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.glob("step-0000000[24]/*"))] == [
        "step-00000002/why.txt",
        "step-00000004/why.txt",
    ]
    written(tmp_path, 6)
    assert [path.read_text() for path in tmp_path.glob("step-00000006.left-*/why.txt")] == ["because"]
    found, damaged = checkpoint_files.newest(tmp_path)
    assert (found.step, damaged) == (6, [])


def test_best_weights_go_with_each_checkpoint(tmp_path):
    checkpoint_files.keep_best(tmp_path, lambda path: path.write_text("of step 1"))
    first = checkpoint_files.begin(tmp_path, 2)
    checkpoint_files.carry_best(tmp_path, first)
    assert (first / checkpoint_files.BEST).stat().st_ino == (tmp_path / checkpoint_files.BEST).stat().st_ino
    checkpoint_files.keep_best(tmp_path, lambda path: path.write_text("of step 3"))
    assert (first / checkpoint_files.BEST).read_text() == "of step 1"
    checkpoint_files.carry_best(first, tmp_path)
    assert (tmp_path / checkpoint_files.BEST).read_text() == "of step 1"
    checkpoint_files.carry_best(checkpoint_files.begin(tmp_path, 1), tmp_path)
    assert not (tmp_path / checkpoint_files.BEST).exists()


def test_a_folder_with_nothing_but_best_weights_goes_with_them(tmp_path):
    checkpoint_files.keep_best(tmp_path / "own", lambda path: path.write_text("x"))
    checkpoint_files.forget_best(tmp_path / "own")
    assert not (tmp_path / "own").exists()
    checkpoint_files.forget_best(tmp_path / "own")


def test_another_recipe_or_seed_is_refused(tmp_path):
    written(tmp_path, 2)
    found, _ = checkpoint_files.newest(tmp_path)
    found.refuse_other("abcdef0123456789", 13, tmp_path)
    with pytest.raises(SetupError, match="its recipe's hash is abcdef01, this one's 99999999; give --overwrite"):
        found.refuse_other("99999999aaaa", 13, tmp_path)
    with pytest.raises(SetupError, match="its seed is 13, this one's 14; give --overwrite"):
        found.refuse_other("abcdef0123456789", 14, tmp_path)


# ---------------------------------------------------------------- states


def trained_further(model, optimizer, scheduler, steps):
    for step in steps:
        torch.manual_seed(step)
        model(torch.randn(8, 64)).square().mean().backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return model.weight.detach().clone()


def made(kind, schedule, folder):
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 128)
    arguments = TrainingArguments(output_dir=str(folder), optim=kind, learning_rate=0.01, use_cpu=True)
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    groups = [{"params": [model.weight], "weight_decay": 0.1}, {"params": [model.bias], "weight_decay": 0.0}]
    optimizer = optimizer_class(groups, **options)
    return model, optimizer, get_scheduler(schedule, optimizer, 2, 8)


@pytest.mark.parametrize(
    ("kind", "schedule"),
    [
        *((kind, "linear") for kind in ("adamw_torch", "adamw_bnb_8bit", "adafactor", "sgd")),
        *(("adamw_torch_fused", name) for name in ("linear", "cosine", "constant", "polynomial", "inverse_sqrt")),
    ],
)
def test_an_optimiser_goes_on_as_if_nothing_had_happened(kind, schedule, tmp_path):
    if "bnb" in kind:
        libraries.needed("bitsandbytes")
    expected = trained_further(*made(kind, schedule, tmp_path), range(6))
    model, optimizer, scheduler = made(kind, schedule, tmp_path)
    trained_further(model, optimizer, scheduler, range(3))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = {}
    state = checkpointing.flatten_state([optimizer.state_dict(), scheduler.state_dict()], "", tensors)
    save_file(tensors, tmp_path / "tensors")
    state = checkpointing.unflatten_state(json.loads(json.dumps(state)), load_file(tmp_path / "tensors"))
    model, optimizer, scheduler = made(kind, schedule, tmp_path)
    model.load_state_dict(weights)
    optimizer.load_state_dict(state[0])
    scheduler.load_state_dict(state[1])
    assert torch.equal(trained_further(model, optimizer, scheduler, range(3, 6)), expected)


def test_a_state_keeps_its_types():
    shared = torch.arange(3)
    state = {0: (0.9, 0.999), "a": [None, True, {"b": shared}], 1: {"c": shared[:2], "d": 1e-8}, "e": float("inf")}
    tensors = {}
    back = checkpointing.unflatten_state(
        json.loads(json.dumps(checkpointing.flatten_state(state, "", tensors))), tensors
    )
    assert list(back) == [0, "a", 1, "e"]
    assert back[0] == (0.9, 0.999)
    assert back["a"][:2] == [None, True]
    assert back["a"][2]["b"].tolist() == [0, 1, 2]
    assert (back[1]["c"].tolist(), back[1]["d"], back["e"]) == ([0, 1], 1e-8, float("inf"))
    assert len({tensor.data_ptr() for tensor in tensors.values()}) == 2


# ---------------------------------------------------------------- to be asked to stop


@pytest.fixture
def stopper():
    before, found = signal.getsignal(signal.SIGTERM), StopHandler()
    signal.signal(signal.SIGTERM, found)
    yield found
    signal.signal(signal.SIGTERM, before)


def test_a_run_stops_at_once(stopper):
    with pytest.raises(StoppedError, match="SIGTERM"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopper.asked


def test_who_waits_is_not_torn(stopper):
    done = []

    def work():
        with stopper.waiting():
            done.append(stopper.asked)
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            done.append(stopper.asked)

    for _ in range(2):  # who was stopped does not begin again
        with pytest.raises(StoppedError, match="SIGTERM"):
            work()
    assert done == [False, True]


@pytest.fixture
def handled():
    """A handler of all signals; what handled them before comes back."""
    before, found = {number: signal.getsignal(number) for number in signals.SIGNALS}, StopHandler()
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_each_signal_stops_at_once_where_nobody_waits(number, handled):
    signal.signal(number, signal.SIG_DFL)
    handled.install()
    with pytest.raises((StoppedError, KeyboardInterrupt)) as raised:
        os.kill(os.getpid(), number)
    assert raised.type is (KeyboardInterrupt if number == signal.SIGINT else StoppedError)
    assert handled.by.split(" ")[0] == ("Ctrl-C" if number == signal.SIGINT else number.name)
    # What it raised may be taken for another error: the next stage does not begin.
    with pytest.raises(StoppedError, match=f"stopped by {handled.by.split(' ')[0]}"):
        handled.heed()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_that_is_ignored_stays_so(number, handled):
    signal.signal(number, signal.SIG_IGN)  # as nohup does, and a shell for a job in the background
    handled.install()
    os.kill(os.getpid(), number)
    signals.ignore()
    assert signal.getsignal(number) == signal.SIG_IGN
    assert not handled.asked


def test_the_end_of_the_launcher_stops_a_process(handled, monkeypatch):
    handled.install()
    above = subprocess.Popen(["sleep", "60"])
    monkeypatch.setattr(launcher, "launcher_process", lambda: above.pid)

    def work():
        signals.stop_with_launcher(handled)
        above.kill()
        time.sleep(30)

    with pytest.raises(StoppedError, match="stopped by the end of its launcher"):
        work()
    above.wait()
    with pytest.raises(StoppedError, match="stopped by the end of its launcher"):
        signals.stop_with_launcher(handled)  # it has ended before it could be watched


def test_an_own_error_is_not_hidden_by_the_signal(stopper):
    def work():
        with stopper.waiting():
            os.kill(os.getpid(), signal.SIGTERM)
            raise SetupError("mine")

    with pytest.raises(SetupError, match="mine"):
        work()


def test_a_single_process_reads_its_own_vote_at_once():
    ballot = AsyncFlagVote()
    assert ballot.vote([True, False], last=False) == [True, False]
    assert ballot.vote([False, False], last=True) == [False, False]
    ballot.close()
