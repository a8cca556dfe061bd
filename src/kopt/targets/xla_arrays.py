"""Arrays of other libraries on a device, taken over without a copy."""

from __future__ import annotations

from typing import Any

import jax


def from_dlpack(value: Any) -> Any:
    """A JAX array over the memory of ``value``, wherever that lies.

    Raises:
        RuntimeError, TypeError, BufferError: JAX has no such device or element type.
    """
    with jax.enable_x64(True):
        return jax.dlpack.from_dlpack(value)
