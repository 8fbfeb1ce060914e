"""Trees of prompts: every prompt can be read back, no beginning is laid out twice, no tree is too large."""

from hypothesis import given
from hypothesis import strategies as st

from edgebench.core.engine import Item
from edgebench.runners.prefix_tree import Row, Tree, trees

TOKENS = st.integers(0, 2)  # few of them, so that beginnings are shared
CONTINUATIONS = st.lists(st.lists(TOKENS, min_size=1, max_size=4), max_size=4)
ITEMS = st.lists(st.tuples(st.lists(TOKENS, min_size=1, max_size=6), CONTINUATIONS), min_size=1, max_size=6)
SHARED = st.lists(st.integers(3, 5), max_size=3)


def path(tree: Tree, seq: int) -> list[Row]:
    """The rows of a sequence, as a batch gives them."""
    return [row for row in tree.rows if seq in row.seqs]


@given(ITEMS, SHARED, st.integers(1, 30))
def test_every_prompt_can_be_read_back(items: list[Item], shared: list[int], n_cells: int) -> None:
    items = [([*shared, *context], continuations) for context, continuations in items]
    made = trees(items, len(shared), n_cells)
    rest = iter(items)
    for tree in made:
        for end, reads, seqs, (context, continuations) in zip(
            tree.ends, tree.reads, tree.seqs, rest, strict=False
        ):
            assert tree.rows[end].position == len(context) - 1
            assert tree.rows[end].token == context[-1]
            long = iter(seqs)
            for continuation, rows in zip(continuations, reads, strict=True):
                seq = next(long) if len(continuation) > 1 else seqs[0]
                whole = [*context, *continuation[:-1]]
                walked = path(tree, seq)
                assert [row.token for row in walked][: len(whole) - len(shared)] == whole[len(shared) :]
                # Positions of a sequence follow each other, from where the shared tokens end.
                assert [row.position for row in walked] == list(range(len(shared), len(shared) + len(walked)))
                assert len(rows) == len(continuation)
                assert all(tree.rows[row].wanted for row in rows)
                assert [tree.rows[row].position for row in rows] == list(range(len(context) - 1, len(whole)))
    assert next(rest, None) is None


@given(ITEMS, st.integers(1, 30))
def test_no_beginning_is_laid_out_twice_and_no_tree_is_too_large(items: list[Item], n_cells: int) -> None:
    for tree in trees(items, 0, n_cells):
        assert len(tree.rows) <= n_cells or len(tree.ends) == 1
        prefixes = [tuple(row.token for row in path(tree, seq)) for seqs in tree.seqs for seq in seqs]
        distinct = {prefix[:n] for prefix in prefixes for n in range(1, len(prefix) + 1)}
        assert len(tree.rows) == len(distinct)


@given(ITEMS)
def test_what_an_item_would_add_is_what_it_adds(items: list[Item]) -> None:
    tree = Tree(0)
    for item in items:
        expected, before = tree.n_new_rows(item), len(tree.rows)
        tree.add(item)
        assert len(tree.rows) - before == expected


def test_options_of_one_prompt_branch_off_where_they_differ() -> None:
    tree = trees([([1, 2], [[7, 8, 9], [7, 5], [6]])], 0, 100)[0]
    assert [row.token for row in tree.rows] == [1, 2, 7, 8]
    assert tree.reads[0] == [[1, 2, 3], [1, 2], [1]]
    assert [len(row.seqs) for row in tree.rows] == [2, 2, 2, 1]


def test_an_item_longer_than_a_tree_stands_alone() -> None:
    items: list[Item] = [([0, 1], [[2]]), ([3] * 50, [[2]]), ([4], [[2]])]
    assert [len(tree.ends) for tree in trees(items, 0, 10)] == [1, 1, 1]
