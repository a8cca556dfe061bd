"""Train a small residual network on scikit-learn's bundled digits and export it to ONNX.

Writes ``digits.onnx`` and ``heldout.npz`` beside this file. Needs scikit-learn besides kopt itself::

    pip install scikit-learn && python examples/digits/train.py

The export keeps every BatchNormalization as a node of its own, so that a compiler has something to fold.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent
SEED = 7
NUM_EPOCHS = 60
BATCH = 64
PEAK_RATE = 4e-3
WEIGHT_DECAY = 1e-4
MOMENTUM = 0.9  # of the running BatchNorm statistics
EPSILON = 1e-5
OPSET = 20

# (name, input channels, output channels, stride) of every convolution, in the order of the network
CONVOLUTIONS = (
    ("stem", 1, 16, 1),
    ("block1_conv1", 16, 16, 1),
    ("block1_conv2", 16, 16, 1),
    ("down", 16, 32, 2),
    ("block2_conv1", 32, 32, 1),
    ("block2_conv2", 32, 32, 1),
)
STRIDES = {name: stride for name, _, _, stride in CONVOLUTIONS}
NUM_CLASSES = 10

Params: TypeAlias = dict[str, Any]
State: TypeAlias = tuple[Params, Params, Params, Params]  # parameters, running statistics, first and second moments


def initial_parameters(rng: np.random.Generator) -> tuple[Params, Params]:
    """Trained parameters (He initialisation) and running statistics, by name."""
    params: Params = {}
    stats: Params = {}
    for name, fan_in, fan_out, _ in CONVOLUTIONS:
        params[f"{name}.weight"] = rng.normal(0, np.sqrt(2 / (9 * fan_in)), (fan_out, fan_in, 3, 3)).astype(np.float32)
        params[f"{name}.scale"] = np.ones(fan_out, np.float32)
        params[f"{name}.bias"] = np.zeros(fan_out, np.float32)
        stats[f"{name}.mean"] = np.zeros(fan_out, np.float32)
        stats[f"{name}.var"] = np.ones(fan_out, np.float32)
    width = CONVOLUTIONS[-1][2]
    params["dense.weight"] = rng.normal(0, np.sqrt(1 / width), (width, NUM_CLASSES)).astype(np.float32)
    params["dense.bias"] = np.zeros(NUM_CLASSES, np.float32)
    return params, stats


def forward(params: Params, stats: Params, image: jax.Array, *, training: bool) -> tuple[jax.Array, Params]:
    """Logits (N, 10) of images (N, 1, 8, 8), and the running statistics after this batch."""
    new_stats = dict(stats)

    def conv_norm(name: str, x: jax.Array) -> jax.Array:
        stride = STRIDES[name]
        x = jax.lax.conv(x, params[f"{name}.weight"], (stride, stride), [(1, 1), (1, 1)])
        if training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
            for key, now in ((f"{name}.mean", mean), (f"{name}.var", var)):
                new_stats[key] = MOMENTUM * stats[key] + (1 - MOMENTUM) * now
        else:
            mean, var = stats[f"{name}.mean"], stats[f"{name}.var"]
        scale = params[f"{name}.scale"] * jax.lax.rsqrt(var + EPSILON)
        return (x - mean[:, None, None]) * scale[:, None, None] + params[f"{name}.bias"][:, None, None]

    def block(name: str, x: jax.Array) -> jax.Array:
        inner = jax.nn.relu(conv_norm(f"{name}_conv1", x))
        return jax.nn.relu(conv_norm(f"{name}_conv2", inner) + x)

    x = jax.nn.relu(conv_norm("stem", image))
    x = block("block1", x)
    x = jax.nn.relu(conv_norm("down", x))
    x = block("block2", x)
    return x.mean((2, 3)) @ params["dense.weight"] + params["dense.bias"], new_stats


def loss(params: Params, stats: Params, image: jax.Array, label: jax.Array) -> tuple[jax.Array, Params]:
    """Cross entropy with 5 % label smoothing, and the new running statistics."""
    logits, new_stats = forward(params, stats, image, training=True)
    target = jax.nn.one_hot(label, NUM_CLASSES) * 0.95 + 0.05 / NUM_CLASSES
    return -(target * jax.nn.log_softmax(logits)).sum(-1).mean(), new_stats


@partial(jax.jit, donate_argnums=0)
def adamw_step(state: State, step: jax.Array, rate: jax.Array, image: jax.Array, label: jax.Array) -> tuple[State, jax.Array]:
    """One step of Adam with decoupled weight decay; returns the new state and the loss."""
    params, stats, first, second = state
    (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params, stats, image, label)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, grads)

    def update(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        direction = (m / (1 - 0.9**step)) / (jnp.sqrt(v / (1 - 0.999**step)) + 1e-8)
        return p - rate * (direction + (WEIGHT_DECAY * p if p.ndim > 1 else 0.0))

    return (jax.tree.map(update, params, first, second), stats, first, second), value


def shifted(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A copy with every image moved by up to one pixel in each direction."""
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    size = image.shape[-1]
    moves = rng.integers(0, 3, (len(image), 2))
    return np.stack([one[:, dy : dy + size, dx : dx + size] for one, (dy, dx) in zip(padded, moves, strict=True)])


