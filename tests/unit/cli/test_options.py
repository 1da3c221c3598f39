"""Every command and option with its spelling, default and environment variable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete

import dicom_pacs_transfer
from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.cli.declarations import SharedOption, SharedOptionsCommand
from pacs_tasks.cli.input.keys import combined
from pacs_tasks.cli.invocation import Invocation, Program
from pacs_tasks.cli.program import commands, main
from pacs_tasks.errors import BrokerUnavailableError, ConfigurationError
from pacs_tasks.request import EchoRequest
from pacs_tasks.settings import load

#: Option -> default, environment twin. People and scripts use these: a change here breaks them.
SHARED = {
    "--ip": ("127.0.0.1", "PACS_TASKS_IP"),
    "--port": (11112, "PACS_TASKS_PORT"),
    "--ae-title": ("PYNETDICOM", "PACS_TASKS_AE_TITLE"),
    "--pacs-ae-title": ("PACS", "PACS_TASKS_PACS_AE_TITLE"),
    "--timeout": (30, "PACS_TASKS_TIMEOUT"),
    "--tls": (False, "PACS_TASKS_TLS"),
    "--tls-ca": (None, "PACS_TASKS_TLS_CA"),
    "--tls-cert": (None, "PACS_TASKS_TLS_CERT"),
    "--tls-key": (None, "PACS_TASKS_TLS_KEY"),
    "--tls-server-name": (None, "PACS_TASKS_TLS_SERVER_NAME"),
    "--tls-no-hostname-check": (False, "PACS_TASKS_TLS_NO_HOSTNAME_CHECK"),
    "--remote": (None, "PACS_TASKS_REMOTE"),
    "--detach": (False, "PACS_TASKS_DETACH"),
    "--json": (False, "PACS_TASKS_JSON"),
    "--quiet": (False, "PACS_TASKS_QUIET"),
    "--log-level": ("INFO", "PACS_TASKS_LOG_LEVEL"),
    "--log-file": (None, "PACS_TASKS_LOG_FILE"),
}
REQUIRED = object()
#: What becomes of damaged files, and of those in a transfer syntax that the remote refuses.
DAMAGED = {"--send-damaged": False, "--repair": False, "--transcode": "uncompressed"}
TRANSFER = {"--give-up-after": None, "--key": None, "--priority": "normal"}
OWN: dict[str, dict[str, Any]] = {
    "echo": {},
    "send": {"paths": REQUIRED, "--files-per-task": None, "--dry-run": False, **DAMAGED, **TRANSFER},
    "send-file": {"--file": REQUIRED, **DAMAGED, **TRANSFER},
    "send-dir": {"--dir": REQUIRED, "--files-per-task": None, "--dry-run": False, **DAMAGED, **TRANSFER},
    "query": {
        "--excel": False,
        "--patient-id": None,
        "--patient-name": None,
        "--study-date": None,
        "--accession-number": None,
        "--modality": None,
        "--study-uid": None,
        "--level": "STUDY",
        "--root": None,
        "--worklist": False,
        "-k": None,
        "--charset": None,
        "--limit": None,
        "--split-dates": False,
        "--strict": False,
        "--batch": None,
        "--format": "table",
        **TRANSFER,
    },
    "retrieve": {
        "--study-uid": None,
        "--output-dir": None,
        "--to-remote": None,
        "--series-uid": None,
        "--sop-instance-uid": None,
        "--accession-number": None,
        "--patient-id": None,
        "--batch": None,
        "--method": "auto",
        "--layout": None,
        "--root": None,
        "--overwrite": False,
        **TRANSFER,
    },
    "jobs": {"--limit": 50},
    "status": {"job_id": None},
    "wait": {"job_id": REQUIRED, "--for": None},
    "cancel": {"job_id": REQUIRED},
    "retry": {"job_id": REQUIRED},
    "resume": {"job_id": REQUIRED},
    "verify": {"job_id": REQUIRED, "--commit": False, "--commit-timeout": None, "--root": None},
    "report": {"job_id": REQUIRED, "--format": "jsonl", "--excel": False, "--output": None},
    "purge": {"job_ids": None, "--older-than": None},
    "worker": {},
    "receiver": {},
    "flower": {},
    "serve": {},
    "token": {"action": REQUIRED, "name": None, "--scope": None},
    "up": {},
    "demo": {},
    "config": {"action": REQUIRED},
    "schema": {"name": None},
    "webhooks": {"action": REQUIRED, "delivery_id": None},
    "dead-letters": {"letter_id": None, "--content": False, "--delete": False, "--enqueue": False},
}
GIVEN_IN = click.Context(commands)


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No settings file and no variable of the developer is read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def _command(name: str) -> SharedOptionsCommand:
    found = commands.get_command(GIVEN_IN, name)
    assert isinstance(found, SharedOptionsCommand)
    return found


def _parsed(*argv: str) -> Invocation:
    """Parse a command line without running its command."""
    invocation = Invocation(Program(), argv)
    with commands.make_context("pacs-tasks", list(argv), obj=invocation) as group:
        name, command, rest = commands.resolve_command(group, [*group._protected_args, *group.args])
        assert command is not None
        with command.make_context(name, rest, parent=group):
            invocation.begin()
    invocation.close()
    return invocation


@pytest.mark.parametrize("name", OWN)
def test_each_command_has_its_options_with_their_defaults(name: str) -> None:
    """Beside those that all commands share."""
    own = {
        param.opts[0]: REQUIRED if param.required else param.get_default(GIVEN_IN, call=False)
        for param in _command(name).params
        if not isinstance(param, SharedOption)
    }
    assert {name: None if str(value) == "Sentinel.UNSET" else value for name, value in own.items()} == OWN[name]


@pytest.mark.parametrize("name", [*OWN, ""])
def test_each_command_and_the_program_itself_take_the_shared_options(name: str) -> None:
    """With their defaults and environment variables. The empty name is the program."""
    params = (_command(name) if name else commands).params
    shared = {
        param.opts[0]: (param.to_info_dict()["default"], param.envvar)
        for param in params
        if isinstance(param, SharedOption)
    }
    shared = {name: (None if str(value) == "Sentinel.UNSET" else value, twin) for name, (value, twin) in shared.items()}
    assert shared == SHARED


def test_the_defaults_are_those_of_the_settings() -> None:
    """They stand in both places, since the settings are too slow to import for a help."""
    settings = load()
    for name in ("ip", "port", "ae_title", "pacs_ae_title", "timeout", "tls"):
        assert SHARED[f"--{name.replace('_', '-')}"][0] == getattr(settings, name), name


def test_no_command_is_forgotten_here() -> None:
    """The table above has them all."""
    assert set(commands.commands) == set(OWN)


@pytest.mark.parametrize("name", OWN)
def test_each_help_shows_an_example_and_every_environment_twin(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own options first. One line names shared ones, and --help-all explains them. Both end with 0."""
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert main([name, "--help-all"]) == 0
    said = "".join(capsys.readouterr().out.split())
    without = _command(name).without
    assert "pacs-tasks" + name in said.partition("Example")[2]
    own, _, shared = shown.partition("Shared options (--help-all): ")
    named = shared.partition("\n")[0].removesuffix(", ...").split(", ")
    offered = [option for option in SHARED if option.removeprefix("--").replace("-", "_") not in without]
    assert named == offered[: len(named)]
    for option, (_, twin) in SHARED.items():
        assert (twin in said) == (option in offered)
        assert f"  {option} " not in own


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("argv", [["-h"], ["query", "-h"], ["report", "-h"]])
def test_a_help_fits_and_names_the_shared_options_on_one_line(
    argv: list[str], columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An example that is too long goes on after a backslash, as a shell reads it."""
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    shared = lines.index(next(line for line in lines if line.startswith("Shared options (--help-all): --")))
    assert not lines[shared - 1]
    assert not lines[shared + 1]


def test_a_path_without_its_option_is_told_of_send(capsys: pytest.CaptureFixture[str]) -> None:
    """As a shell leaves it of ``--file *.dcm``."""
    for name, option in (("send-file", "--file"), ("send-dir", "--dir")):
        assert main([name, option, "a", "b"]) == 2
        said = capsys.readouterr().err
        assert f"'b' is not the value of an option. Write {option} before each path" in said
        assert "`pacs-tasks send`" in said


def test_an_option_stands_before_or_after_the_command_and_the_later_one_wins() -> None:
    """Also between a spelling before and one after it."""
    assert _parsed("--port", "104", "echo").remote.port == 104
    assert _parsed("echo", "--port", "104").remote.port == 104
    assert _parsed("--port", "104", "echo", "--port", "105").remote.port == 105
    assert _parsed("echo", "--port", "104", "--port", "105").remote.port == 105


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the option stands."""
    monkeypatch.setenv("PACS_TASKS_PORT", "104")
    monkeypatch.setenv("PACS_TASKS_TIMEOUT", "7")
    assert _parsed("echo").remote.port == 104
    assert _parsed("--port", "105", "echo").remote.port == 105
    assert _parsed("echo").address()["timeout"] == 7


def test_a_remote_has_a_name_and_what_is_typed_beside_it_overrides_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment does not: it holds where no remote is named."""
    (tmp_path / "pacs-tasks.toml").write_text(
        '[remotes.archive]\nae_title = "ARCHIVE"\nhost = "10.0.0.1"\nport = 104\ncharset = "GB18030"\n'
    )
    monkeypatch.setenv("PACS_TASKS_IP", "10.9.9.9")
    archive = RemoteAE(ae_title="ARCHIVE", host="10.0.0.1", port=104, charset="GB18030")
    assert _parsed("echo", "--remote", "archive").remote == archive
    assert _parsed("echo", "--remote", "archive", "--port", "105").remote == archive.model_copy(update={"port": 105})
    assert _parsed("echo").remote.host == "10.9.9.9"
    with pytest.raises(ConfigurationError, match="known: archive"):
        _ = _parsed("echo", "--remote", "other").remote


def test_a_request_about_a_job_is_like_that_job_but_for_what_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment holds where nothing is known; here everything is."""
    (tmp_path / "pacs-tasks.toml").write_text('[remotes.archive]\nhost = "10.0.0.1"\nport = 104\n')
    monkeypatch.setenv("PACS_TASKS_IP", "10.9.9.9")
    monkeypatch.setenv("PACS_TASKS_AE_TITLE", "OTHER")
    remote = RemoteAE(ae_title="MY_PACS", host="10.0.0.7", port=4242, charset="GB18030")
    job = EchoRequest(remote=remote, local=LocalAE(ae_title="MY_APP"), timeout=7)
    assert _parsed("verify", "j").address_of(job) == {
        "remote": remote,
        "local": LocalAE(ae_title="MY_APP"),
        "timeout": 7,
    }
    typed = _parsed("verify", "j", "--port", "105", "--ae-title", "ME", "--timeout", "2").address_of(job)
    assert typed == {
        "remote": remote.model_copy(update={"port": 105}),
        "local": LocalAE(ae_title="ME"),
        "timeout": 2,
    }
    assert _parsed("verify", "j", "--remote", "archive").address_of(job)["remote"] == RemoteAE(
        host="10.0.0.1", port=104
    )


def test_who_calls_is_part_of_every_request() -> None:
    """So a worker needs no settings for it."""
    assert _parsed("echo", "--ae-title", "MY_APP", "--timeout", "2.5").address() == {
        "remote": RemoteAE(),
        "local": LocalAE(ae_title="MY_APP"),
        "timeout": 2.5,
        "priority": "normal",
    }


@pytest.mark.parametrize("command", [["send-file", "--file", "a"], ["send-dir", "--dir", "."], ["send", "."], ["query"],
                                     ["retrieve"]], ids=lambda each: each[0])  # fmt: skip
def test_a_transfer_has_a_priority(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The option overrides the environment."""
    assert _parsed(*command).transfer()["priority"] == "normal"
    monkeypatch.setenv("PACS_TASKS_PRIORITY", "bulk")
    assert _parsed(*command).transfer()["priority"] == "bulk"
    assert _parsed(*command, "--priority", "STAT").transfer()["priority"] == "stat"


TWICE = [
    (["retrieve", "--study-uid", "1.2.3", "--output-dir", "x"], ["--study-uid", "1.2.4"], "--batch for several"),
    (["retrieve", "--output-dir", "x"], ["--output-dir=y"], "Write it once."),
    (["query", "--modality", "CT"], ["--modality", "MR"], "--batch for several"),
    (["query", "--patient-id", "P1"], ["--patient-id", "P2"], "--batch for several"),
    (["query", "--batch", "a.csv"], ["--batch", "b.csv"], "Write it once."),
    (["query", "-k", "PatientID=P1"], ["-k", "PatientID=P2"], "--batch for several"),
    (["query", "-k", "PatientID=P1"], ["-k", "00100020=P2"], "--batch for several"),
    (["query", "--patient-id", "P1"], ["-k", "PatientID=P2"], "--batch for several"),
    (["send", ".", "--key", "a"], ["--key", "b"], "Write it once."),
]


@pytest.mark.parametrize(("argv", "again", "what_next"), TWICE, ids="".join)
def test_an_option_with_one_value_is_refused_twice(
    argv: list[str], again: list[str], what_next: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its first value would be dropped, and half of what was named would be done."""
    assert main([*argv, *again]) == 2
    said = capsys.readouterr().err
    assert " is there more than once" in said or " is there with two values" in said
    assert what_next in said


def test_a_key_that_is_matched_may_be_requested_too() -> None:
    """In either order, by its keyword or its tag."""
    keys = combined({"PatientID": "P1"}, [("00100020", ""), ("Modality", ""), ("Modality", "ct"), ("Modality", "CT")])
    assert keys == {"PatientID": "P1", "Modality": "CT"}


def test_flags_repeated_options_and_connection_options_may_be_there_twice() -> None:
    """The later address overrides the earlier, as a script adds it to those of an alias."""
    _parsed("query", "--strict", "--strict", "--study-uid", "1.2", "--study-uid", "1.3", "-k", "Modality", "-k", "Rows")
    assert _parsed("query", "--ip", "a", "--limit", "3", "--ip", "b").remote.host == "b"


def test_the_old_script_takes_the_later_value(capsys: pytest.CaptureFixture[str]) -> None:
    """As its argparse did."""
    assert dicom_pacs_transfer.main(["query", "--study-date", "20231301", "--study-date", "no date"]) == 2
    assert "'no date'" in capsys.readouterr().err


#: Everything that commands take no notice of, as people may type it.
WITHOUT_EFFECT = [
    ["jobs", "--ip", "10.0.0.1"],
    ["--port", "104", "status"],
    ["status", "1f38", "--detach"],
    ["wait", "1f38", "--tls"],
    ["cancel", "1f38", "--remote", "archive"],
    ["retry", "1f38", "--pacs-ae-title", "OTHER"],
    ["--ip", "10.0.0.1", "resume", "1f38"],
    ["report", "1f38", "--timeout", "3"],
    ["verify", "1f38", "--commit-timeout", "3"],
    ["send", ".", "--dry-run", "--files-per-task", "3"],
    ["send-dir", "--dir", ".", "--dry-run", "--give-up-after", "3"],
    ["send", ".", "--dry-run", "--priority", "stat"],
    ["query", "--give-up-after", "3"],
    ["query", "--json", "--format", "csv"],
    ["worker", "--detach"],
    ["up", "--remote", "archive"],
    ["demo", "--ip", "10.0.0.1"],
]


@pytest.mark.parametrize("argv", WITHOUT_EFFECT, ids=" ".join)
def test_an_option_without_effect_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is done. Somebody relies on it."""
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert " has no effect " in said
    assert any(f"Error: {each} " in said for each in argv)


@pytest.mark.parametrize(
    ("argv", "what_next"),
    [
        (["--worklist", "--level", "SERIES"], "Leave out --level or --worklist."),
        (["--level", "PATIENT", "--root", "study"], "Query at another --level or --root."),
        (["--level", "PATIENT", "--split-dates", "--study-date", "-7d"], "Leave out --split-dates or --level."),
    ],
)
def test_levels_that_no_query_has_are_refused_by_the_names_of_the_options(
    argv: list[str], what_next: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not by those of the fields of a request."""
    assert main(["query", *argv]) == 2
    assert capsys.readouterr().err.endswith(f"{what_next}\n")


def test_a_variable_without_effect_is_none_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there for the other commands."""
    monkeypatch.setenv("PACS_TASKS_IP", "10.0.0.1")
    monkeypatch.setenv("PACS_TASKS_DETACH", "1")
    monkeypatch.setattr("pacs_tasks.client.PacsClient.__init__", _no_redis)
    assert main(["jobs"]) == 1


def _no_redis(*_: object, **__: object) -> None:
    raise BrokerUnavailableError("There is no Redis.")


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["snd-dir"], "'send-dir'"),
        (["store", "x"], "'send'"),
        (["findscu"], "'query'"),
        (["download"], "'retrieve'"),
        (["pacs-tasks.toml"], "'send'"),
        (["query", "--patientid", "1"], "'--patient-id'"),
        (["query", "--name", "X"], "'--patient-name'"),
        (["echo", "--host", "x"], "'--ip'"),
        (["echo", "-aec", "X"], "'--pacs-ae-title'"),
        (["retrieve", "-od", "x"], "'--output-dir'"),
        (["retry", "last", "--qiet"], "'--quiet'"),
    ],
)
def test_what_was_meant_is_suggested(
    argv: list[str], meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also to those who know other programs; a path that exists was to be sent."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pacs-tasks.toml").touch()
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert "Did you mean" in said
    assert meant in said


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["retry", "last", "--key", "k"], "No such option '--key'."),
        (["jobs", "--host", "x"], "No such option '--host'."),
        (["send", "--file", "x"], "`pacs-tasks send PATH`"),
        (["send", "--dir=x"], "`pacs-tasks send PATH`"),
    ],
)
def test_no_option_is_suggested_that_is_refused(argv: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A command refuses the options of the connection where it has none."""
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert told in said
    assert not {"--tls-key", "--ip", "--files-per-task"} & set(said.replace("'", " ").split())


def test_shell_completion_offers_commands_and_options() -> None:
    """It parses half a line without an invocation."""
    complete = ShellComplete(commands, {}, "pacs-tasks", "_PACS_TASKS_COMPLETE")
    assert {item.value for item in complete.get_completions([], "send")} == {"send", "send-dir", "send-file"}
    assert "--pacs-ae-title" in {item.value for item in complete.get_completions(["--port", "104", "echo"], "--pacs")}
