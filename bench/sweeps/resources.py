"""Compares the resources that a run takes with those that a node has.

    Resources(gpus=2, gpu_bytes=20 * 2**30, host_bytes=12 * 2**30, cpus=4).lacking(Node(name="a", gpus=8, ...))

All numbers are of one node; a run over several nodes takes as much on each of them. Loads no torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from bench.utils.numbers import format_bytes


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The resources of a run on each of its nodes. gpu_bytes: on each GPU. host_bytes: of all its processes there.

    0 bytes: there is no forecast, and nothing is reserved. source: where the bytes are from, in words.
    """

    nodes: int = 1
    gpus: int = 0
    gpu_bytes: int = 0
    host_bytes: int = 0
    cpus: int = 1
    source: str = ""

    def lacking(self, node: "Node") -> list[str]:
        """Return what an empty node has too little of, in words; nothing where it holds the run's part."""
        asked = [
            (self.gpus > node.gpus, f"{self.gpus} GPUs of its {node.gpus}"),
            (
                self.gpus > 0 and node.gpu_bytes is not None and self.gpu_bytes > node.gpu_bytes,
                f"{format_bytes(self.gpu_bytes)} of each GPU's {format_bytes(node.gpu_bytes or 0)}",
            ),
            (
                self.host_bytes > node.host_bytes,
                f"{format_bytes(self.host_bytes)} of its {format_bytes(node.host_bytes)} of memory",
            ),
            (self.cpus > node.cpus, f"{self.cpus} cores of its {node.cpus}"),
        ]
        return [words for is_lacking, words in asked if is_lacking]

    def words(self) -> str:
        """Return what the run takes, for people: "2 GPUs with 19.3 GiB each, 12.0 GiB of memory, 4 cores"."""
        parts = []
        if self.gpus:
            parts.append(f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}")
            parts[-1] += (
                f" with {format_bytes(self.gpu_bytes)}{' each' if self.gpus > 1 else ''}" if self.gpu_bytes else ""
            )
        if self.host_bytes:
            parts.append(f"{format_bytes(self.host_bytes)} of memory")
        parts.append(f"{self.cpus} core{'s' if self.cpus > 1 else ''}")
        return ", ".join(parts) + (f" on each of {self.nodes} nodes" if self.nodes > 1 else "")


@dataclass(frozen=True)
class Need:
    """The numbers of `Resources`: runs with equal ones are placed alike, wherever these are from."""

    nodes: int
    gpus: int
    gpu_bytes: int
    host_bytes: int
    cpus: int

    @classmethod
    def of(cls, asked: Resources) -> "Need":
        """Return the need of a run; without a GPU there is no memory of one."""
        return cls(asked.nodes, asked.gpus, asked.gpu_bytes if asked.gpus else 0, asked.host_bytes, asked.cpus)

    @property
    def row(self) -> tuple[int, int, int, int]:
        """Return what is taken of a node, in the order of the tables: GPUs, bytes of each, bytes of the host, cores."""
        return self.gpus, self.gpu_bytes, self.host_bytes, self.cpus

    @property
    def size(self) -> tuple[int, int, int]:
        """Return the size by which runs are ordered: all GPUs, bytes of each, bytes of each host."""
        return self.nodes * self.gpus, self.gpu_bytes, self.nodes * self.host_bytes


@dataclass(frozen=True, kw_only=True)
class Node:
    """The resources of a node. gpu_bytes: of each GPU that a process may use; None: unknown, and not checked."""

    name: str
    gpus: int = 0
    gpu_bytes: int | None = None
    host_bytes: int = 0
    cpus: int = 1


def why_none_holds(asked: Resources, nodes: Iterable[Node]) -> str | None:
    """Return why no part of the nodes holds a run, in words; None where enough of them do."""
    known = [(node.name, asked.lacking(node)) for node in nodes]
    small = [(name, lacking) for name, lacking in known if lacking]
    fitting = len(known) - len(small)
    if fitting >= asked.nodes:
        return None
    if not known:
        return f"it asks for {asked.words()}, and there are no nodes"
    name, lacking = min(small, key=lambda one: len(one[1]), default=("", []))
    why = f"; {name} would have to give {' and '.join(lacking)}" if lacking else ""
    held = f"{fitting} of {len(known)} nodes hold that" if fitting else f"none of {len(known)} nodes holds that"
    return f"it asks for {asked.words()}, and {held}{why}"
