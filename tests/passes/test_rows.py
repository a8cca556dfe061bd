import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.passes.rows import NodeRows, RowRefusal, Rows, carry, reshaped_rows


def context(batch=1):
    b = Builder()
    b.emit("Relu", b.input("x", "f32", (batch, 3)))
    return NodeRows(b.nodes[0], batch, [Rows(0)], {})


@pytest.mark.parametrize(
    ("batch", "rows", "before", "after", "wanted"),
    [
        (1, Rows(0), (1, 128, 768), (128, 768), Rows(0, 1, 128)),
        (1, Rows(0, 1, 128), (128, 768), (1, 128, 768), Rows(0)),
        (1, Rows(0), (1, 128, 768), (1, 128, 12, 64), Rows(0)),
        (1, Rows(1), (128, 1, 768), (128, 768), Rows(0, 128, 1)),
        (1, Rows(1), (128, 1, 768), (128, 12, 64), Rows(1, 1, 12)),
        (1, Rows(1), (128, 1, 768), (128, 1, 12, 64), Rows(1)),
        (1, Rows(0), (1, 5), (5,), Rows(0, 1, 5)),
        (4, Rows(0), (4, 6), (24,), Rows(0, 1, 6)),
        (4, Rows(0), (4, 6), (2, 2, 6), None),
        (4, Rows(1), (6, 4), (3, 2, 4), Rows(2)),
    ],
)
def test_reshape_finds_the_batch(batch, rows, before, after, wanted):
    if wanted is None:
        with pytest.raises(RowRefusal):
            reshaped_rows(context(batch), rows, before, after)
    else:
        assert reshaped_rows(context(batch), rows, before, after) == wanted


@pytest.mark.parametrize("batch", [2, 3])
def test_the_rule_for_reshape_holds_for_every_batch(batch):
    """Row n of the input lands at batch position n of the axis found for a batch of one."""
    for rows, before, after in ((Rows(1), (4, 1, 6), (4, 3, 2)), (Rows(1), (4, 1, 6), (4, 6)), (Rows(0), (1, 4, 6), (4, 6))):
        made = reshaped_rows(context(), rows, before, after)
        full = [*before]
        full[rows.axis] = batch
        index = np.zeros(full, np.int64) + np.arange(batch).reshape([-1 if axis == rows.axis else 1 for axis in range(len(full))])
        target = [*after]
        target[made.axis] = -1
        found = index.reshape(target)
        split = found.reshape((*target[: made.axis], made.outer, batch, made.inner, *target[made.axis + 1 :]))
        expected = np.arange(batch).reshape([-1 if axis == made.axis + 1 else 1 for axis in range(split.ndim)])
        assert (split == expected).all()


def test_a_node_without_rows_is_left_alone():
    b = Builder()
    b.emit("Det", b.constant(np.zeros((2, 2), np.float32)))
    assert carry(NodeRows(b.nodes[0], 1, [None], {})) == (None,)
