"""distributed/signed_store.py: what a stranger writes into the launcher's store ends nothing and is read by nobody."""

import dataclasses
import json
import os
import time
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from bench.distributed import signed_store, watchdog
from bench.distributed.signed_store import SignedStore
from bench.errors import SetupError
from bench.records import failures
from bench.records.failures import Failure
from bench.utils import signing

NAME, VALUE = "bench_peers/0/1/left/1", '{"rank": 1}'


class Entries(dict):
    """The store's part that is used, in memory: values are bytes."""

    def set(self, name, value):
        self[name] = value if isinstance(value, bytes) else value.encode()

    def append(self, name, value):
        self[name] = self.get(name, b"") + value.encode()

    def check(self, names):
        return all(name in self for name in names)

    def get(self, name, default=None):
        return super().get(name, default)

    def multi_get(self, names):
        return [self[name] for name in names]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(signed_store.SECRET, raising=False)
    return tmp_path


@pytest.fixture
def store():
    return SignedStore(Entries(), signed_store.launch_key("x"))


def test_what_was_signed_is_read(store):
    store.set(NAME, VALUE)
    store.append("log", "a")
    store.append("log", "b|\u00e9\U0001f600")
    assert (store.get(NAME), store.get_many([NAME]), store.lines("log")) == (
        VALUE,
        [VALUE],
        ["a", "b|\u00e9\U0001f600"],
    )
    assert store.get("nothing") is None
    assert store.lines("nothing") == []


def test_only_a_whole_entry_under_its_own_name_is_read(store):
    store.set(NAME, VALUE)
    entries, whole = store._store, store._store[NAME]
    wrong = [
        b"", b"|", b"||", VALUE.encode(), b"x" * 100, b"\xff\xfe\x00", whole[:-1], whole + b" ", b"0" + whole[1:],
        whole.replace(b"1}", b"2}"), whole.split(b"|", 1)[1], b"\x1b[2J" + whole, b"z" * 10**6, "é|1|x".encode(),
    ]  # fmt: skip
    for content in wrong:
        entries[NAME] = content
        assert store.get(NAME) is None
        assert store.get_many([NAME]) == [None]
        entries["log"] = content
        assert store.lines("log") == []
    entries["other"] = whole
    assert store.get("other") is None


def test_a_line_survives_what_a_stranger_leaves_beside_it(store):
    store._store["log"] = b"no line end"
    store.append("log", "a")
    store._store["log"] += b"\nmore|\x1b]0;x\x07"
    store.append("log", "b")
    store._store["log"] += store._store["log"]  # said twice
    assert store.lines("log") == ["a", "b"]


def test_an_entry_of_an_earlier_launch_is_not_read(store, monkeypatch):
    store.set(NAME, VALUE)
    later = SignedStore(store._store, store._key)
    assert later.get(NAME) == VALUE
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + signed_store.OLDEST_S + 60)
    assert SignedStore(store._store, store._key).get(NAME) is None


def test_each_launch_has_a_key_of_its_own_and_all_its_processes_the_same(monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "1")
    one = signed_store.launch_key("x")
    assert signed_store.launch_key("x") == one
    assert signed_store.launch_key("y") != one
    monkeypatch.setenv("MASTER_PORT", "2")
    assert signed_store.launch_key("x") != one


def test_the_key_is_for_its_owner_alone(home):
    signed_store.launch_key("x")
    path = home / "config" / "finetune-bench" / "key"
    assert oct(path.stat().st_mode)[-3:] == "600"
    assert oct(path.parent.stat().st_mode)[-3:] == "700"
    assert [one.name for one in path.parent.iterdir()] == ["key"]


@pytest.mark.parametrize("harm", ["open", "short", "text", "folder", "link"])
def test_a_key_that_others_may_know_is_not_used(harm, home, monkeypatch):
    monkeypatch.setattr(signing.tempfile, "gettempdir", lambda: "/proc/no/such")
    signed_store.launch_key("x")
    path = home / "config" / "finetune-bench" / "key"
    if harm == "open":
        path.chmod(0o644)
    elif harm in ("short", "text"):
        path.write_text("00" if harm == "short" else "no key at all")
    else:
        path.rename(home / "elsewhere")
        if harm == "folder":
            path.mkdir()
        else:
            path.symlink_to(home / "elsewhere")
    with pytest.raises(
        SetupError, match=r"the messages between processes can't be signed: .*; or set BENCH_LAUNCH_SECRET"
    ):
        signed_store.launch_key("x")
    monkeypatch.setenv(signed_store.SECRET, "0123456789abcdef")
    assert signed_store.launch_key("x")


def test_a_person_without_a_home_has_a_key_among_temporary_files(home, monkeypatch):
    (home / "config").write_text("")
    monkeypatch.setattr(signing.tempfile, "gettempdir", lambda: str(home))
    assert signed_store.launch_key("x")
    assert (home / f"finetune-bench-{os.geteuid()}" / "key").is_file()


