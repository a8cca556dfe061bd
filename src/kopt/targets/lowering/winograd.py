"""3x3 convolution by Winograd's minimal filtering, stride 1, channels last.

F(m, 3) computes an m x m output tile from an (m + 2) x (m + 2) input tile with (m + 2)^2 products instead of 9 m^2.
Source: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks"; points 0, 1, -1, 2, -2.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax

from kopt.targets.lowering.registry import Array

_F2 = (
    np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32),
    np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32),
    np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32),
)
_F4 = (
    np.array(
        [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]],
        np.float32,
    ),
    np.array(
        [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]],
        np.float32,
    ),
    np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float32),
)


def conv3x3_winograd(x: Array, weight: Array, pads: Sequence[tuple[int, int]], *, tile: int) -> Array:
    """x: f32 (N, H, W, C), weight: f32 (M, C, 3, 3), tile: 2 or 4  ->  f32 (N, H', W', M)."""
    to_input, to_weight, to_output = _F2 if tile == 2 else _F4
    n, h, w, c = x.shape
    height, width = h + sum(pads[0]) - 2, w + sum(pads[1]) - 2
    rows, columns = -(-height // tile), -(-width // tile)
    grow = (
        [(0, 0, 0)]
        + [(low, count * tile + 2 - size - low, 0) for (low, _), count, size in zip(pads, (rows, columns), (h, w), strict=True)]
        + [(0, 0, 0)]
    )
    padded = lax.pad(x, jnp.zeros((), x.dtype), grow)
    size = tile + 2
    transformed_rows = _transform(to_input, [padded[:, i : i + (rows - 1) * tile + 1 : tile] for i in range(size)])
    tiles = [_transform(to_input, [row[:, :, j : j + (columns - 1) * tile + 1 : tile] for j in range(size)]) for row in transformed_rows]
    kernel = jnp.einsum("ai,mcij,bj->abcm", to_weight, weight, to_weight)
    products = [
        [jnp.matmul(tiles[a][b].reshape(-1, c), kernel[a, b]).reshape(n, rows, columns, -1) for b in range(size)] for a in range(size)
    ]
    partial = [_transform(to_output, [products[a][b] for a in range(size)]) for b in range(size)]
    result = [_transform(to_output, [partial[b][i] for b in range(size)]) for i in range(tile)]
    stacked = jnp.stack([jnp.stack(row, axis=3) for row in result], axis=2)  # (N, rows, tile, columns, tile, M)
    return stacked.reshape(n, rows * tile, columns * tile, -1)[:, :height, :width]


def _transform(matrix: np.ndarray, parts: Sequence[Array]) -> list[Array]:
    """Matrix @ parts, written out so that zeros cost nothing."""
    results = []
    for coefficients in matrix:
        total = None
        for factor, part in zip(coefficients.tolist(), parts, strict=True):
            if factor == 0:
                continue
            term = part if factor == 1 else -part if factor == -1 else part * np.float32(factor)
            total = term if total is None else total + term
        results.append(total)
    return results
