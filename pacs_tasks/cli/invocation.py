"""What one command line says: which program, which settings, whom to call, and how to talk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from click.core import ParameterSource
from pydantic import ValidationError

from pacs_tasks.ae import TLS, RemoteAE
from pacs_tasks.cli.output.logs import CommandLog
from pacs_tasks.cli.output.terminal import Terminal
from pacs_tasks.errors import ConfigurationError
from pacs_tasks.request import Request
from pacs_tasks.settings import Settings, load

#: Options that are settings too: the command line overrides ``PACS_TASKS_*`` and the settings file.
_SETTINGS = (
    "ip",
    "port",
    "ae_title",
    "pacs_ae_title",
    "timeout",
    "tls",
    "tls_ca",
    "tls_cert",
    "tls_key",
    "tls_server_name",
    "tls_no_hostname_check",
)
#: Fields of a peer that the command line overrides, and its options for them.
_ADDRESS = {"host": "ip", "port": "port", "ae_title": "pacs_ae_title"}
_TLS = {
    "ca_file": "tls_ca",
    "certificate_file": "tls_cert",
    "key_file": "tls_key",
    "server_name": "tls_server_name",
}


@dataclass(frozen=True)
class Program:
    """The name under which the commands were called, and where it logs if nothing else is said."""

    name: str = "pacs-tasks"
    log_file: str | None = None
    log_to_console: bool = False


class Invocation:
    """One command line. It exists before the options are parsed, so that a wrong one is answered as was asked."""

    def __init__(self, program: Program, argv: Sequence[str]) -> None:
        self.program = program
        self.terminal = Terminal(
            json="--json" in argv or _asks_for_json(argv) or _is_on("PACS_TASKS_JSON"),
            quiet="--quiet" in argv or _is_on("PACS_TASKS_QUIET"),
        )
        #: The job that the command is about, once there is one.
        self.job_id = ""
        #: The public task of that job.
        self.task = ""
        self.log: CommandLog | None = None
        self.log_file: str | None = None
        self._settings: Settings | None = None
        self._given: dict[str, Any] = {}
        self._otherwise: dict[str, Any] = {}

    def note(self, name: str, value: Any, source: ParameterSource | None) -> None:
        """Note a shared option: it may stand before and after the command, and the later one wins."""
        (self._given if source is ParameterSource.COMMANDLINE else self._otherwise)[name] = value

    def typed(self, name: str) -> bool:
        """Whether the command line itself has this option."""
        return name in self._given

    def option(self, name: str) -> Any:
        """The value of a shared option: from the command line, else the environment, else its default."""
        return self._given.get(name, self._otherwise.get(name))

    def begin(self) -> None:
        """Open the terminal and the log and read the settings, now that every option is known.

        Raises
        ------
        ConfigurationError
            If a setting is wrong or the log file cannot be written.
        """
        self.terminal = Terminal(json=self.option("json"), quiet=self.option("quiet"))
        self._open_log()
        self._settings = load(**{name: self._given[name] for name in _SETTINGS if name in self._given})

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
        """Who is called: the peer that ``--remote`` names, with what the command line says otherwise about it."""
        name = self.option("remote")
        settings = self.settings
        if not name:
            return settings.default_remote
        return self._overridden(settings.remote(name))

    def _overridden(self, known: RemoteAE) -> RemoteAE:
        """A peer, with what the command line says otherwise about it."""
        typed = {field: self._given[option] for field, option in _ADDRESS.items() if option in self._given}
        return known.model_copy(update={**typed, "tls": self._tls(known.tls)})

    def _tls(self, known: TLS | None) -> TLS | None:
        """The TLS of a peer, with what the command line says otherwise about it."""
        typed = {field: self._given[option] for field, option in _TLS.items() if option in self._given}
        if self._given.get("tls_no_hostname_check"):
            typed["check_hostname"] = False
        if not typed and not self._given.get("tls"):
            return known
        try:
            return TLS.model_validate({**(known.model_dump() if known else {}), **typed})
        except ValidationError as error:
            raise ConfigurationError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None

    def address(self) -> Mapping[str, Any]:
        """The fields that every request has: who calls whom, and how patiently."""
        return {"remote": self.remote, "local": self.settings.local, "timeout": self.settings.timeout}

    def transfer(self) -> Mapping[str, Any]:
        """The fields that every transfer has beside: how long it waits for a PACS that is down."""
        return {**self.address(), "give_up_after": self.option("give_up_after")}

    def address_of(self, other: Request) -> Mapping[str, Any]:
        """The same fields as ``other`` has them, with what the command line itself says otherwise."""
        given, settings = self._given, self.settings
        return {
            "remote": self.remote if given.get("remote") else self._overridden(other.remote),
            "local": settings.local if "ae_title" in given else other.local,
            "timeout": settings.timeout if "timeout" in given else other.timeout,
        }

    def close(self) -> None:
        if self.log is not None:
            self.log.close()

    def _open_log(self) -> None:
        self.log = CommandLog(self.option("log_level"))
        asked_to_see_it = "log_level" in self._given and not self.option("log_file")
        if not self.terminal.quiet and (self.program.log_to_console or asked_to_see_it):
            self.log.to_console(self.terminal.talk)
        self.log_file = self.option("log_file") or self.program.log_file
        if self.log_file is None:
            return
        try:
            self.log.to_file(self.log_file)
        except ConfigurationError as error:
            if self.option("log_file"):
                raise
            # The log that nobody asked for must not stop a transfer from a directory that is read only.
            self.log_file = None
            self.terminal.say(f"Going on without a log file: {error}")


def _asks_for_json(argv: Sequence[str]) -> bool:
    """Whether a query shall print JSON, which is the same as ``--json``."""
    words = [each.lower() for each in argv]
    return "--format=json" in words or ("--format", "json") in pairwise(words)


def _is_on(variable: str) -> bool:
    """What click says of this variable, before click is asked."""
    return os.environ.get(variable, "").strip().lower() in {"1", "true", "t", "yes", "y", "on"}
