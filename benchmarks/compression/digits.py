"""The digits of scikit-learn as the compression benchmarks use them: one split, images enlarged to 16x16."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images (1078, 1, 16, 16) f32 in [0, 1], test images (719, 1, 16, 16), and their labels (i64)."""
    found = load_digits()
    small = (found.images / 16.0).astype(np.float32)
    images = small.repeat(2, axis=1).repeat(2, axis=2)[:, None]
    split = train_test_split(images, found.target.astype(np.int64), test_size=0.4, random_state=0, stratify=found.target)
    return split[0], split[1], split[2], split[3]
