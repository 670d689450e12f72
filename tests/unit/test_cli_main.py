"""The console script: light to start, and user errors in two lines with an exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka.errors import KafkaConnectionError
from sqlalchemy.exc import OperationalError, ProgrammingError

from cli.errors import INTERRUPTED, TIMEOUT, UNREACHABLE, USAGE, CommandError
from cli.main import COMMANDS, build, explained, main
from cli.mapping import MapError
from cli.rows import FileError
from config.settings import SettingsError
from embedded.process import ServiceError


def ended(arguments: list[str]) -> int:
    """The exit code of `pointguard ARGUMENTS`."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (CommandError("a", "b", TIMEOUT), TIMEOUT, "b"),
        (MapError("map m: no such column"), USAGE, "correct it"),
        (FileError("f is empty; fill it"), USAGE, "fill it"),
        (SettingsError("kafka_url is not set: start the services with `pointguard up`"), UNREACHABLE, "pointguard up"),
        (ServiceError("no port"), UNREACHABLE, "logs"),
        (OperationalError("select", {}, OSError("connection refused")), UNREACHABLE, "POINTGUARD_DATABASE_URL"),
        (ProgrammingError("s", {}, Exception('relation "hold" does not exist')), UNREACHABLE, "pointguard migrate"),
        (KafkaConnectionError("no broker"), UNREACHABLE, "POINTGUARD_KAFKA_URL"),
    ],
)
def test_what_users_meet_is_explained(error: Exception, code: int, words: str) -> None:
    """One line what, one line remedy, an exit code that scripts can tell apart."""
    failure = explained(error)
    assert failure is not None
    assert failure.code == code
    assert words in failure.remedy
    assert failure.what


def test_a_defect_of_ours_keeps_its_traceback() -> None:
    """Only what is expected is explained; the rest must not be hidden."""
    assert explained(ZeroDivisionError()) is None
    assert explained(ProgrammingError("s", {}, Exception("syntax error"))) is None


def test_an_error_goes_to_stderr_in_two_lines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What and remedy, no traceback, nothing on stdout."""
    code = ended(["replay", str(tmp_path / "none.csv"), "--map", "ecom", "--data-dir", str(tmp_path)])
    said = capsys.readouterr()
    assert code == USAGE
    assert said.out == ""
    assert [line.split()[0] for line in said.err.strip().splitlines()] == ["error", "do"]
    assert "none.csv" in said.err


@pytest.mark.parametrize("command", [["holds", "list"], ["verify"], ["program", "list"], ["dlq", "list"]])
def test_without_a_ledger_a_command_says_how_to_get_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str]
) -> None:
    """Nothing runs and nothing ran here: the remedy is `pointguard up` or a URL."""
    assert ended([*command, "--data-dir", str(tmp_path / "nothing")]) == UNREACHABLE
    assert "pointguard up" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()


def test_a_wrong_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Typer's own message, exit code 2."""
    assert ended(["holds", "approve", "12"]) == USAGE
    assert "--reason" in capsys.readouterr().err


def test_ctrl_c_ends_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """130, as shells expect."""

    def interrupted(_: str | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.main.build", interrupted)
    assert ended(["verify"]) == INTERRUPTED


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """`pointguard COMMAND --help` works for each."""
    assert ended([command, "--help"]) == 0
    assert len(capsys.readouterr().out) > 200


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The overview has them all, with a line each."""
    assert ended(["--help"]) == 0
    said = capsys.readouterr().out
    assert [command for command in COMMANDS if f" {command} " not in said] == []


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """With what was probably meant."""
    assert ended(["hold"]) == USAGE
    assert "holds" in capsys.readouterr().err


def test_starting_a_command_does_not_load_the_others() -> None:
    """A command's own imports are what its start costs: `holds` has no need of Faust, River or Kafka."""
    code = "import sys; from cli.main import build; build('holds'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert not {"faust", "river", "aiokafka"} & set(loaded.split())


def test_the_commands_are_those_of_the_design() -> None:
    """The list in one place, without repetition."""
    assert len(set(COMMANDS)) == len(COMMANDS)
    assert build("verify").registered_commands[0].name == "verify"
