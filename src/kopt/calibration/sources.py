"""Where calibration inputs come from: .npz, folders of .npy, test_data_set folders, functions, and arrays at hand."""

from __future__ import annotations

import importlib.util
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from kopt.errors import FileError, UsageError

Source: TypeAlias = "str | Path | Mapping[str, Any] | Iterable[Mapping[str, Any]] | Callable[[], Any]"
Read: TypeAlias = "Callable[[], Iterator[Mapping[str, Any]]]"

_FORMS = "give an .npz, a folder of .npy files, a folder of test_data_set_* folders, or FILE.py:FUNCTION"
_FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")
_PART = re.compile(r"(?P<name>.+?)[_.-]?(?P<index>\d+)")


def opened(source: Source, names: Sequence[str]) -> tuple[str, Read]:
    """What to call the source, and a function that reads its arrays from the beginning.

    Raises:
        UsageError: no form that is known.
        FileError: there is no such file.
    """
    if isinstance(source, Mapping):
        held = dict(source)
        return "the arrays", lambda: iter([held])
    if callable(source):
        return f"function {getattr(source, '__name__', 'of the calibration')}", lambda: _given(source(), "the function")
    if not isinstance(source, str | Path):
        feeds = list(source)  # an iterator could be read only once
        return "the feeds", lambda: iter(feeds)
    text = str(source)
    if found := _FUNCTION.fullmatch(text):
        function = load_function(text)
        return text, lambda: _given(function(), f"{found['file']}:{found['name']}")
    path = Path(source)
    if path.is_file() and path.suffix == ".npz":
        return text, lambda: iter([_npz(path)])
    if not path.exists():
        raise FileError("there is no such calibration source", where=text, next_step=_FORMS)
    if path.is_dir():
        return text, _folder(path, names)
    raise UsageError(f"'{path.name}' is no form of calibration inputs", where=text, next_step=_FORMS)


def load_function(text: str) -> Callable[..., Any]:
    """The function that ``FILE.py:NAME`` names; the file is executed.

    Raises:
        UsageError: not of that form, no such function, or the file fails.
        FileError: there is no such file.
    """
    found = _FUNCTION.fullmatch(text)
    if found is None:
        raise UsageError(f"'{text}' names no function", next_step="write FILE.py:FUNCTION")
    path = Path(found["file"])
    if not path.is_file():
        raise FileError("there is no such file", where=str(path), next_step="write FILE.py:FUNCTION")
    name = f"kopt_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError("this is no Python file", where=str(path), next_step="write FILE.py:FUNCTION")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # what lies beside the file may be imported by it, as when it is run
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        raise UsageError(f"it fails: {type(error).__name__}: {error}", where=str(path), next_step="run the file by itself") from error
    finally:
        sys.path.remove(str(path.parent))
    function = getattr(module, found["name"], None)
    if not callable(function):
        raise UsageError(f"it has no function '{found['name']}'", where=str(path), next_step="correct the name behind the colon")
    return function  # type: ignore[no-any-return]


def _given(result: Any, where: str) -> Iterator[Mapping[str, Any]]:
    """Feeds of a function's result: a dictionary, or any number of them."""
    if isinstance(result, Mapping):
        yield result
        return
    if not isinstance(result, Iterable):
        raise UsageError(
            f"it returns {type(result).__name__}", where=where, next_step="return a dictionary of arrays by input name, or several"
        )
    for item in result:
        if not isinstance(item, Mapping):
            raise UsageError(f"it gives {type(item).__name__}", where=where, next_step="give dictionaries of arrays by input name")
        yield item


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"it cannot be read: {error}", where=str(path), next_step="save it with numpy.savez") from None


def _npy(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            return np.asarray(np.load(file, allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise UsageError(f"it cannot be read: {error}", where=str(path), next_step="save it with numpy.save") from None


def _folder(path: Path, names: Sequence[str]) -> Read:
    sets = sorted((one for one in path.glob("test_data_set_*") if one.is_dir()), key=lambda one: (len(one.name), one.name))
    if not sets and list(path.glob("input_*.pb")):
        sets = [path]
    if sets:
        return lambda: (_data_set(one, names) for one in sets)
    files = sorted(path.glob("*.npy"))
    if not files:
        raise UsageError("the folder holds neither .npy files nor test_data_set_* folders", where=str(path), next_step=_FORMS)
    stems = {one.stem for one in files}
    if set(names) & stems:  # one array per input
        return lambda: iter([{one.stem: _npy(one) for one in files}])
    groups: dict[str, dict[str, Path]] = {}
    for one in files:  # NAME_0.npy, NAME_1.npy ..., or anything for a model with one input
        part = _PART.fullmatch(one.stem)
        name, index = (part["name"], part["index"]) if part and part["name"] in names else (names[0], one.stem)
        if len(names) > 1 and not (part and part["name"] in names):
            raise UsageError(
                f"'{one.name}' belongs to no input", where=str(path), next_step=f"name the files as the inputs: {', '.join(names)}"
            )
        groups.setdefault(index, {})[name] = one
    ordered = sorted(groups, key=lambda index: (len(index), index))
    return lambda: ({name: _npy(one) for name, one in groups[index].items()} for index in ordered)


def _data_set(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The inputs of one test_data_set folder, which are numbered as the model's inputs are."""
    from kopt.frontend.tensors import read_tensor_file

    files = sorted(path.glob("input_*.pb"), key=lambda one: (len(one.name), one.name))
    if len(files) != len(names):
        raise UsageError(f"it holds {len(files)} inputs, the model has {len(names)}", where=str(path), next_step="give one input_N.pb each")
    return {name: read_tensor_file(one) for name, one in zip(names, files, strict=True)}
