"""One command line: its options, the settings and the address of the remote."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from click.core import ParameterSource

from pacs_tasks.cli.language import choose
from pacs_tasks.cli.output.terminal import SHOWN, CommandLog, Terminal
from pacs_tasks.errors import ConfigurationError
from pacs_tasks.privacy import keep_private

if TYPE_CHECKING:
    from pacs_tasks.ae import TLS, RemoteAE
    from pacs_tasks.request import Request
    from pacs_tasks.settings import Settings

logger = logging.getLogger("pacs_tasks.cli")

#: Fields of a remote, with the options that override them.
_ADDRESS = {"host": "ip", "port": "port", "ae_title": "pacs_ae_title"}
_TLS = {
    "ca_file": "tls_ca",
    "certificate_file": "tls_cert",
    "key_file": "tls_key",
    "server_name": "tls_server_name",
}
#: Options that are settings too. The command line overrides ``PACS_TASKS_*`` and the settings file.
SETTING_OPTIONS = (*_ADDRESS.values(), *_TLS.values(), "ae_title", "timeout", "tls", "tls_no_hostname_check")


@dataclass(frozen=True)
class Program:
    """The name of the program, where it logs by default, and how long its help is."""

    name: str = "pacs-tasks"
    log_file: str | None = None
    log_to_console: bool = False
    #: Whether ``--help`` explains the options of all commands too.
    full_help: bool = False
    #: Whether an option with one value may be there twice: the later one wins.
    later_wins: bool = False


class Invocation:
    """One command line. It exists before the options are parsed, so that a wrong option gets the requested output."""

    def __init__(self, program: Program, argv: Sequence[str]) -> None:
        self.program = program
        self.terminal = Terminal(
            json="--json" in argv or _requests_json(argv) or _is_on("PACS_TASKS_JSON"),
            quiet="--quiet" in argv or _is_on("PACS_TASKS_QUIET"),
        )
        #: The job of the command and its public task, once there is one.
        self.job_id = ""
        self.task = ""
        self.log: CommandLog | None = None
        self.log_file: str | None = None
        self._settings: Settings | None = None
        self._typed: dict[str, Any] = {}
        self._other: dict[str, Any] = {}

    def note(self, name: str, value: Any, source: ParameterSource | None) -> None:
        """Note a shared option. It may stand before and after the command; the later one overrides the earlier."""
        (self._typed if source is ParameterSource.COMMANDLINE else self._other)[name] = value

    def typed(self, name: str) -> bool:
        """Whether the command line has this option."""
        return name in self._typed

    def option(self, name: str) -> Any:
        """The value of a shared option, from the command line, the environment or its default."""
        return self._typed.get(name, self._other.get(name))

    def begin(self) -> None:
        """Open the terminal and the log and read the settings, once every option is known.

        Raises
        ------
        ConfigurationError
            If a setting is wrong or the log file cannot be written.
        """
        from pacs_tasks.settings import load, remark_on_variables

        self.terminal = Terminal(json=self.option("json"), quiet=self.option("quiet"))
        try:
            self._settings = load(**{name: self._typed[name] for name in SETTING_OPTIONS if name in self._typed})
            keep_private(self._settings.group_access)
        finally:
            self._open_log()
        if self._settings.language:
            choose(self._settings.language)
        if remark := remark_on_variables():
            logger.warning("%s", remark, extra=SHOWN)
            self.terminal.say(remark)

    @property
    def settings(self) -> Settings:
        if self._settings is None:
            raise RuntimeError("the options are not parsed yet")
        return self._settings

    @property
    def detach(self) -> bool:
        return bool(self.option("detach"))

    @property
    def remote(self) -> RemoteAE:
        """The remote that ``--remote`` names, with the address and TLS options of the command line."""
        name = self.option("remote")
        return self._overridden(self.settings.remote(name)) if name else self.settings.default_remote

    def _overridden(self, known: RemoteAE) -> RemoteAE:
        typed = {field: self._typed[option] for field, option in _ADDRESS.items() if option in self._typed}
        return known.model_copy(update={**typed, "tls": self._tls(known.tls)})

    def _tls(self, known: TLS | None) -> TLS | None:
        """The TLS of a remote, with the TLS options of the command line."""
        typed = {field: self._typed[option] for field, option in _TLS.items() if option in self._typed}
        if self._typed.get("tls_no_hostname_check"):
            typed["check_hostname"] = False
        if not typed and not self._typed.get("tls"):
            return known
        from pydantic import ValidationError

        from pacs_tasks.ae import TLS

        try:
            return TLS.model_validate({**(known.model_dump() if known else {}), **typed})
        except ValidationError as error:
            raise ConfigurationError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None

    def address(self) -> Mapping[str, Any]:
        """The fields of every request: both AEs, the timeout and the priority."""
        priority = self.option("priority") or "normal"
        return {
            "remote": self.remote,
            "local": self.settings.local,
            "timeout": self.settings.timeout,
            "priority": priority,
        }

    def transfer(self) -> Mapping[str, Any]:
        """The fields of every transfer: those of every request, and how long it waits for a PACS that is down."""
        return {**self.address(), "give_up_after": self.option("give_up_after")}

    def address_of(self, other: Request) -> Mapping[str, Any]:
        """The fields of ``other`` that every request has, with the options of the command line."""
        typed, settings = self._typed, self.settings
        return {
            "remote": self.remote if typed.get("remote") else self._overridden(other.remote),
            "local": settings.local if "ae_title" in typed else other.local,
            "timeout": settings.timeout if "timeout" in typed else other.timeout,
        }

    def close(self) -> None:
        if self.log is not None:
            self.log.close()

    def _open_log(self) -> None:
        self.log = CommandLog(self.option("log_level"), "text" if self._settings is None else self._settings.log_format)
        named = self.option("log_file")
        if not self.terminal.quiet and (self.program.log_to_console or (self.typed("log_level") and not named)):
            self.log.to_console(self.terminal.log)
        self.log_file = named or self.program.log_file
        if self.log_file is None:
            return
        try:
            self.log.to_file(self.log_file)
        except ConfigurationError as error:
            if named:
                raise
            # A log that nobody requested must not stop a transfer from a read-only directory.
            self.log_file = None
            self.terminal.say(f"Continuing without a log file. {error}")


def _requests_json(argv: Sequence[str]) -> bool:
    """Whether a query has ``--format json``, which is the same as ``--json``."""
    words = [each.lower() for each in argv]
    return "--format=json" in words or ("--format", "json") in pairwise(words)


def _is_on(variable: str) -> bool:
    """Whether click will read a flag from this variable as true."""
    return os.environ.get(variable, "").strip().lower() in {"1", "true", "t", "yes", "y", "on"}
