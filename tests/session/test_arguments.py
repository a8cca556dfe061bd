import jax
import ml_dtypes
import numpy as np
import pytest

from kopt.errors import InputError
from kopt.ir.types import DType, TensorType
from kopt.session.arguments import check_inputs
from kopt.targets.base import Signature

SIGNATURE = Signature(
    (("a", TensorType(DType.F32, ("N", "K"))), ("b", TensorType(DType.BF16, ("K", 2))), ("c", TensorType(DType.I64, None))), ()
)


def check(a, b, c):
    return check_inputs({"c": c, "b": b, "a": a}, SIGNATURE, "m.kopt")


A, B, C = np.zeros((5, 3), np.float32), np.zeros((3, 2), ml_dtypes.bfloat16), np.zeros((1, 1, 1), np.int64)


def test_arrays_come_in_signature_order_without_copies():
    found = check(A, B, C)
    assert all(one is other for one, other in zip(found, (A, B, C), strict=True))
    placed = jax.device_put(A)
    assert check(placed, B, np.int64(3))[0] is placed


def test_a_named_dimension_has_one_size():
    with pytest.raises(InputError, match="dimension 'K' is 3 in input 'a' and 4 in input 'b'") as error:
        check(A, np.zeros((4, 2), ml_dtypes.bfloat16), C)
    assert "expected: a: f32[N,K], b: bf16[K,2], c: i64[...]" in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((A, B.astype(np.float16), C), "input 'b' has dtype float16, bfloat16 is needed"),
        ((A, B[:, :1], C), r"input 'b' has shape 3x1, bf16\[K,2\] is needed"),
        ((A, B, np.zeros(3, np.int32)), "input 'c' has dtype int32"),
        ((A, B, "text"), "input 'c' is a str"),
    ],
)
def test_misfits_are_named(arrays, message):
    with pytest.raises(InputError, match=message):
        check(*arrays)


class Unreadable:
    """Offers DLPack and then refuses, as a tensor that requires a gradient does."""

    def __dlpack__(self, **_):
        raise BufferError("requires grad")

    def __dlpack_device__(self):
        return (1, 0)


def test_a_refusal_of_dlpack_is_an_input_error():
    with pytest.raises(InputError, match="cannot be read through DLPack: requires grad"):
        check(Unreadable(), B, C)
