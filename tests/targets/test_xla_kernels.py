import json
import struct

import pytest

from kopt.errors import KoptError, ToolchainError
from kopt.hardware import Target
from kopt.targets.base import Signature
from kopt.targets.xla import XlaBackend
from kopt.targets.xla_kernels import KernelLibrary, build, join, separate

MAGIC = b"KOPTKERN"
LIBRARY = KernelLibrary(("kopt_a", "kopt_b"), bytes(range(256)) * 3)
CODE = b"native code of XLA \x00\xff" * 20


def blob(header, body=b"", length=None):
    """A blob with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return MAGIC + struct.pack("<I", len(text) if length is None else length) + text + body


def test_what_was_joined_is_separated():
    assert separate(join(LIBRARY, CODE)) == (LIBRARY, CODE)


def test_without_kernels_the_code_stays_as_it_is():
    assert join(None, CODE) == CODE
    assert separate(CODE) == (None, CODE)
    assert separate(b"") == (None, b"")
    assert separate(MAGIC[:-1]) == (None, MAGIC[:-1])


def test_without_code_there_is_nothing_to_store():
    assert join(LIBRARY, b"") == b""


def test_no_kernels_make_no_library():
    assert build({}, Target.parse("cpu")) is None


def test_every_cut_is_refused():
    """Wherever the blob ends within kernels, or right behind them: there is no program then."""
    whole = join(LIBRARY, CODE)
    for end in range(len(MAGIC), len(whole) - len(CODE) + 1):
        with pytest.raises(ToolchainError, match="damaged"):
            separate(whole[:end])


@pytest.mark.parametrize(
    "header",
    [
        *(b"", b"{", b"null", b"[]", b"3", b'"text"', b"\xff\xfe\xff", b"[" * 100_000),
        *({}, {"symbols": ["kopt_a"]}, {"library": 4}, {"symbols": "kopt_a", "library": 4}, {"symbols": [3], "library": 4}),
        *({"symbols": ["a b"], "library": 4}, {"symbols": ["../x"], "library": 4}, {"symbols": [""], "library": 4}),
        *({"symbols": ["a"], "library": size} for size in (0, -1, 9, 1 << 70, "4", None, 2.0, True, [4], float("nan"))),
        {"symbols": [], "library": 4},
    ],
    ids=lambda header: repr(header)[:40],
)
def test_other_headers_are_refused(header):
    with pytest.raises(ToolchainError, match="damaged") as caught:
        separate(blob(header, b"12345678"))
    assert caught.value.next_step


@pytest.mark.parametrize("length", [0, 1, 1000, 2**32 - 1])
def test_a_wrong_length_of_the_header_is_refused(length):
    with pytest.raises(ToolchainError, match="damaged"):
        separate(blob({"symbols": ["a"], "library": 4}, b"12345678", length))


@pytest.mark.parametrize("library", [b"no library", b"\x7fELF" + bytes(200)])
def test_bytes_that_are_no_library_are_refused(library):
    joined = join(KernelLibrary(("kopt_none",), library), CODE)
    with pytest.raises(ToolchainError, match="cannot be loaded") as caught:
        XlaBackend().load(joined, {}, Signature((), ()), Target.parse("cpu"))
    assert isinstance(caught.value, KoptError)
    assert caught.value.next_step
