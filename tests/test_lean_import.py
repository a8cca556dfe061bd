"""``import kopt`` and ``kopt --help`` load no compiler and no ONNX library."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("jax", "jaxlib", "tvm", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "openvino")

HELP = """
import sys
from kopt.cli.main import main
sys.argv = ["kopt", *{arguments!r}]
try:
    main()
except SystemExit as stop:
    if stop.code not in (0, None):
        raise
"""


def loaded_by(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after running ``code``."""
    report = "\nimport sys; sys.stderr.write('LOADED ' + ' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(done.stderr.rpartition("LOADED ")[2].split())


def test_import_kopt_is_lean() -> None:
    loaded = loaded_by("import kopt; kopt.__all__; kopt.__version__")
    assert not loaded.intersection(HEAVY)
    assert "numpy" not in loaded


@pytest.mark.parametrize("arguments", [["--help"], ["compile", "--help"], ["--version"]])
def test_help_is_lean(arguments: list[str]) -> None:
    assert not loaded_by(HELP.format(arguments=arguments)).intersection(HEAVY)
