"""Prompts that begin alike, laid out so that a common beginning is evaluated once.

The contexts and continuations of a chunk form a tree: a node is a token, a leaf is a sequence. Each token
is one row of a batch and belongs to all sequences below it, so questions that share worked examples, the
rotations of one question and the options of one prompt all branch off where they first differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgebench.core.engine import Item


@dataclass(slots=True)
class Row:
    """A token to evaluate, at its position, in the sequences it belongs to."""

    token: int
    position: int
    seqs: list[int] = field(default_factory=list)
    wanted: bool = False
    """Whether its logits are read."""


class Tree:
    """The rows of some items whose first `n_shared` tokens are evaluated already; grows item by item."""

    def __init__(self, n_shared: int, *, first_seq: int = 1) -> None:
        self.rows: list[Row] = []
        """Parents before children."""
        self.ends: list[int] = []
        """item -> the row its context ends with."""
        self.reads: list[list[list[int]]] = []
        """item -> continuation -> the rows whose logits predict its tokens."""
        self.seqs: list[range] = []
        """item -> its sequences: one per continuation that has rows of its own, at least one."""
        self._n_shared, self._next_seq = n_shared, first_seq
        self._children: dict[tuple[int, int], int] = {}

    def add(self, item: Item) -> None:
        """Lay out one more item; its context has at least one token after the shared ones.

        One-token continuations need no row of their own: they are read where the context ends.
        """
        context, continuations = item
        n_branches = sum(len(continuation) > 1 for continuation in continuations)
        seqs = range(self._next_seq, self._next_seq + max(n_branches, 1))
        self._next_seq = seqs.stop
        at = -1
        for position in range(self._n_shared, len(context)):
            at = self._step(at, context[position], position)
            self.rows[at].seqs += seqs
        self.rows[at].wanted = True
        self.ends.append(at)
        self.seqs.append(seqs)
        own = iter(seqs)
        self.reads.append(
            [self._branch(at, len(context), c, next(own) if len(c) > 1 else 0) for c in continuations]
        )

    def _branch(self, at: int, position: int, continuation: Sequence[int], seq: int) -> list[int]:
        path = [at]
        for k, token in enumerate(continuation[:-1]):
            at = self._step(at, token, position + k)
            self.rows[at].seqs.append(seq)
            self.rows[at].wanted = True
            path.append(at)
        return path

    def _step(self, at: int, token: int, position: int) -> int:
        """The row of a token after another; made when it is not there yet."""
        key = (at, token)
        if key not in self._children:
            self._children[key] = len(self.rows)
            self.rows.append(Row(token, position))
        return self._children[key]

    def n_new_rows(self, item: Item) -> int:
        """How many rows an item would add."""
        context, continuations = item
        n, at = self._walk(-1, context[self._n_shared :])
        branches = {tuple(c[: k + 1]) for c in continuations for k in range(len(c) - 1)}
        # Behind a new node everything is new; else each branch is followed as far as the tree knows it.
        known = 0 if n else sum(self._walk(at, branch)[0] == 0 for branch in branches)
        return n + len(branches) - known

    def _walk(self, at: int, tokens: Sequence[int]) -> tuple[int, int]:
        """Tokens that are not in the tree yet, from `at` on, and the last known node."""
        for i, token in enumerate(tokens):
            following = self._children.get((at, token))
            if following is None:
                return len(tokens) - i, at
            at = following
        return 0, at


def trees(items: Sequence[Item], n_shared: int, n_cells: int) -> list[Tree]:
    """Items in order, a new tree when the next one would make it grow beyond `n_cells` rows.

    The cut follows from the items alone. An item with more rows than that is a tree of its own.
    """
    made: list[Tree] = []
    begin = 0
    while begin < len(items):
        tree, end = _grown(items[begin:], n_shared, n_cells)
        made.append(tree)
        begin += end
    return made


def _grown(items: Sequence[Item], n_shared: int, n_cells: int) -> tuple[Tree, int]:
    """The tree of as many items as fit, one at least, and how many they are."""
    tree = Tree(n_shared)
    for n, item in enumerate(items):
        if n and len(tree.rows) + tree.n_new_rows(item) > n_cells:
            return tree, n
        tree.add(item)
    return tree, len(items)
