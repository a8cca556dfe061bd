"""Exit codes, configuration, and errors that are one message: never a traceback."""

from __future__ import annotations

import re

import pytest
import typer

from kopt import errors
from kopt.cli import main as cli
from kopt.cli.main import COMMANDS, invoke, read_config
from support.source import ROOT


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")


def fail_with(error: BaseException, monkeypatch) -> int:
    def app(**options: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)
    return invoke(["doctor"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError("no input 'x'", where="m.onnx", next_step="name it"), 2),
        (errors.AccuracyError("differs"), 4),
        (errors.CorruptArtifactError("altered"), 5),
        (errors.InvalidModelError("cut"), 6),
        (errors.MissingDependencyError("absent"), 7),
        (errors.ToolchainError("crashed"), 70),
        (errors.FileError("unreadable"), 74),
        (PermissionError(13, "Permission denied", "x.kopt"), 74),
        (ZeroDivisionError("a defect"), 70),
        (KeyboardInterrupt(), 130),
        (typer.Abort(), 130),
    ],
)
def test_every_failure_has_its_code_and_one_message(error, code, monkeypatch, capsys) -> None:
    assert fail_with(error, monkeypatch) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err
    if isinstance(error, errors.KoptError):
        assert err == f"error: {error}\n"


def test_a_defect_names_its_place(monkeypatch, capsys) -> None:
    fail_with(ZeroDivisionError("a defect"), monkeypatch)
    assert re.search(r"ZeroDivisionError: a defect\n  at ([a-z]+\.)*test_main:\d+\n", capsys.readouterr().err)


def test_markup_in_messages_is_printed_as_it_is(monkeypatch, capsys) -> None:
    fail_with(errors.UsageError("'[bold]x[/bold]' is no name"), monkeypatch)
    assert "'[bold]x[/bold]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["compile"], ["run", "x.kopt"], ["doctor", "--nothing"], ["bench", "x", "--rounds", "many"]]
)
def test_usage_errors(arguments, capsys) -> None:
    assert invoke(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_succeeds_on_stdout(arguments, capsys) -> None:
    assert invoke(arguments) == 0
    out, err = capsys.readouterr()
    assert out
    assert not err


def test_defaults_come_from_the_file_and_flags_win(tmp_path, monkeypatch) -> None:
    seen = {}
    monkeypatch.setattr(
        "kopt.compiler.compile", lambda model, **options: seen.update(options) or (_ for _ in ()).throw(errors.UsageError("stop"))
    )
    (tmp_path / "kopt.toml").write_text('[compile]\nbatch = [1, 8]\ncpu-isa = "x86-64-v3"\nbaseline = false\nshape = ["a:1x2", "b:3"]\n')
    invoke(["compile", "m.onnx", "--cpu-isa", "native"])
    assert (seen["batch"], seen["cpu_isa"], seen["baseline"]) == ((1, 8), "native", False)
    assert seen["shapes"] == {"a": (1, 2), "b": (3,)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[compile\n", "not a TOML file"),
        ("[compyle]\n", "unknown table 'compyle'"),
        ("compile = 3\n", "unknown table 'compile'"),
        ("[compile]\nbatches = 3\n", "unknown key 'batches' in table 'compile'"),
        ('[compile]\nmodel = "x"\n', "unknown key 'model'"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, capsys, text, message) -> None:
    (tmp_path / "kopt.toml").write_text(text)
    assert invoke(["doctor"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "kopt.toml" in err


def test_a_named_file_must_exist(tmp_path) -> None:
    assert read_config(None) == {}
    with pytest.raises(errors.UsageError, match="no configuration file"):
        read_config(tmp_path / "absent.toml")


def test_an_interrupt_inside_a_command_says_so(monkeypatch, capsys) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kopt.compiler.compile", interrupt)
    assert invoke(["compile", "m.onnx"]) == errors.EXIT_INTERRUPTED
    assert capsys.readouterr().err.startswith("error: interrupted")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_documented(name) -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## kopt {name} ")[2] or page.partition(f"\n## kopt {name}\n")[2]
    section = section.partition("\n## ")[0]
    heading = page.partition(f"\n## kopt {name}")[2].partition("\n")[0]
    for parameter in typer.main.get_command(cli.app).commands[name].params:
        spellings = [*parameter.opts, *parameter.secondary_opts]
        assert parameter.param_type_name != "option" or any(one in heading + section for one in spellings), spellings
