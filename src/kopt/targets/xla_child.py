"""Child process that compiles a StableHLO program under the XLA_FLAGS it was started with.

Usage: ``python -m kopt.targets.xla_child PROGRAM CODE``
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(source: str, result: str) -> None:
    """Compile the exported program at ``source`` and write its raw native code to ``result``."""
    import jax

    from kopt.targets import xla_internals
    from kopt.targets.xla import compile_exported

    compiled = compile_exported(Path(source).read_bytes(), jax.devices("cpu")[0])
    Path(result).write_bytes(xla_internals.serialize(compiled))


if __name__ == "__main__":
    main(*sys.argv[1:3])
