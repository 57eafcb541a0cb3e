"""A watchdog over the processes of a run: when one dies, the others end, and the record says which one it was.

Two threads in every process. The heartbeat thread writes to the launcher's key-value store once a second that this
process is alive, and reads who else is. The guard thread uses no network; it ends this process when another one is
dead and the main thread does not return by itself, as from a collective that waits for the dead process. Rank zero
reads all heartbeats; the others read only rank zero's, and check the processes of their own machine.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

from bench import console
from bench.distributed.signed_store import SignedStore, launch_key
from bench.records.failures import Failure, from_json

HEARTBEAT_S = 1.0
# After an error was seen, a process without a heartbeat for so long is considered dead. Longer than a library usually
# keeps the interpreter's lock, shorter than the 30 s that the launcher gives before it kills.
LOST_AFTER_S = 8.0
# Processes of one machine die together, but are not missed in the same second.
SETTLE_S = 2.0
# How long a failed process waits to hear whose fault it was; rank zero decides first, if it has begun at all.
WAIT_ZERO_S, WAIT_OTHERS_S, WAIT_FOR_ZERO_TO_JOIN_S = 13.0, 18.0, 60.0
# After an alarm, how long the main thread may take to come back by itself, and then to write the record.
GRACE_S, FILING_S = 8.0, 120.0
# How much longer a collective waits than this watchdog, which can say who is lost, and so must speak first.
COLLECTIVES_WAIT_LONGER_S = 60.0
# The launcher's store is there before its processes are; those of another machine may come up later.
CONNECT_S, JOIN_S = 30.0, 120.0
# Of numbers and names in a message; host names have at most 253 characters (RFC 1035).
MOST_DIGITS, MOST_NAME = 15, 255
# These explain themselves; any other error may be the consequence of a loss.
DECISIVE = ("oom", "invalid", "diverged")


@dataclass
class HeartbeatMonitor:
    """State of the heartbeats that one process reads, and what follows from it. It reads no clock and does no I/O.

    watched: ranks whose heartbeats are read; a heartbeat is "number|host|phase". limit_s: seconds without a heartbeat
    before a process is considered dead. silent_s: seconds without a new heartbeat, as far as this process was itself
    awake. vanished: ranks of this machine whose process is gone. left: ranks that said why they end. unheard_s:
    seconds without an answer of the store.
    """

    rank: int
    watched: tuple[int, ...]
    limit_s: float
    failures: list[Failure] = field(default_factory=list)
    left: set[int] = field(default_factory=set)
    heartbeats: dict[int, str] = field(default_factory=dict)
    silent_s: dict[int, float] = field(default_factory=dict)
    vanished: set[int] = field(default_factory=set)
    unheard_s: float = 0.0
    store_gone: bool = False

    def note_heartbeat(self, rank: int, beat: str | None, elapsed_s: float) -> None:
        """Note a heartbeat: its text changes as long as its process lives."""
        if beat is not None and beat != self.heartbeats.get(rank):
            self.heartbeats[rank], self.silent_s[rank] = beat, 0.0
        else:
            # A process that was itself held up for a minute has no right to call the others silent.
            self.silent_s[rank] = self.silent_s.get(rank, 0.0) + min(elapsed_s, 2 * HEARTBEAT_S)

    def note_message(self, failure: Failure) -> None:
        """Note what a process says when it ends, or what a witness says about a lost one."""
        if failure.kind != "lost":
            self.left.add(failure.rank)
        if failure.kind != "done":
            self.failures.append(failure)

    def lost(self, *, error_seen: bool) -> list[int]:
        """Return the ranks considered dead. Without an error, only `limit_s` without a heartbeat counts."""
        lost = {failure.rank for failure in self.failures if failure.kind == "lost"} | (self.vanished - self.left)
        for rank in self.watched:
            limit_s = LOST_AFTER_S if error_seen else self.limit_s
            if rank not in self.heartbeats:
                limit_s = max(JOIN_S, self.limit_s)
            if rank not in self.left and self.silent_s.get(rank, 0.0) > limit_s:
                lost.add(rank)
        return sorted(lost)

    def alarmed(self) -> bool:
        """Return whether this run is over, even if this process has seen no error yet.

        A process that was told to stop is no alarm: a scheduler tells all, and one may be a little quicker.
        """
        failed = any(failure.kind != "told" for failure in self.failures)
        return failed or self.cut_off() or bool(self.lost(error_seen=False))

    def cut_off(self) -> bool:
        """Return whether the store can't be reached any more."""
        return self.store_gone or self.unheard_s > self.limit_s

    def verdict(self, *, final: bool) -> Failure | None:
        """Return the failure that ended the run; None while it is not yet clear and some time is left (not `final`).

        First a failure that explains itself, then a loss, then any other error, a signal, and an error of
        communication last: it only says that somebody else has failed.
        """
        # As soon as a process ends, the launcher stops the others: rank zero must be there to hear why.
        if self.rank and not final and not self.left and not self.cut_off() and 0 not in self.heartbeats:
            return None
        # What all of them found wrong is said by this one.
        for failure in sorted(self.failures, key=lambda failure: failure.rank != self.rank):
            if failure.kind == "own" and failure.status in DECISIVE:
                return failure
        lost = self.lost(error_seen=True)
        awaited = set(self.watched) - self.left
        if not final and (lost or (awaited and not self.store_gone)):
            return None
        if lost:
            return self.loss(lost)
        firsts = {failure.kind: failure for failure in reversed(self.failures)}
        return firsts.get("own") or firsts.get("told") or self._without_a_store() or firsts.get("echo")

    def loss(self, ranks: list[int]) -> Failure:
        """Return the failure that says which processes are lost."""
        first, witnessed = ranks[0], {failure.rank: failure for failure in self.failures if failure.kind == "lost"}
        if len(ranks) == 1 and first in witnessed and first not in self.heartbeats:
            return witnessed[first]
        phase = self.phase_of(first)
        was, gone = ("was", "its process is gone") if len(ranks) == 1 else ("were", "their processes are gone")
        if first in self.vanished or first in witnessed:
            why = f"{gone} (killed, e.g. by the system when memory runs out)"
        else:
            silence = f"no sign of life for {self.silent_s.get(first, 0.0):.0f} s"
            why = f"{silence}; {gone} (killed, or the machine is), or the network to it"
        sentence = f"{self.named(ranks)} {was} lost during {phase}: {why}"
        return Failure(rank=first, kind="lost", status="crashed", sentence=sentence, phase=phase)

    def phase_of(self, rank: int) -> str:
        """Return what a process was doing at its last heartbeat."""
        return self.heartbeats.get(rank, "0||set-up").split("|", 2)[2]

    def named(self, ranks: list[int]) -> str:
        """Return ranks as they stand in a sentence: rank 1 (host b); ranks 1, 2 (host b)."""
        hosts = sorted({self.heartbeats[rank].split("|", 2)[1] for rank in ranks if rank in self.heartbeats})
        shown = ", ".join(str(rank) for rank in ranks[:8]) + (", ..." if len(ranks) > 8 else "")
        where = f" (host {', '.join(hosts[:8])})" if hosts else ""
        return f"rank{'s' if len(ranks) > 1 else ''} {shown}{where}"

    def _without_a_store(self) -> Failure | None:
        if not self.cut_off():
            return None
        if self.rank == 0:
            why = "the launcher is gone (killed?), and with it the watch over the other processes"
        else:
            why = (
                f"{self.named([0])} was lost: its launcher does not answer (killed, or its machine is, or the network)"
            )
        return Failure(rank=0, kind="lost", status="crashed", sentence=why, phase=self.phase_of(0))


