"""What users import: names, signatures and the three parts of an error."""

from __future__ import annotations

import importlib
import inspect
from importlib.metadata import version

import pytest

import kopt
from kopt import errors


def test_every_exported_name_exists_and_is_documented() -> None:
    for name in kopt.__all__:
        found = getattr(kopt, name)
        if name != "__version__":
            assert inspect.getdoc(found), name
    assert set(dir(kopt)) >= set(kopt.__all__)
    assert kopt.__version__ == version("kopt")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'compiel'"):
        kopt.compiel  # noqa: B018


def test_every_error_is_exported_and_has_an_exit_code() -> None:
    classes = {name: one for name, one in vars(errors).items() if inspect.isclass(one) and issubclass(one, errors.KoptError)}
    assert set(classes) <= set(kopt.__all__)
    documented = errors.__doc__ or ""
    for name, one in classes.items():
        assert one.exit_code in (2, 4, 5, 6, 7, 70, 74), name
        assert name in documented


def test_an_error_has_three_parts() -> None:
    error = errors.InputError("'x' has type f64", where=errors.Location("m.onnx", ("conv1", "relu1")), next_step="pass float32")
    assert (error.what, str(error.where), error.next_step) == ("'x' has type f64", "m.onnx: 'conv1', 'relu1'", "pass float32")
    assert str(error) == "'x' has type f64\n  at m.onnx: 'conv1', 'relu1'\n  pass float32"
    assert isinstance(error, kopt.UsageError)


@pytest.mark.parametrize(
    ("function", "positional", "keywords"),
    [
        ("compile", ["model"], ["target", "output", "precision", "batch", "shapes"]),
        ("load", ["path"], ["require", "exact", "threads"]),
        ("check", ["artifact", "budget"], ["baseline", "batch", "time_limit_s", "threads", "seed"]),
    ],
)
def test_signatures_hold(function: str, positional: list[str], keywords: list[str]) -> None:
    parameters = inspect.signature(getattr(kopt, function)).parameters
    assert [name for name, one in parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD] == positional
    assert set(keywords) <= {name for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY}


def test_defaults_of_compile() -> None:
    parameters = inspect.signature(kopt.compile).parameters
    assert parameters["target"].default == "cpu"
    assert parameters["precision"].default == "fp32"


def test_a_session_has_what_is_promised() -> None:
    for name in ("run", "warmup", "tier", "close"):
        assert hasattr(kopt.Session, name)


@pytest.mark.parametrize(
    "name", ["kopt.compiler", "kopt.session", "kopt.artifact", "kopt.runners", "kopt.passes.pipeline", "kopt.frontend.load"]
)
def test_modules_import_alone(name: str) -> None:
    assert importlib.import_module(name)
