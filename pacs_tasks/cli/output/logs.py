"""The log of a command: time, level, message; never a path, a patient's name or a patient's id.

A record that the terminal shows as a sentence of its own carries ``extra=SAID``: the log file has it too, the console
does not show it twice.
"""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.text import Text

from pacs_tasks.errors import ConfigurationError

FORMAT = "%(asctime)s - %(levelname)s - %(message)s"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
SAID = {"said": True}

#: Whose records are kept. Libraries are left out: their debug records quote data sets and messages.
_LOGGERS = ("pacs_tasks", "dicom_pacs_transfer")
for _name in _LOGGERS:
    # Without it, Python writes a record that nobody asked for to stderr.
    logging.getLogger(_name).addHandler(logging.NullHandler())


class _ConsoleLog(logging.Handler):
    """Writes through the console that also draws the progress bar, so that neither breaks the other."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(record, "said", False)

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(Text(self.format(record)))


class CommandLog:
    """Where the records of one command go, until :meth:`close`."""

    def __init__(self, level: str) -> None:
        self._level = level
        self._outputs: list[logging.Handler] = []
        self._levels = {name: logging.getLogger(name).level for name in _LOGGERS}
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(level)

    def to_console(self, console: Console) -> None:
        self._add(_ConsoleLog(console))

    def to_file(self, path: str) -> None:
        """Append to ``path``.

        Raises
        ------
        ConfigurationError
            If it cannot be written.
        """
        try:
            self._add(logging.FileHandler(Path(path).absolute(), encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            raise ConfigurationError(
                f"the log file cannot be written ({error.strerror}); name another one with --log-file", path
            ) from None

    def close(self) -> None:
        for output in self._outputs:
            for name in _LOGGERS:
                logging.getLogger(name).removeHandler(output)
            output.close()
        self._outputs.clear()
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _add(self, output: logging.Handler) -> None:
        output.setLevel(self._level)
        output.setFormatter(logging.Formatter(FORMAT))
        self._outputs.append(output)
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(output)


def stack_of(error: BaseException) -> str:
    """Where an unexpected error came from: its classes, files, lines and code, without any value.

    The message of a foreign exception may quote a path or an element of a data set, so it is left out: the log of a
    failure can then be passed on to whoever mends it.
    """
    chain: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        frames = "".join(traceback.format_list(traceback.extract_tb(seen.__traceback__)))
        chain.append(f"{type(seen).__module__}.{type(seen).__qualname__}\n{frames}")
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return "caused by ".join(chain).rstrip()


def place_of(error: BaseException) -> str:
    """Class, file and line of an unexpected error in one word or two."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"
