"""Every command with any options: one of the exit codes and a sentence, whatever is typed."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from tempfile import TemporaryDirectory
from typing import Final
from unittest import mock

import click
from hypothesis import strategies as st

from pacs_tasks.cli.output.exit_codes import ExitCode
from pacs_tasks.cli.program import commands, main
from tests.fuzz.values import ARGUMENTS

#: They would run until Ctrl-C; their options are parsed only.
_PROCESSES: Final = {"worker", "receiver", "flower", "serve", "up", "demo"}
#: Options that write a file, in the test's own directory only.
_WRITTEN: Final = {"log_file", "output", "output_dir"}
#: Characters of what a command says at most.
_LONGEST: Final = 100_000


def _below(group: click.Group, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with its names, those of groups too."""
    for name, each in sorted(group.commands.items()):
        if isinstance(each, click.Group):
            yield from _below(each, *names, name)
        else:
            yield (*names, name), each


_COMMANDS: Final = tuple(_below(commands))


@st.composite
def _lines(draw: st.DrawFn) -> list[str]:
    names, known = draw(st.sampled_from(_COMMANDS))
    with click.Context(commands) as parent:
        params = known.get_params(click.Context(known, parent=parent))
    argv = [*names]
    for param in draw(st.lists(st.sampled_from(params), max_size=6)):
        value = draw(_values(param))
        if param.param_type_name == "argument":
            argv.append(value)
            continue
        argv.append(draw(st.sampled_from([*param.opts, *param.secondary_opts])))
        flag = isinstance(param, click.Option) and (param.is_flag or param.count)
        if not flag or draw(st.integers(0, 9)) == 0:
            argv.append(value)
    return argv


def _values(param: click.Parameter) -> st.SearchStrategy[str]:
    if param.name in _WRITTEN:
        return st.sampled_from(["new", "", " ", "a\nb", "张", "new/new"])
    valid = ["1.2.3", "5", "CT", "20230101-", "PatientID=1", "files", "last"]
    if isinstance(param.type, click.Choice):
        valid += [str(choice) for choice in param.type.choices]
    return st.sampled_from(valid) | ARGUMENTS


def check(case: object) -> None:
    """There is no Redis at the address of the settings, so that a valid command ends there."""
    assert isinstance(case, list)
    said, told = io.StringIO(), io.StringIO()
    with (
        TemporaryDirectory() as here,
        chdir(here),
        mock.patch.dict(os.environ, {"PACS_TASKS_REDIS_URL": "redis://127.0.0.1:1/0", "PACS_TASKS_DATA_DIR": here}),
        mock.patch("sys.stdin", io.StringIO("StudyInstanceUID\n1.2\n")),
        redirect_stdout(said),
        redirect_stderr(told),
    ):
        if case[0] in _PROCESSES:
            try:
                commands.commands[case[0]].make_context(case[0], case[1:])
            except (click.ClickException, click.exceptions.Exit):
                return
        else:
            code = main(case)
            assert code in set(ExitCode), code
    whole = said.getvalue() + told.getvalue()
    assert "Traceback" not in whole, whole
    assert "defect" not in whole, whole
    assert len(whole) < _LONGEST


LINES: Final = _lines()
