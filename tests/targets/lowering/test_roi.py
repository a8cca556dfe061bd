"""MaxRoiPool against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from support.contrib import agrees, normal


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("pooled", [[1, 1], [2, 3], [6, 7]])
def test_against_onnxruntime(pooled: list[int], scale: float) -> None:
    rois = [[0, 0, 0, 5, 4], [1, 2, 1, 2, 1], [1, 3, 2, 20, 20], [0, 1.4, 1.6, 6.5, 3.2]]
    agrees("MaxRoiPool", normal(2, 3, 9, 8), np.asarray(rois, np.float32), domain="", pooled_shape=pooled, spatial_scale=scale)
