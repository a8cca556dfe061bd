"""Train three small networks on scikit-learn's digits and export them to ONNX: residual, plain and depthwise.

Writes ``models/digits_{residual,plain,depthwise}.onnx`` beside this file (BatchNormalization nodes kept, symbolic batch)::

    python benchmarks/compression/train_digits.py residual

Each network is written once, as a function of a tape: one tape computes with JAX, the other writes ONNX nodes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from digits import digits

HERE = Path(__file__).parent
SEED, BATCH, EPOCHS = 3, 64, 30
PEAK_RATE, WEIGHT_DECAY, MOMENTUM, EPSILON = 4e-3, 1e-3, 0.9, 1e-5

Params: TypeAlias = dict[str, Any]


class Compute:
    """A tape that computes; parameters are made on first use, statistics of a batch are noted in ``stats``."""

    def __init__(self, params: Params, stats: Params, training: bool, rng: np.random.Generator | None = None) -> None:
        self.params, self.stats, self.training, self.rng = params, dict(stats), training, rng

    def _weight(self, name: str, shape: tuple[int, ...], fan_in: int) -> Any:
        if name not in self.params and self.rng is not None:
            self.params[name] = self.rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)
        return self.params[name]

    def conv_norm(self, name: str, x: Any, width: int, kernel: int = 3, stride: int = 1, group: int = 1) -> Any:
        """Convolution without bias, then batch normalization."""
        fan = x.shape[1] // group
        weight = self._weight(f"{name}.weight", (width, fan, kernel, kernel), fan * kernel * kernel)
        pad = kernel // 2
        if group == x.shape[1] and group > 1:
            y = _depthwise(x, weight, stride)
        else:
            y = jax.lax.conv(x, weight, (stride, stride), [(pad, pad)] * 2)
        if f"{name}.scale" not in self.params:
            self.params |= {f"{name}.scale": np.ones(width, np.float32), f"{name}.bias": np.zeros(width, np.float32)}
            self.stats |= {f"{name}.mean": np.zeros(width, np.float32), f"{name}.var": np.ones(width, np.float32)}
        mean, var = self.stats[f"{name}.mean"], self.stats[f"{name}.var"]
        if self.training:
            now = y.mean((0, 2, 3)), y.var((0, 2, 3))
            self.stats[f"{name}.mean"] = MOMENTUM * mean + (1 - MOMENTUM) * now[0]
            self.stats[f"{name}.var"] = MOMENTUM * var + (1 - MOMENTUM) * now[1]
            mean, var = now
        scale = self.params[f"{name}.scale"] * jax.lax.rsqrt(var + EPSILON)
        return (y - mean[:, None, None]) * scale[:, None, None] + self.params[f"{name}.bias"][:, None, None]

    def dense(self, name: str, x: Any, width: int) -> Any:
        """Product and bias."""
        weight = self._weight(f"{name}.weight", (x.shape[1], width), x.shape[1])
        if f"{name}.bias" not in self.params:
            self.params[f"{name}.bias"] = np.zeros(width, np.float32)
        return x @ weight + self.params[f"{name}.bias"]

    def relu(self, x: Any) -> Any:
        """max(x, 0)."""
        return jax.nn.relu(x)

    def relu6(self, x: Any) -> Any:
        """min(max(x, 0), 6)."""
        return jnp.clip(x, 0, 6)

    def add(self, x: Any, y: Any) -> Any:
        """Sum."""
        return x + y

    def max_pool(self, x: Any) -> Any:
        """2x2, stride 2."""
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")

    def mean(self, x: Any) -> Any:
        """Over the image."""
        return x.mean((2, 3))


def _depthwise(x: Any, weight: Any, stride: int) -> Any:
    """A 3x3 convolution per channel, as a sum of shifted products: gradients of grouped convolutions are slow on CPUs."""
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = x.shape[2:]
    taps = [(dy, dx) for dy in range(3) for dx in range(3)]
    return sum(padded[:, :, dy : dy + height : stride, dx : dx + width : stride] * weight[:, :, dy, dx, None] for dy, dx in taps)


class Write:
    """A tape that writes ONNX nodes; values are their names."""

    def __init__(self, params: Params, stats: Params) -> None:
        self.held = {**params, **stats}
        self.nodes: list[onnx.NodeProto] = []
        self.used: list[str] = []

    def _emit(self, op: str, inputs: list[str], name: str = "", **attributes: object) -> str:
        name = name or f"{op.lower()}_{len(self.nodes)}"
        self.used += [one for one in inputs if one in self.held and one not in self.used]
        self.nodes.append(helper.make_node(op, inputs, [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    def conv_norm(self, name: str, x: str, width: int, kernel: int = 3, stride: int = 1, group: int = 1) -> str:  # noqa: ARG002
        """Conv, BatchNormalization."""
        attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": group}
        y = self._emit("Conv", [x, f"{name}.weight"], name, **attributes)
        return self._emit("BatchNormalization", [y, *(f"{name}.{part}" for part in ("scale", "bias", "mean", "var"))], f"{name}.norm")

    def dense(self, name: str, x: str, width: int) -> str:  # noqa: ARG002
        """Gemm."""
        return self._emit("Gemm", [x, f"{name}.weight", f"{name}.bias"], name)

    def relu(self, x: str) -> str:
        """Relu."""
        return self._emit("Relu", [x])

    def relu6(self, x: str) -> str:
        """Clip to 0..6."""
        self.held |= {"zero": np.float32(0), "six": np.float32(6)}
        return self._emit("Clip", [x, "zero", "six"])

    def add(self, x: str, y: str) -> str:
        """Add."""
        return self._emit("Add", [x, y])

    def max_pool(self, x: str) -> str:
        """MaxPool."""
        return self._emit("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])

    def mean(self, x: str) -> str:
        """GlobalAveragePool, Flatten."""
        return self._emit("Flatten", [self._emit("GlobalAveragePool", [x])])


def residual(t: Any, x: Any) -> Any:
    """Stem, two blocks of 32 channels, two of 64 (the first strided, with a projection)."""
    x = t.relu(t.conv_norm("stem", x, 32))
    for index, (width, stride) in enumerate(((32, 1), (32, 1), (64, 2), (64, 1))):
        y = t.relu(t.conv_norm(f"block{index}.a", x, width, stride=stride))
        y = t.conv_norm(f"block{index}.b", y, width)
        x = t.relu(t.add(y, t.conv_norm(f"block{index}.skip", x, width, kernel=1, stride=2) if stride == 2 else x))
    return t.dense("dense", t.mean(x), 10)


def plain(t: Any, x: Any) -> Any:
    """Pairs of convolutions with pooling between them, then two dense layers."""
    for index, width in enumerate((32, 48, 64)):
        x = t.relu(t.conv_norm(f"stage{index}.a", x, width))
        x = t.relu(t.conv_norm(f"stage{index}.b", x, width))
        x = t.max_pool(x) if index < 2 else t.mean(x)
    return t.dense("dense1", t.relu(t.dense("dense0", x, 64)), 10)


def depthwise(t: Any, x: Any) -> Any:
    """Inverted residuals with depthwise convolutions and activations clipped at 6."""
    x = t.relu6(t.conv_norm("stem", x, 24))
    width = 24
    for index, (wide, stride) in enumerate(((24, 1), (40, 2), (40, 1), (64, 2), (64, 1))):
        y = t.relu6(t.conv_norm(f"block{index}.expand", x, 4 * width, kernel=1))
        y = t.relu6(t.conv_norm(f"block{index}.depthwise", y, 4 * width, stride=stride, group=4 * width))
        y = t.conv_norm(f"block{index}.project", y, wide, kernel=1)
        x = t.add(x, y) if wide == width and stride == 1 else y
        width = wide
    return t.dense("dense", t.mean(t.relu6(t.conv_norm("head", x, 128, kernel=1))), 10)


NETS: dict[str, Callable[[Any, Any], Any]] = {"residual": residual, "plain": plain, "depthwise": depthwise}


def train(net: Callable[[Any, Any], Any], image: np.ndarray, label: np.ndarray) -> tuple[Params, Params]:
    """Parameters and running statistics after all epochs."""
    rng = np.random.default_rng(SEED)
    first = Compute({}, {}, training=False, rng=rng)
    net(first, image[:1])
    params, stats = first.params, first.stats

    def loss(params: Params, stats: Params, image: Any, label: Any) -> tuple[Any, Params]:
        tape = Compute(params, stats, training=True)
        logits = net(tape, image)
        target = jax.nn.one_hot(label, 10) * 0.95 + 0.005
        return -(target * jax.nn.log_softmax(logits)).sum(-1).mean(), tape.stats

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, index: Any, rate: Any, image: Any, label: Any) -> tuple[Any, Any]:
        params, stats, m, v = state
        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params, stats, image, label)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)

        def update(p: Any, m: Any, v: Any) -> Any:
            direction = (m / (1 - 0.9**index)) / (jnp.sqrt(v / (1 - 0.999**index)) + 1e-8)
            return p - rate * (direction + (WEIGHT_DECAY * p if p.ndim > 1 else 0.0))

        return (jax.tree.map(update, params, m, v), stats, m, v), value

    state = (params, stats, jax.tree.map(np.zeros_like, params), jax.tree.map(np.zeros_like, params))
    steps = len(image) // BATCH
    for epoch in range(EPOCHS):
        order, value = rng.permutation(len(image)), np.nan
        for index in range(steps):
            done = (epoch * steps + index) / (EPOCHS * steps)
            rate = PEAK_RATE * min(1.0, 20 * done) * (1 + np.cos(np.pi * done)) / 2
            rows = order[index * BATCH : (index + 1) * BATCH]
            moved = shifted(image[rows], rng)
            state, value = step(state, jnp.float32(epoch * steps + index + 1), jnp.float32(rate), moved, label[rows])
        print(f"epoch {epoch + 1:3d}  loss {float(value):.4f}", flush=True)
    return jax.tree.map(np.asarray, state[0]), jax.tree.map(np.asarray, state[1])


def shifted(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A copy with every image moved by up to two pixels in each direction."""
    padded, size = np.pad(image, ((0, 0), (0, 0), (2, 2), (2, 2))), image.shape[-1]
    moves = rng.integers(0, 5, (len(image), 2))
    return np.stack([one[:, dy : dy + size, dx : dx + size] for one, (dy, dx) in zip(padded, moves, strict=True)])


def export(name: str, params: Params, stats: Params) -> onnx.ModelProto:
    """The network in evaluation mode."""
    tape = Write(params, stats)
    NETS[name](tape, "image")
    tape.nodes[-1].output[0] = "logits"
    tensors = [numpy_helper.from_array(np.asarray(tape.held[key]), key) for key in tape.used]
    ends = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 16, 16])]
    logits = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])]
    graph = helper.make_graph(tape.nodes, f"digits_{name}", ends, logits, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Train and write the networks named on the command line, all by default."""
    image, heldout, label, truth = digits()
    for name in sys.argv[1:] or NETS:
        params, stats = train(NETS[name], image, label)
        logits = NETS[name](Compute(params, stats, training=False), heldout)
        path = HERE / "models" / f"digits_{name}.onnx"
        onnx.save(export(name, params, stats), path)
        print(f"{path.name}: {path.stat().st_size} bytes, {100 * float(np.mean(np.argmax(logits, -1) == truth)):.2f} % of the test images")


if __name__ == "__main__":
    main()
