import threading

import numpy as np
import pytest

from kopt.errors import PassError, TargetError, ToolchainError, UnsupportedModelError
from kopt.hardware import ISA_LEVELS, Target, cpu_features
from kopt.ir.builder import Builder
from kopt.ir.graph import Graph, Node, Value
from kopt.ir.types import DType, TensorType
from kopt.targets.base import backend
from kopt.targets.xla import LITERAL_BYTES, XlaBackend, evaluate_graph, evaluate_node

CPU = Target.parse("cpu")


def mlp(rng, *, batch=3, hidden=256):
    """x (batch, 64) -> Gemm with a transposed weight -> Relu -> Add."""
    b = Builder()
    x = b.input("x", "f32", [batch, 64])
    weight = b.constant(rng.standard_normal((hidden, 64)).astype(np.float32), "weight")
    bias = b.constant(rng.standard_normal(hidden).astype(np.float32), "bias")
    y = b.emit("Relu", b.emit("Gemm", x, weight, bias, attrs={"transB": 1}))
    return b.graph("mlp", [x], [y]), lambda v: np.maximum(v @ b.constants[weight].array().T + b.constants[bias].array(), 0)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def x(rng):
    return rng.standard_normal((3, 64)).astype(np.float32)


def test_the_program_holds_no_weight_only_instruction(rng):
    graph, _ = mlp(rng)
    lowered = XlaBackend().lower(graph, CPU)
    assert "transpose" not in lowered.text
    assert [array.shape for array in lowered.weights.values()] == [(64, 256)]
    assert all(array.nbytes >= LITERAL_BYTES for array in lowered.weights.values())


def test_compiled_saved_and_portable_programs_agree(rng, x):
    graph, expected = mlp(rng)
    xla = XlaBackend()
    lowered = xla.lower(graph, CPU)
    executable = xla.compile(lowered)
    (result,) = executable([x])
    np.testing.assert_allclose(result, expected(x), rtol=1e-4, atol=1e-5)
    code, weights = executable.save()
    again = xla.load(code, weights, executable.signature, CPU)
    portable = xla.compile_portable(xla.portable(lowered), weights, executable.signature, CPU)
    for other in (again, portable):
        np.testing.assert_array_equal(np.asarray(other([x])[0]), np.asarray(result))


def test_packed_weights_are_named_by_content(rng):
    graph, _ = mlp(rng)
    first, second = (XlaBackend().lower(graph, CPU).weights for _ in range(2))
    assert list(first) == list(second)


def test_an_isa_level_limits_the_code(rng, x):
    if not ISA_LEVELS["x86-64-v3"] < cpu_features():
        pytest.skip("this CPU has nothing above x86-64-v3")
    graph, expected = mlp(rng)
    xla, target = XlaBackend(), Target.parse("cpu", isa="x86-64-v3")
    executable = xla.compile(xla.lower(graph, target))
    np.testing.assert_allclose(executable([x])[0], expected(x), rtol=1e-4, atol=1e-5)
    assert b"+avx512f" not in executable.save()[0]


def test_cuda_lowers_without_a_device_at_full_precision(rng):
    if Target.parse("cuda").present:
        pytest.skip("this machine has a device")
    graph, _ = mlp(rng)
    xla = XlaBackend()
    lowered = xla.lower(graph, Target.parse("cuda"))
    assert "HIGHEST" in lowered.text
    assert len(xla.portable(lowered)) > 0
    with pytest.raises(TargetError, match="no cuda device"):
        xla.compile(lowered)


def test_64_bit_types_are_kept(rng):
    b = Builder()
    i, d = b.input("i", "i64", [2]), b.input("d", "f64", [2])
    graph = b.graph("wide", [i, d], [b.emit("Add", i, i), b.emit("Mul", d, d)])
    xla = XlaBackend()
    executable = xla.compile(xla.lower(graph, CPU))
    for _ in range(2):
        ints, doubles = executable([np.array([2**40, -3]), np.array([1e100, 1 / 3])])
        assert np.asarray(ints).tolist() == [2**41, -6]
        np.testing.assert_array_equal(np.asarray(doubles), np.array([1e100, 1 / 3]) ** 2)


def test_threads_share_an_executable(rng, x):
    graph, _ = mlp(rng)
    xla = XlaBackend()
    executable = xla.compile(xla.lower(graph, CPU))
    expected = np.asarray(executable([x])[0])
    wrong = []

    def work():
        for _ in range(20):
            wrong.extend([1] * (not np.array_equal(np.asarray(executable([x])[0]), expected)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_every_unsupported_node_is_listed():
    x = Value("x", TensorType(DType.F32, (1,)))
    y, z = Value("y", x.type), Value("z", x.type)
    graph = Graph("g", (x,), (z,), (Node("Nope", (x,), (y,)), Node("NeitherThis", (y,), (z,))))
    assert [op for op, _, _ in XlaBackend().supports(graph, CPU).unsupported] == ["Nope", "NeitherThis"]
    with pytest.raises(UnsupportedModelError, match="NeitherThis, Nope") as raised:
        XlaBackend().lower(graph, CPU)
    assert len(raised.value.nodes) == 2


def test_a_lowering_that_misses_its_type_is_caught():
    x = Value("x", TensorType(DType.F32, (2,)))
    y = Value("y", TensorType(DType.F16, (2,)))
    with pytest.raises(PassError, match="'y' was lowered to float32"):
        XlaBackend().lower(Graph("g", (x,), (y,), (Node("Relu", (x,), (y,)),)), CPU)


def test_nodes_and_graphs_are_evaluated_on_arrays(rng, x):
    graph, expected = mlp(rng)
    np.testing.assert_allclose(evaluate_graph(graph, [x])[0], expected(x), rtol=1e-4, atol=1e-5)
    (result,) = evaluate_node(graph.nodes[1], [np.array([[-1.0, 2.0]], np.float32)])
    assert result.tolist() == [[0.0, 2.0]]


def test_bytes_that_are_no_program_are_refused(rng):
    graph, _ = mlp(rng)
    with pytest.raises(ToolchainError, match="not a StableHLO program"):
        XlaBackend().compile_portable(b"garbage", {}, XlaBackend().compile(XlaBackend().lower(graph, CPU)).signature, CPU)


def test_backends_are_found_by_name():
    assert backend("xla").name == "xla"
    assert backend("xla").version().startswith("jaxlib ")
