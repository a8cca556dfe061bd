import dataclasses
import json
import logging
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from kopt.artifact.write import Contents, Program, write
from kopt.errors import ToolchainError
from kopt.ir.builder import Builder
from kopt.session import load
from kopt.specialize import Recipe, specialize
from kopt.targets.kernels import calls, library
from kopt.targets.kernels.calls import KernelCalls, kernel_call, register
from kopt.targets.kernels.conv import Conv, ConvTiling, Depthwise, Image
from kopt.targets.kernels.kernel import Epilogue, symbol
from kopt.targets.kernels.product import Product
from kopt.targets.kernels.product_call import meaning, multiply
from kopt.targets.kernels.tiling import ProductTiling
from kopt.targets.xla import XlaBackend
from kopt.targets.xla_kernels import separate
from support.equivalence import run_graph
from support.fakes import requirements
from support.kernels import NATIVE, V3

SHAPE = (2, 16, 19, 15)
RECIPE = Recipe.of_preset("xla-kernels", options={"kernels": True})
PLAIN = Recipe.of_preset("xla")


def network(rng):
    """Convolutions of every kind with a residual, pooled, and two products."""
    b = Builder()

    def weight(*shape):
        return b.constant((rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))

    def conv(x, outputs, channels, size, **attrs):
        defaults = {"kernel_shape": (size, size), "strides": (1, 1), "dilations": (1, 1), "group": 1, "pads": (size // 2,) * 4}
        return b.emit("Conv", x, weight(outputs, channels, size, size), weight(outputs), attrs={**defaults, **attrs})

    x = b.input("x", "f32", SHAPE)
    first = b.emit("Relu", conv(x, 48, 16, 5))
    deep = b.emit("Clip", conv(first, 48, 1, 3, group=48), b.constant(np.float32(0)), b.constant(np.float32(6)))
    added = b.emit("Add", conv(deep, 48, 48, 1), first)
    strided = b.emit("Relu", conv(added, 64, 48, 3, strides=(2, 2)))
    rows = b.emit("Transpose", b.emit("Reshape", strided, b.constant(np.array([2, 64, -1]))), attrs={"perm": (0, 2, 1)})
    hidden = b.emit("Gelu", b.emit("Add", b.emit("MatMul", rows, weight(64, 96)), weight(96)))
    y = b.emit("Add", b.emit("MatMul", hidden, weight(96, 64)), rows, hint="y")
    return b.graph("network", [x], [y])


@pytest.fixture(scope="module")
def graph():
    return network(np.random.default_rng(11))


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(12).standard_normal(SHAPE).astype(np.float32)


@pytest.fixture(scope="module")
def made(graph):
    """(what was lowered, the executable) with kernels."""
    specialized = specialize(graph, RECIPE, NATIVE, shapes={"x": SHAPE})
    assert specialized.backend == "xla"
    return specialized.lowered, specialized.compile()


@pytest.fixture(scope="module")
def expected(graph, x):
    return run_graph(graph, {"x": x})[0]


def values(executable, x):
    return np.asarray(executable([x])[0])


def test_a_network_with_kernels(made, x, expected):
    lowered, executable = made
    assert set(lowered.kernels) >= {"Product", "Depthwise"}
    assert sum(lowered.kernels.values()) >= 5
    assert "custom_call @kopt_" in lowered.text
    np.testing.assert_allclose(values(executable, x), expected, rtol=1e-4, atol=1e-4)


def test_without_the_option_there_is_none(graph, x, expected):
    lowered = specialize(graph, PLAIN, NATIVE, shapes={"x": SHAPE}).lowered
    assert not lowered.kernels
    assert "kopt_" not in lowered.text.replace("@kopt_main", "")


def test_the_portable_program_calls_no_kernel(made, x, expected):
    lowered, executable = made
    program = XlaBackend().portable(lowered)
    again = XlaBackend().portable(lowered)
    text = str(jax.export.deserialize(bytearray(program)).mlir_module())
    assert "custom_call @kopt_" not in text
    assert symbol_names(lowered).isdisjoint(text.split('"'))
    assert program == again
    _, weights = executable.save()
    plain = XlaBackend().compile_portable(program, weights, executable.signature, NATIVE)
    np.testing.assert_allclose(values(plain, x), values(executable, x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(values(plain, x), expected, rtol=1e-4, atol=1e-4)
    assert separate(plain.save()[0])[0] is None


def symbol_names(lowered):
    return set(lowered.module.kernels)


def test_lowering_again_after_the_portable_form_calls_kernels_again(graph, made):
    XlaBackend().portable(made[0])
    assert "custom_call @kopt_" in specialize(graph, RECIPE, NATIVE, shapes={"x": SHAPE}).lowered.text


def test_saved_code_loads_with_its_kernels(made, x):
    _, executable = made
    code, weights = executable.save()
    stored, _ = separate(code)
    assert stored is not None
    assert set(stored.symbols) == symbol_names(made[0])
    loaded = XlaBackend().load(code, weights, executable.signature, NATIVE)
    np.testing.assert_array_equal(values(loaded, x), values(executable, x))
    assert loaded.save()[0] == code


def test_without_a_compiler_plain_xla_runs(graph, x, expected, monkeypatch, caplog):
    monkeypatch.setattr(library, "obstacle", lambda: "there is no C compiler")
    with caplog.at_level(logging.WARNING, "kopt.xla"):
        specialized = specialize(graph, RECIPE, NATIVE, shapes={"x": SHAPE})
    assert "there is no C compiler" in caplog.text
    assert not specialized.lowered.kernels
    assert "custom_call @kopt_" not in specialized.lowered.text
    np.testing.assert_allclose(values(specialized.compile(), x), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def path(graph, made, x, tmp_path_factory):
    lowered, executable = made
    code, weights = executable.save()
    program = Program("xla", executable.signature, {}, code, XlaBackend().portable(lowered), weights)
    held = {"0/input/x": x, "0/output/y": values(executable, x)}
    needed = requirements(XlaBackend())
    contents = Contents(graph, [program], needed, config=RECIPE.to_json(), self_test=held, report={}, provenance={})
    return write(contents, tmp_path_factory.mktemp("kernels") / "m.kopt").path


FRESH = """
import json, sys
import numpy as np
from kopt.session import load
session = load(sys.argv[1], require="native")
y = session.run({"x": np.load(sys.argv[2])})["y"]
np.save(sys.argv[3], y)
print(json.dumps({"tier": session.tier, "test": bool(session.self_test()), "tvm": "tvm" in sys.modules}))
"""


def test_an_artifact_runs_natively_in_a_fresh_process(path, made, x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    command = [sys.executable, "-c", FRESH, str(path), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"tier": "native", "test": True, "tvm": False}
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), values(made[1], x))


def test_the_recompiled_tier_needs_no_kernels(path, expected, x):
    session = load(path, require="recompiled")
    assert session.tier == "recompiled"
    np.testing.assert_allclose(session.run({"x": x})["y"], expected, rtol=1e-4, atol=1e-4)


def test_many_threads_and_one_agree_bit_for_bit(path):
    session = load(path, require="native")
    inputs = [np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32) for seed in range(4)]
    expected = [session.run({"x": array})["y"].copy() for array in inputs]
    wrong, barrier = [], threading.Barrier(64)

    def work(which):
        barrier.wait()
        for turn in range(20):
            k = (which + turn) % len(inputs)
            if not np.array_equal(session.run({"x": inputs[k]})["y"], expected[k]):
                wrong.append((which, turn))

    threads = [threading.Thread(target=work, args=(which,)) for which in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


SMALL = Product(4, 8, 16, ProductTiling(1, 16, 1, 4, 1), Epilogue(bias=True))


def test_a_call_outside_of_programs_is_what_the_kernel_means(rng):
    x, w, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 8), (8, 48), (48,)))
    kept = KernelCalls(NATIVE)
    y = multiply(kept, x, w, bias, None, Epilogue(bias=True))
    assert y.shape == (2, 3, 48)
    np.testing.assert_allclose(y, x @ w + bias, rtol=1e-5, atol=1e-5)
    assert list(kept.count.items()) == [("Product", 1)]
    ((name, kernel),) = kept.kernels.items()
    assert name == symbol(kernel, NATIVE)


def test_equal_kernels_are_kept_once():
    kept = KernelCalls(NATIVE)
    for _ in range(2):
        kept.call(SMALL, [np.ones(shape, np.float32) for shape in SMALL.operands], meaning)
    assert len(kept.kernels) == 1
    assert kept.count["Product"] == 2


def test_other_operands_than_a_kernel_takes_are_refused():
    name = symbol(SMALL, NATIVE)
    register([name], library.build_library({name: SMALL}, NATIVE))
    given = [np.ones(shape, np.float32) for shape in SMALL.operands]
    called = jax.jit(jax.ffi.ffi_call(name, jax.ShapeDtypeStruct((4, 16), np.float32)))
    np.testing.assert_array_equal(called(*given), np.full((4, 16), 9.0))
    with pytest.raises(Exception, match="other arrays than it takes"):
        called(*given[:2]).block_until_ready()


def test_registering_again_changes_nothing(made):
    stored, _ = separate(made[1].save()[0])
    before = dict(calls._registered)
    register(stored.symbols, b"not looked at")
    assert calls._registered == before


def test_a_library_without_a_kernel_is_refused(made):
    stored, _ = separate(made[1].save()[0])
    with pytest.raises(ToolchainError, match="cannot be loaded"):
        register(["kopt_missing"], stored.library)
    assert "kopt_missing" not in calls._registered


def test_shapes_are_known_without_running():
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in SMALL.operands]
    found = jax.eval_shape(lambda *arrays: kernel_call.bind(*arrays, kernel=SMALL, name="unused", meaning=meaning), *shapes)
    assert (found.shape, found.dtype) == ((4, 16), np.float32)