def train(image: np.ndarray, label: np.ndarray) -> tuple[Params, Params]:
    """Parameters and running statistics after all epochs."""
    rng = np.random.default_rng(SEED)
    params, stats = initial_parameters(rng)
    state = (params, stats, jax.tree.map(np.zeros_like, params), jax.tree.map(np.zeros_like, params))
    num_batches = len(image) // BATCH
    for epoch in range(NUM_EPOCHS):
        order = rng.permutation(len(image))
        for index in range(num_batches):
            step = epoch * num_batches + index
            progress = step / (NUM_EPOCHS * num_batches)
            rate = PEAK_RATE * min(1.0, 20 * progress) * (1 + np.cos(np.pi * progress)) / 2
            rows = order[index * BATCH : (index + 1) * BATCH]
            batch = shifted(image[rows], rng)
            state, value = adamw_step(state, jnp.float32(step + 1), jnp.float32(rate), batch, label[rows])
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1:3d}  loss {float(value):.4f}")
    return jax.tree.map(np.asarray, state[0]), jax.tree.map(np.asarray, state[1])


def export(params: Params, stats: Params) -> onnx.ModelProto:
    """The network in evaluation mode as an ONNX model with a symbolic batch dimension."""
    nodes: list[onnx.NodeProto] = []

    def add(op: str, name: str, inputs: list[str], **attributes: object) -> str:
        output = "logits" if name == "dense" else f"{name}.out"
        nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def conv_norm(name: str, x: str) -> str:
        stride = STRIDES[name]
        x = add("Conv", name, [x, f"{name}.weight"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[stride, stride])
        names = [f"{name}.{part}" for part in ("scale", "bias", "mean", "var")]
        return add("BatchNormalization", f"{name}_norm", [x, *names], epsilon=EPSILON)

    def block(name: str, x: str) -> str:
        inner = add("Relu", f"{name}_relu1", [conv_norm(f"{name}_conv1", x)])
        return add("Relu", f"{name}_relu2", [add("Add", f"{name}_add", [conv_norm(f"{name}_conv2", inner), x])])

    x = block("block1", add("Relu", "stem_relu", [conv_norm("stem", "image")]))
    x = block("block2", add("Relu", "down_relu", [conv_norm("down", x)]))
    x = add("Flatten", "flatten", [add("GlobalAveragePool", "pool", [x])])
    add("Gemm", "dense", [x, "dense.weight", "dense.bias"])

    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", NUM_CLASSES])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in {**params, **stats}.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9, producer_name="kopt examples/digits")
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Train, evaluate on images never trained on, and write both files."""
    digits = load_digits()
    image = (digits.images / 16).astype(np.float32)[:, None]
    label = digits.target.astype(np.int64)
    train_image, test_image, train_label, test_label = train_test_split(image, label, test_size=0.25, random_state=SEED, stratify=label)
    params, stats = train(train_image, train_label)
    logits, _ = forward(params, stats, jnp.asarray(test_image), training=False)
    accuracy = float((np.asarray(logits).argmax(-1) == test_label).mean())
    print(f"accuracy on {len(test_label)} held-out images: {accuracy:.4f}")
    onnx.save(export(params, stats), HERE / "digits.onnx")
    np.savez_compressed(HERE / "heldout.npz", image=test_image, label=test_label)


if __name__ == "__main__":
    main()
