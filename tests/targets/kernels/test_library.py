import ctypes
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from kopt.errors import MissingDependencyError, ToolchainError
from kopt.targets.kernels import library
from kopt.targets.kernels.library import build_library, linker, obstacle
from kopt.targets.kernels.product import Product
from kopt.targets.kernels.tiling import ProductTiling
from support.kernels import NATIVE

SMALL = Product(1, 1, 16, ProductTiling(1, 16, 1, 1, 1))


@pytest.fixture
def forgotten():
    """What was found out about this machine is asked again, before and after."""
    for asked in (linker, obstacle):
        asked.cache_clear()
    yield
    for asked in (linker, obstacle):
        asked.cache_clear()


@pytest.mark.usefixtures("forgotten")
def test_nothing_stands_in_the_way_here():
    assert obstacle() is None
    assert os.access(linker(), os.X_OK)


@pytest.mark.usefixtures("forgotten")
def test_a_missing_linker_is_named(monkeypatch):
    monkeypatch.setattr(library, "which", lambda name: None)
    assert "C compiler" in obstacle()
    with pytest.raises(MissingDependencyError, match="C compiler") as caught:
        build_library({"kopt_small": SMALL}, NATIVE)
    assert caught.value.next_step


@pytest.mark.usefixtures("forgotten")
def test_a_missing_tvm_is_named(monkeypatch):
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    assert "apache-tvm" in obstacle()
    with pytest.raises(MissingDependencyError, match="apache-tvm"):
        build_library({"kopt_small": SMALL}, NATIVE)


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("present", ["cc", "gcc", "clang"])
def test_any_c_compiler_will_do(monkeypatch, present):
    monkeypatch.setattr(library, "which", lambda name: f"/bin/{name}" if name == present else None)
    assert linker() == f"/bin/{present}"
    assert obstacle() is None


@dataclass(frozen=True)
class Unknown:
    """A kind of kernel that has no loop nest."""

    size: int = 3


def test_a_kernel_that_cannot_be_compiled_is_an_error_of_the_toolchain():
    with pytest.raises(ToolchainError, match="Unknown"):
        build_library({"kopt_unknown": Unknown()}, NATIVE)


def test_a_linker_that_fails_is_an_error_of_the_toolchain(monkeypatch):
    monkeypatch.setattr(library, "linker", lambda: "/bin/false")
    with pytest.raises(ToolchainError, match="compiler failed: /bin/false: ended with 1"):
        build_library({"kopt_small": SMALL}, NATIVE)


@pytest.mark.parametrize("error", [subprocess.TimeoutExpired("x", 1), FileNotFoundError("no python")])
def test_a_compiler_that_does_not_end_is_an_error_of_the_toolchain(monkeypatch, error):
    def run(*args, **options):
        raise error

    monkeypatch.setattr(library.subprocess, "run", run)
    with pytest.raises(ToolchainError, match="did not finish"):
        build_library({"kopt_small": SMALL}, NATIVE)


def test_a_compiler_that_dies_is_an_error_of_the_toolchain(monkeypatch):
    monkeypatch.setattr(library.sys, "executable", "/bin/true")
    with pytest.raises(ToolchainError, match="ended with 0"):
        build_library({"kopt_small": SMALL}, NATIVE)


ALONE = """
import ctypes, sys
kernels = ctypes.CDLL(sys.argv[1])
numbers = (ctypes.c_float * 16)
x, w, y = (ctypes.c_float * 1)(3), numbers(*range(16)), numbers()
kernels.kopt_small_body(x, w, y, 0)
print(list(y) == [3 * k for k in range(16)])
"""


def test_the_library_needs_nothing_but_libc(tmp_path):
    path = tmp_path / "kernels.so"
    path.write_bytes(build_library({"kopt_small": SMALL}, NATIVE))
    done = subprocess.run([sys.executable, "-I", "-c", ALONE, path], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr
    assert hasattr(ctypes.CDLL(str(path)), "kopt_small")
    names = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=False).stdout
    needed = [line.split("[")[1].rstrip("]") for line in names.splitlines() if "NEEDED" in line]
    assert all(name.startswith(("libc.", "ld-linux", "libm.")) for name in needed), needed
