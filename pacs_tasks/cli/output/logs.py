"""The log of a command. It never holds a path, a patient's name or a patient's id."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path

from pacs_tasks.errors import ConfigurationError

FORMAT = "%(asctime)s - %(levelname)s - %(message)s"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
#: ``extra`` of a record that the terminal shows as a sentence too. The console does not show it twice.
SHOWN = {"shown": True}

#: The loggers whose records are kept. Debug records of libraries are not: they quote data sets and messages.
_LOGGERS = ("pacs_tasks", "dicom_pacs_transfer")
for _name in _LOGGERS:
    # Python writes records of a logger without any handler to stderr.
    logging.getLogger(_name).addHandler(logging.NullHandler())


class _ConsoleLog(logging.Handler):
    """Writes records to stderr as the terminal writes its sentences, so that a progress bar stays whole."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(record, "shown", False)

    def emit(self, record: logging.LogRecord) -> None:
        self._write(self.format(record))


class CommandLog:
    """Sends the records of one command to its outputs, until :meth:`close`."""

    def __init__(self, level: str) -> None:
        self._level = level
        self._outputs: list[logging.Handler] = []
        self._levels = {name: logging.getLogger(name).level for name in _LOGGERS}
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(level)

    def to_console(self, write: Callable[[str], None]) -> None:
        """Give each record to ``write``."""
        self._add(_ConsoleLog(write))

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
                f"The log file cannot be written ({error.strerror}). Name another one with --log-file.", path
            ) from None

    def close(self) -> None:
        for output in self._outputs:
            for name in _LOGGERS:
                logging.getLogger(name).removeHandler(output)
            output.close()
        self._outputs.clear()
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)

    def _add(self, output: logging.Handler) -> None:
        output.setLevel(self._level)
        output.setFormatter(logging.Formatter(FORMAT))
        self._outputs.append(output)
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(output)


def stack_of(error: BaseException) -> str:
    """The classes, files, lines and code of an unexpected error, without any value.

    The message of a foreign exception may quote a path or an element of a data set. Without it, users can send us the
    log of a failure.
    """
    chain: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        frames = "".join(traceback.format_list(traceback.extract_tb(seen.__traceback__)))
        chain.append(f"{type(seen).__module__}.{type(seen).__qualname__}\n{frames}")
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return "caused by ".join(chain).rstrip()


def place_of(error: BaseException) -> str:
    """The class, file and line of an unexpected error."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"