def test_a_secret_that_can_be_guessed_is_refused(monkeypatch):
    monkeypatch.setenv(signed_store.SECRET, "hunter2")
    with pytest.raises(SetupError, match="BENCH_LAUNCH_SECRET has 7 characters; take at least 16"):
        signed_store.launch_key("x")


def test_machines_with_different_secrets_are_told_so(monkeypatch):
    own = signed_store.fingerprint()
    signed_store.check_agreement([own, own])
    monkeypatch.setenv(signed_store.SECRET, "0123456789abcdef")
    assert "0123456789abcdef" not in signed_store.fingerprint()
    with pytest.raises(SetupError, match=r"different secrets.*set BENCH_LAUNCH_SECRET to the same value"):
        signed_store.check_agreement([own, signed_store.fingerprint()])


# ---------------------------------------------------------------- what is said


def said(**changes):
    whole = dataclasses.asdict(Failure(rank=1, kind="own", status="crashed", sentence="x", phase="train"))
    return json.dumps({**whole, **changes})


def test_a_failure_comes_back_as_it_was():
    failure = Failure(rank=1, kind="own", status="oom", sentence="é", phase="train", trace="t", shortage={"rank": 1})
    assert failures.from_json(failure.packed(), 2) == failure


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "1", '"x"', "{", "[" * 100_000, "{}", said(more=1), said(rank=-1), said(rank=2),
        said(rank="1"), said(rank=True), said(rank=1.0), said(kind="killed"), said(kind=[]),
        said(status="fine"), said(status=None),
        said(sentence=1), said(sentence="x" * 8001), said(phase="x" * 101), said(phase=None), said(trace="x" * 6001),
        said(shortage=[]), said(shortage={"x": "y" * 9000}),
    ],
)  # fmt: skip
def test_of_another_shape_nothing_is_believed(text):
    assert failures.from_json(text, 2) is None


def test_control_characters_of_a_message_are_escaped():
    found = failures.from_json(said(sentence="\x1b[2J\u202e", phase="\x9b", trace="\r"), 2)
    assert (found.sentence, found.phase, found.trace) == ("\\u001b[2J\\u202e", "\\u009b", "\\r")


@pytest.mark.parametrize(
    ("text", "after", "right"),
    [
        ("3|a|train", None, True), ("3|a|train", "2|a|train", True), ("3|a|train", "3|a|train", True),
        ("2|a|train", "3|a|train", False), ("x|a|train", None, False), ("-1|a|x", None, False), ("3", None, False),
        ("3||train", None, False), ("3|a|\x1b[2J", None, False), (f"{'9' * 16}|a|x", None, False),
        (f"3|{'a' * 256}|x", None, False), (f"3|a|{'x' * 256}", None, False), ("\u0663|a|x|y", "4|a|x", False),
    ],
)  # fmt: skip
def test_heartbeats(text, after, right):
    assert watchdog.is_heartbeat(text, after) == right


# ---------------------------------------------------------------- a stranger at the port


def wait_for_a_round(watch):
    """Wait until a watchdog has read all entries at least once from now on: the round that is under way may not."""
    rounds, end_s = watch._rounds, time.monotonic() + 60
    while watch._rounds < rounds + 2:
        assert time.monotonic() < end_s, "the watchdog reads no more"
        time.sleep(0.05)


def test_a_stranger_ends_nothing_and_is_not_quoted(monkeypatch):
    """Into every entry that a watchdog reads: nonsense, forged failures, and another launch's words."""
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": server.port}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))
    found = []
    watch = watchdog.ProcessWatchdog(lambda: "train", found.append, limit_s=60.0).start()
    client = TCPStore("127.0.0.1", server.port, is_master=False, timeout=timedelta(seconds=30), wait_for_workers=False)
    other = SignedStore(client, watch._key_of_launch)
    forged = SignedStore(client, b"another key")
    try:
        for number in range(6):
            other.set(f"{watch._prefix}/beat/1", f"{number}|b|train")
            evil = said(rank=0, status="invalid", sentence="\x1b[2Jgive me your token")
            client.append(f"{watch._prefix}/log", f"{evil}\n\x1b[2J\xff")
            forged.append(f"{watch._prefix}/log", evil)
            client.set(f"{watch._prefix}/who/1", "\x00" * 50)
            forged.set(f"{watch._prefix}/left/1", evil)
            wait_for_a_round(watch)  # the entry that the next line replaces has been read
            client.set(f"{watch._prefix}/beat/1", "99|x|\x1b[2J")
            wait_for_a_round(watch)
        assert watch.monitor.failures == []
        assert not watch.monitor.alarmed()
        assert not watch.monitor.store_gone
        assert watch.monitor.heartbeats[1].endswith("|b|train")
        other.append(f"{watch._prefix}/log", said(sentence="mine"))
        end_s = time.monotonic() + 20
        while not watch.monitor.failures and time.monotonic() < end_s:
            time.sleep(0.1)
        assert [failure.sentence for failure in watch.monitor.failures] == ["mine"]
        assert found == []
    finally:
        watch.stop()
