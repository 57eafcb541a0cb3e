"""Packs the continuations of a context as a tree behind it in one row of tokens, and several rows as one batch."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Continuations as a tree: only tokens that another token follows are run.

    tokens: of each node, parents first. depths: 1 for what follows the context. parents: a node's number, -1 for the
    context. edges: (parent, token) of all that is asked, parents in order. paths: of each continuation, its edges.
    """

    tokens: tuple[int, ...]
    depths: tuple[int, ...]
    parents: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]
    paths: tuple[tuple[int, ...], ...]

    @property
    def is_chain(self) -> bool:
        """Return whether each node follows the one before it, so that no mask is needed."""
        return self.parents == tuple(range(-1, len(self.tokens) - 1))

    def mask(self) -> torch.Tensor:
        """Return [nodes, nodes]: each node attends to itself and to those that it follows."""
        seen = torch.eye(len(self.tokens), dtype=torch.bool)
        for number, parent in enumerate(self.parents):
            if parent >= 0:
                seen[number] |= seen[parent]
        return seen


@functools.lru_cache(maxsize=1024)
def tree(continuations: tuple[tuple[int, ...], ...]) -> Tree:
    """Return the tree of some continuations."""
    numbers: dict[tuple[int, ...], int] = {(): -1}
    for continuation in continuations:
        for end in range(1, len(continuation)):
            numbers.setdefault(continuation[:end], len(numbers) - 1)
    inner = [path for path in numbers if path]
    asked = {(numbers[each[:end]], each[end]) for each in continuations for end in range(len(each))}
    edges = {edge: place for place, edge in enumerate(sorted(asked))}
    return Tree(
        tokens=tuple(path[-1] for path in inner),
        depths=tuple(len(path) for path in inner),
        parents=tuple(numbers[path[:-1]] for path in inner),
        edges=tuple(edges),
        paths=tuple(tuple(edges[numbers[each[:end]], each[end]] for end in range(len(each))) for each in continuations),
    )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows as one packed row of tokens, contexts and the trees behind them, without pads.

    ids: [tokens]. positions: [rows, longest], of the tokens in their texts. places: [tokens], each token's index in the
    flattened positions. mask: as shared_prefix.Rows has it. reads: for each row, the numbers of the context's last
    token and of the tree's nodes.
    """

    ids: torch.Tensor
    places: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor | None
    reads: torch.Tensor


def batch(contexts: Sequence[Sequence[int]], trees: Sequence[Tree], offset: int) -> Batch:
    """Pack contexts, whose first token has the position `offset`, and the trees behind them.

    Chains follow their contexts at once: such rows are plainly causal. Otherwise nodes stand behind the longest
    context, so that only they need a mask.
    """
    lengths = [len(context) for context in contexts]
    num_nodes = max(len(each.tokens) for each in trees)
    chained = all(each.is_chain for each in trees)
    starts = lengths if chained else [max(lengths)] * len(lengths)
    width = max(start + len(each.tokens) for start, each in zip(starts, trees, strict=True))
    ids: list[int] = []
    places: list[int] = []
    reads: list[int] = []
    positions = torch.arange(offset, offset + width).repeat(len(contexts), 1)
    # What a pad sees is of no account, but it must see something.
    mask = torch.eye(num_nodes, width, dtype=torch.bool).roll(max(lengths), 1).repeat(len(contexts), 1, 1)
    for number, (context, start, each) in enumerate(zip(contexts, starts, trees, strict=True)):
        length, end, first = len(context), start + len(each.tokens), number * width
        reads += range(len(ids) + length - 1, len(ids) + length + len(each.tokens))
        ids += [*context, *each.tokens]
        places += [*range(first, first + length), *range(first + start, first + end)]
        if not chained:
            positions[number, start:] = offset + length
            positions[number, start:end] = offset + length - 1 + torch.tensor(each.depths, dtype=torch.long)
            mask[number, : end - start, :length] = True
            mask[number, : end - start, start:end] = each.mask()
    return Batch(
        ids=torch.tensor(ids),
        places=torch.tensor(places),
        positions=positions,
        mask=None if chained else mask,
        reads=torch.tensor(reads),
    )
