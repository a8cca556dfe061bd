import pytest

from kopt.errors import InvalidModelError
from kopt.ir.builder import Builder
from kopt.ir.nhwc_types import to_nchw, to_nhwc


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_the_permutations_undo_each_other(rank):
    assert [to_nhwc(rank)[axis] for axis in to_nchw(rank)] == list(range(rank))


def test_convolution_and_pools_infer_channels_last():
    b = Builder()
    x = b.input("x", "f32", (2, 17, 15, 8))
    w = b.input("w", "f32", (6, 4, 3, 3))
    attrs = {"kernel_shape": (3, 3), "strides": (2, 1), "group": 2, "pads": (1, 1, 1, 0), "dilations": (1, 1)}
    y = b.emit("ConvNhwc", x, w, domain="com.kopt", attrs=attrs)
    assert y.shape == (2, 9, 14, 6)
    pool = {"kernel_shape": (2, 2), "strides": (2, 2), "ceil_mode": 1}
    assert b.emit("MaxPoolNhwc", y, domain="com.kopt", attrs=pool).shape == (2, 5, 7, 6)
    assert b.emit("GlobalAveragePoolNhwc", y, domain="com.kopt").shape == (2, 1, 1, 6)


def test_contradicting_ranks_are_refused():
    b = Builder()
    x, w = b.input("x", "f32", (2, 5, 5, 3)), b.input("w", "f32", (6, 3, 1))
    with pytest.raises(InvalidModelError):
        b.emit("ConvNhwc", x, w, domain="com.kopt", attrs={"group": 1})
