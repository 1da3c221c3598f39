"""How a command ends after an error, and what its log contains."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from pacs_tasks.cli.declarations import command
from pacs_tasks.cli.invocation import Invocation, Program
from pacs_tasks.cli.output.terminal import Terminal, stack_of
from pacs_tasks.cli.program import commands, main
from pacs_tasks.errors import PacsTasksError
from tests.support.ports import free_port
from tests.support.processes import ROOT, environment

SECRET = "WANG^XIAOMING"
TRANSFER = Program("dicom_pacs_transfer.py", log_file="dicom_transfer.log", log_to_console=True)


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No settings file of the developer is read, and the Redis is not running."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PACS_TASKS_REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    return tmp_path


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> str:
    """A command with a defect that quotes a patient's name."""

    @command("broken")
    def broken(invocation: Invocation) -> int:
        values = {"PatientName": SECRET}
        return int(values["PatientName"])

    found = commands.get_command
    monkeypatch.setattr(
        type(commands), "get_command", lambda self, ctx, name: broken if name == "broken" else found(ctx, name)
    )
    return "broken"


@pytest.mark.parametrize("argv", [["echo"], ["jobs"], ["status", "x"], ["query"], ["send-file", "--file", "x"]])
def test_a_redis_that_does_not_answer_is_one_sentence_soon(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Within five seconds, with exit code 1."""
    begun = time.monotonic()
    assert main(argv) == 1
    assert time.monotonic() - begun < 5
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("Error: ") == 1
    assert "PACS_TASKS_REDIS_URL" in said.err


def test_json_is_one_document_for_errors_too(capsys: pytest.CaptureFixture[str]) -> None:
    """It names the error and the exit code."""
    assert main(["echo", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["type"] == "BrokerUnavailableError"
    assert document["exit_code"] == 1


def test_an_unexpected_error_is_one_sentence_without_values(
    broken: str, nothing_configured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log has the stack without values: a message of Python may quote a patient's name."""
    assert main([broken, "--log-level", "DEBUG", "--log-file", "own.log"], TRANSFER) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "own.log for details" in said.err.replace("\n", "")
    assert "Traceback" not in said.err
    log = (nothing_configured / "own.log").read_text()
    assert "ValueError" in log
    assert 'return int(values["PatientName"])' in log
    assert SECRET not in log + said.err


def test_without_a_log_file_the_sentence_says_how_to_get_one(broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The program that existing users know always has one."""
    assert main([broken]) == 1
    assert "--log-file FILE" in capsys.readouterr().err


def test_a_stack_names_the_whole_chain_of_errors() -> None:
    """With classes and places, never with messages."""
    try:
        try:
            _ = dict[str, str]()[SECRET]
        except KeyError as cause:
            raise ValueError(SECRET) from cause
    except ValueError as error:
        stack = stack_of(error)
    assert "ValueError" in stack
    assert "caused by builtins.KeyError" in stack
    assert SECRET not in stack


def test_the_log_has_time_level_and_message(nothing_configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the current directory, under the name that users know."""
    assert main(["echo"], TRANSFER) == 1
    line = (nothing_configured / "dicom_transfer.log").read_text().splitlines()[-1]
    assert " - ERROR - " in line
    assert line[:4].isdigit()
    assert capsys.readouterr().err.count("does not answer") == 1


def test_a_directory_that_is_read_only_costs_the_default_log_alone(
    nothing_configured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory with the name of the log replaces it here, since root can write everywhere."""
    (nothing_configured / "dicom_transfer.log").mkdir()
    assert main(["echo"], TRANSFER) == 1
    assert "Continuing without a log file" in capsys.readouterr().err
    assert main(["echo", "--log-file", "dicom_transfer.log"], TRANSFER) == 2


def test_a_command_leaves_no_logging_behind() -> None:
    """A program may call main() more than once."""
    before = [list(logging.getLogger(name).handlers) for name in ("pacs_tasks", "dicom_pacs_transfer")]
    main(["echo", "--log-file", "a.log", "--log-level", "DEBUG"])
    assert before == [list(logging.getLogger(name).handlers) for name in ("pacs_tasks", "dicom_pacs_transfer")]


def test_ctrl_c_before_there_is_a_job_is_exit_code_5(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Click turns it into an abort, which the program handles."""

    @command("interrupted")
    def interrupted(invocation: Invocation) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(commands), "get_command", lambda self, ctx, name: interrupted)
    assert main(["interrupted"]) == 5
    assert "Cancelled before anything was begun" in capsys.readouterr().err


def test_a_reader_that_leaves_does_not_change_the_exit_code() -> None:
    """``pacs-tasks query ... | head`` is not a failure of the query."""
    script = (
        "from pacs_tasks.cli.output.terminal import Terminal\nt = Terminal()\n"
        "for _ in range(9999):\n    t.line('x' * 99)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(30) == 0
    assert said == b""


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
def test_an_answer_that_cannot_be_written_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence gives the reason in each format, and nothing is left to write at exit."""
    for json_wanted in (False, True):
        with FULL.open("w") as full:
            monkeypatch.setattr(sys, "stdout", full)
            terminal = Terminal(json=json_wanted)
            with pytest.raises(PacsTasksError, match=r"cannot be written to stdout \(No space left on device\)"):
                terminal.document({"x": 1}) if json_wanted else terminal.line("x")
            monkeypatch.undo()


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
def test_an_error_that_cannot_be_written_keeps_its_exit_code() -> None:
    """It still goes to stderr."""
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pacs_tasks.cli", "echo", "--nonsense", "--json"],
            env=environment(), cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert "--nonsense" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_stdout_is_no_mistake_of_the_program() -> None:
    """The caller may not need it, and still gets the exit code."""
    command = [sys.executable, "-m", "pacs_tasks.cli", "echo", "--log-level"]
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" >&-', "sh", *command], env=environment(), cwd=ROOT, stderr=subprocess.PIPE, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("argv", [["query", "--patient-name", "\udcd5\udcc5*"], ["send-dir", "--dir", "s\udce9rie"]])
def test_bytes_that_are_no_text_are_told(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Such as a name in GBK where the locale is UTF-8."""
    assert main([*argv, "--json"]) == 2
    said = capsys.readouterr()
    assert "Set LANG" in json.loads(said.out)["error"]["message"]
    assert "unexpected" not in said.err


@pytest.mark.parametrize("argv", [["--format", "json"], ["--format=JSON"]])
def test_a_wrong_query_that_asked_for_json_gets_it(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """``--format json`` is the same as ``--json``, also when it stands beside a mistake."""
    assert main(["query", *argv, "--study-date", "2023"]) == 2
    assert json.loads(capsys.readouterr().out)["exit_code"] == 2


@pytest.mark.parametrize(("value", "documents"), [("1", 1), ("true", 1), ("0", 0), ("false", 0), ("", 0)])
def test_a_wrong_option_is_answered_as_the_environment_asks(
    value: str, documents: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A variable that is false does not count as true."""
    monkeypatch.setenv("PACS_TASKS_JSON", value)
    assert main(["echo", "--nonsense"]) == 2
    assert capsys.readouterr().out.count('"exit_code"') == documents


def _run_python(script: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, since this one has loaded everything."""
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        timeout=60,
        check=True,
    )


def test_the_asking_side_never_loads_pynetdicom() -> None:
    """So commands start quickly and clients stay small."""
    script = (
        "import sys, click, dicom_pacs_transfer\nfrom pacs_tasks.cli.program import commands\n"
        "context = click.Context(commands)\n"
        "[commands.get_command(context, name) for name in commands.list_commands(context)]\n"
        "print([name for name in sys.modules if name.startswith('pynetdicom')])"
    )
    said = _run_python(script)
    assert said.stdout == "[]\n"


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["query", "--help"]])
def test_a_help_loads_click_alone(argv: list[str]) -> None:
    """So it is there at once."""
    heavy = ("asyncio", "celery", "pydantic", "pydicom", "redis", "rich")
    script = (
        "import sys\nfrom pacs_tasks.cli.program import main\n"
        f"main({argv})\nprint([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = _run_python(script)
    assert done.stderr == "[]\n"


def test_a_short_command_loads_neither_rich_nor_pydicom() -> None:
    """What is printed is one line, or a list of facts."""
    script = (
        "import sys\nimport pacs_tasks.cli.program, pacs_tasks.cli.running\n"
        "print([name for name in ('rich', 'pydicom', 'pynetdicom') if name in sys.modules])"
    )
    done = _run_python(script)
    assert done.stdout == "[]\n"


def test_a_short_command_loads_and_reads_nothing_that_it_does_not_need() -> None:
    """Its settings need no metadata of the packages that are installed, and its job no manifest."""
    script = (
        "import importlib.metadata, sys\n"
        "def refuse(**_): raise AssertionError('the metadata of all packages is read')\n"
        "importlib.metadata.distributions = refuse\n"
        "import pacs_tasks.cli.program, pacs_tasks.cli.running\n"
        "from pacs_tasks.cli.interrupt import guarded\n"
        "from pacs_tasks.settings import load\n"
        "guarded(lambda: bool(load()))\n"
        "unneeded = ('difflib', 'pacs_tasks.ledger.manifest', 'pacs_tasks.ledger.receipts')\n"
        "print([name for name in unneeded if name in sys.modules])"
    )
    done = _run_python(script)
    assert done.stdout == "[]\n"


def test_no_argument_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """As wrong usage, on stderr."""
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Exit codes" in said.err
    assert isinstance(commands, click.Group)