class ProcessWatchdog:
    """The watchdog of one process. After `start`: `verdict` on a failure, `claim` on success, `stop` at the end.

    phase: what this process is doing. file: writes the record where the main thread can't; returns the exit code.
    limit_s: seconds without a heartbeat before a process is considered dead, even when nobody saw an error.
    """

    _started = 0  # runs of this process: each has its own keys in the store

    def __init__(self, phase: Callable[[], str], file: Callable[[Failure], int], limit_s: float) -> None:
        ProcessWatchdog._started += 1
        self.rank, self.world_size = _number("RANK", 0), _number("WORLD_SIZE", 1)
        watched = tuple(range(1, self.world_size)) if self.rank == 0 else (0,)
        self.monitor = HeartbeatMonitor(rank=self.rank, watched=watched, limit_s=limit_s)
        self._phase, self._file = phase, file
        self._lock = threading.Lock()  # over the monitor
        self._filing = threading.Lock()  # who holds it writes the record
        self._claimed = self._spoke = False
        self._news, self._ended = threading.Event(), threading.Event()
        self._outbox: list[Failure] = []
        self._rounds = 0
        self._read: set[str] = set()
        self._processes: dict[int, int] = {}  # rank -> process id, on this machine
        self._prefix = f"bench_peers/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{ProcessWatchdog._started}"
        self._key_of_launch = launch_key(self._prefix)
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._exchange_heartbeats, self._guard)
        ]

    def start(self) -> "ProcessWatchdog":
        """Start the heartbeat and the guard."""
        for thread in self._threads:
            thread.start()
        return self

    def claim(self) -> None:
        """Let the main thread write the record. Does not return where the guard is writing it already."""
        if not self._claimed:
            self._filing.acquire()
            self._claimed = True

    def verdict(self, failure: Failure) -> Failure:
        """Note this process's failure; return the one that ended the run, which may be another process's."""
        self.claim()
        with self._lock:
            self.monitor.failures.append(failure)
        return self._decide(failure)

    def tell(self, failure: Failure) -> None:
        """Tell the other processes at once why this one ends, which did not join them."""
        self.claim()
        self._send(failure)

    def stop(self) -> None:
        """End the watchdog. The others hear that this process did not die, unless they heard of its failure."""
        if not self._spoke:
            self._send(Failure(rank=self.rank, kind="done", status="ok", sentence="", phase=""))
        self._ended.set()
        self._news.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(2 * HEARTBEAT_S)

    def _decide(self, own: Failure | None) -> Failure:
        """Return the verdict of rank zero, which holds for all; the others wait for it, as long as rank zero lives."""
        if own is not None and self.rank:
            self._send(own)
        begun_s, lost_s = time.monotonic(), None
        while True:
            now_s = time.monotonic()
            with self._lock:
                wait_s = WAIT_OTHERS_S if self.rank else WAIT_ZERO_S
                if self.rank and 0 not in self.monitor.heartbeats:
                    wait_s = WAIT_FOR_ZERO_TO_JOIN_S
                if lost_s is None and self.monitor.lost(error_seen=True):
                    lost_s = now_s
                final = now_s - begun_s > wait_s or (lost_s is not None and now_s - lost_s > SETTLE_S)
                decided = self.monitor.verdict(final=final) or (own if final else None)
            if decided is not None or final:
                break
            time.sleep(HEARTBEAT_S / 5)
        decided = decided or Failure(
            rank=self.rank, kind="echo", status="crashed", sentence="lost", phase=self._phase()
        )
        if self.rank == 0:
            self._send(decided)
        return decided

    def _send(self, failure: Failure) -> None:
        """Hand a message to the heartbeat thread, and wait a moment for it to go out."""
        self._spoke = True
        with self._lock:
            self._outbox.append(failure)
        self._news.set()
        until_s = time.monotonic() + 3 * HEARTBEAT_S
        while self._outbox and not self.monitor.store_gone and time.monotonic() < until_s:
            time.sleep(HEARTBEAT_S / 20)

    def _guard(self) -> None:
        """End this process when the run is over and the main thread does not notice."""
        rounds, last_s, alarmed_s = 0, time.monotonic(), 0.0
        while not self._ended.wait(HEARTBEAT_S / 2):
            now_s = time.monotonic()
            elapsed_s, last_s = min(now_s - last_s, 2 * HEARTBEAT_S), now_s
            with self._lock:
                self.monitor.unheard_s = 0.0 if self._rounds != rounds else self.monitor.unheard_s + elapsed_s
                rounds = self._rounds
                alarmed_s = alarmed_s + elapsed_s if self.monitor.alarmed() else 0.0
            if alarmed_s > GRACE_S + FILING_S:
                leave_at_once(1)
            if alarmed_s > GRACE_S and not self._claimed and self._filing.acquire(blocking=False):
                self._end()

    def _end(self) -> NoReturn:
        code = 1
        try:
            code = self._file(self._decide(None)) or 1
        finally:
            leave_at_once(code)

    def _exchange_heartbeats(self) -> None:
        """Exchange heartbeats over the store; where it is gone, still check the processes of this machine."""
        try:
            store = self._connect()
            store.set(f"{self._prefix}/who/{self.rank}", f"{_place()} {os.getpid()}")
            last_s = time.monotonic()
            while not self._ended.is_set() or self._outbox:
                now_s = time.monotonic()
                self._round(store, now_s - last_s)
                last_s = now_s
                self._news.wait(HEARTBEAT_S)
                self._news.clear()
        except Exception:  # whatever a store's client raises: it is gone
            self.monitor.store_gone = not self._ended.is_set()
        while not self._ended.wait(HEARTBEAT_S):
            with self._lock:
                self.monitor.vanished |= self._missing()

    def _connect(self) -> SignedStore:
        from torch.distributed import TCPStore

        # Without an agent, rank zero opens the store when it joins the others, and may come late.
        by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        wait_s = CONNECT_S if by_agent else max(CONNECT_S, self.monitor.limit_s)
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=wait_s), wait_for_workers=False)
        # A host that is short of breath is not gone.
        store.set_timeout(timedelta(seconds=max(CONNECT_S, self.monitor.limit_s)))
        return SignedStore(store, self._key_of_launch)

    def _round(self, store: SignedStore, elapsed_s: float) -> None:
        missing = self._missing()  # before reading: who leaves in order says so first
        with self._lock:
            outbox = list(self._outbox)
        for failure in outbox:
            self._publish(store, failure)
        with self._lock:
            del self._outbox[: len(outbox)]
        store.set(self._key("beat", self.rank), f"{self._rounds}|{socket.gethostname()}|{self._phase()}")
        heard = self._read_messages(store, missing)
        beats = self._read_heartbeats(store)
        with self._lock:
            for failure in heard:
                self.monitor.note_message(failure)
            for rank in self.monitor.watched:
                self.monitor.note_heartbeat(rank, beats.get(rank), elapsed_s)
            new = missing - self.monitor.left - self.monitor.vanished
            self.monitor.vanished |= new
        self._find_neighbours(store)
        self._rounds += 1
        if self.rank:
            for rank in new - {0}:
                self._log(store, self.monitor.loss([rank]))

    def _publish(self, store: SignedStore, failure: Failure) -> None:
        store.set(self._key("left", self.rank), failure.packed())
        if self.rank:
            self._log(store, failure)

    def _log(self, store: SignedStore, failure: Failure) -> None:
        store.append(f"{self._prefix}/log", failure.packed())

    def _read_messages(self, store: SignedStore, missing: set[int]) -> list[Failure]:
        """Return what others said at their end: rank zero reads all, the others rank zero's and their neighbours'."""
        if self.rank == 0:
            lines = [line for line in store.lines(f"{self._prefix}/log") if line not in self._read]
            self._read.update(lines)
            return [failure for line in lines if (failure := from_json(line, self.world_size)) is not None]
        heard = []
        for rank in {0, *missing} - self.monitor.left:
            said = store.get(self._key("left", rank))
            failure = None if said is None else from_json(said, self.world_size)
            if failure is not None:
                heard.append(failure)
                self.monitor.left.add(rank)  # rank zero's word may be about another
        return heard

    def _read_heartbeats(self, store: SignedStore) -> dict[int, str]:
        keys = {rank: self._key("beat", rank) for rank in self.monitor.watched}
        known = [rank for rank, key in keys.items() if rank in self.monitor.heartbeats or store.has(key)]
        values = store.get_many([keys[rank] for rank in known])
        return {
            rank: value
            for rank, value in zip(known, values, strict=True)
            if value is not None and is_heartbeat(value, after=self.monitor.heartbeats.get(rank))
        }

    def _find_neighbours(self, store: SignedStore) -> None:
        first = self.rank - _number("LOCAL_RANK", 0)
        for rank in range(first, first + _number("LOCAL_WORLD_SIZE", 1)):
            said = None
            if rank != self.rank and rank not in self._processes:
                said = store.get(self._key("who", rank))
            place, _, process = (said or "").rpartition(" ")
            if process.isdecimal() and len(process) <= MOST_DIGITS:
                self._processes[rank] = int(process) if place == _place() else 0

    def _missing(self) -> set[int]:
        return {rank for rank, process in self._processes.items() if process and not Path(f"/proc/{process}").exists()}

    def _key(self, kind: str, number: int) -> str:
        return f"{self._prefix}/{kind}/{number}"


def is_heartbeat(text: str, after: str | None = None) -> bool:
    """Return whether a text is a heartbeat, "number|host|phase", and not one from before another one."""
    number, _, rest = text.partition("|")
    host, _, phase = rest.partition("|")
    whole = number.isdecimal() and len(number) <= MOST_DIGITS and 0 < len(host) <= MOST_NAME and len(phase) <= MOST_NAME
    return whole and text.isprintable() and (after is None or int(number) >= int(after.partition("|")[0]))


def leave_at_once(code: int) -> NoReturn:
    """End the process without any clean-up: a process group with a dead member may wait for it for ever."""
    console.flush()
    os._exit(code)


def is_multi_process() -> bool:
    """Return whether the launcher started more than one process."""
    return _number("WORLD_SIZE", 1) > 1


def _place() -> str:
    """Return where a process id means something: this start of this machine, this namespace of processes."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"unknown to rank {_number('RANK', 0)}"  # no process is then looked for by its number


def _number(name: str, default: int) -> int:
    return int(os.environ.get(name) or default)