def variants(kernel):
    """The kernel, and every kernel that differs in one field, at any depth."""
    for item in dataclasses.fields(kernel):
        held = getattr(kernel, item.name)
        if dataclasses.is_dataclass(held):
            yield from (dataclasses.replace(kernel, **{item.name: other}) for other in variants(held))
        elif isinstance(held, tuple):
            yield from (dataclasses.replace(kernel, **{item.name: (*held[:k], held[k] + 1, *held[k + 1 :])}) for k in range(len(held)))
        else:
            other = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v + 0.5, str: lambda v: f"{v}Tanh"}[type(held)](held)
            yield dataclasses.replace(kernel, **{item.name: other})


def test_symbols_differ_when_anything_does():
    image = Image(1, 8, 8, 16, 8, 8, (3, 3), (1, 1), (1, 1), (1, 1))
    tiling = ConvTiling(4, 16, 4, 2, 1)
    kernels = [SMALL, Conv(image, 16, tiling), Depthwise(image, tiling)]
    kernels += [other for kernel in kernels for other in variants(kernel)]
    assert len(kernels) > 50
    names = {symbol(kernel, target) for kernel in kernels for target in (NATIVE, V3)}
    assert len(names) == len(kernels) * (2 if NATIVE.required_features != V3.required_features else 1)
    assert all(name.isidentifier() and len(name) < 64 for name in names)
    assert symbol(dataclasses.replace(SMALL), NATIVE) == symbol(SMALL, NATIVE)
