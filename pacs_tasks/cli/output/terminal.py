"""The text of a command: safe to print, as facts and tables; its streams, and its log.

Results go to stdout, everything else goes to stderr. The log never holds a path, a patient's name or a patient's id.
"""

from __future__ import annotations

import datetime
import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from pacs_tasks.cli.language import translated, widened, words
from pacs_tasks.cli.output.exit_codes import ExitCode
from pacs_tasks.cli.output.sheet import BOM, csv_lines
from pacs_tasks.errors import ConfigurationError, PacsTasksError
from pacs_tasks.journal.logs import JsonLines, LogFormat
from pacs_tasks.privacy import plain, rotate

#: Columns of a table that goes to a pipe or a file. Each row stays one line, so that ``grep`` finds all of it.
_UNLIMITED = 100_000
#: SGR codes of the styles (ECMA-48 section 8.3.117).
_CODES = {"bold": 1, "red": 31, "green": 32, "yellow": 33}

#: The style of each category of an outcome.
STYLES = {"success": "green", "warning": "yellow", "partial": "yellow", "failed": "red", "cancelled": "yellow"}


def readable(text: str) -> str:
    """Replace each byte that could not be decoded by a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def sentence(text: str) -> str:
    """Begin with a capital letter and end with a full stop."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def counted(number: int, one: str, many: str = "") -> str:
    """Write a number with its noun: ``1 query``, ``3 queries``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def size(count: float) -> str:
    """Write a number of bytes in powers of 1000, as disks and networks count."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Write seconds: ``0.04 s``, ``12.3 s``."""
    return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"


def when(seconds: float | None) -> str:
    """Write a Unix time as local date and time; nothing for None."""
    if seconds is None:
        return ""
    return datetime.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


class Cell(NamedTuple):
    """Text with a style: ``red``, ``green``, ``yellow`` or ``bold``."""

    text: str
    style: str = ""


class Fact(NamedTuple):
    """A named value. A fact without a value is not shown."""

    name: str
    value: str
    style: str = ""


class Table:
    """Rows below headings, which are shown in the language of the people who read them.

    Parameters
    ----------
    whole
        Columns whose cells stay on one line. No word of any cell is ever broken: people copy ids from them.
    spare
        Columns that a narrow terminal can do without, the least important first.
    """

    def __init__(self, *headings: str, whole: Collection[int] = (), spare: Sequence[int] = ()) -> None:
        self.headings = tuple(map(translated, headings))
        self.whole = whole
        self.spare = spare
        self.rows: list[tuple[Cell, ...]] = []

    def add(self, *cells: Cell | str) -> None:
        """Add a row. Lines of a cell are lines of the table; text of others has none (see :func:`plain`)."""
        texts = [Cell(cell) if isinstance(cell, str) else cell for cell in cells]
        self.rows.append(tuple(Cell("\n".join(map(plain, each.text.split("\n"))), each.style) for each in texts))


def in_style(text: str, style: str, stream: TextIO) -> str:
    """Give text a style where the stream is a terminal that shows colours."""
    coloured = stream.isatty() and os.environ.get("TERM", "") != "dumb" and not os.environ.get("NO_COLOR")
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if style and coloured else text


def _aligned(facts: Iterable[Fact]) -> str:
    """Draw facts as they are, their values below each other."""
    named = [fact for fact in facts if fact.value]
    width = max((len(widened(fact.name)) for fact in named), default=0)
    return "".join(
        f"{name}{' ' * (width - len(widened(name)))}  {in_style(plain(value), style, sys.stdout)}\n"
        for name, value, style in named
    )


def draw(table: Table) -> str:
    """Draw a table for stdout.

    On a terminal that is too narrow for it, cells are broken between words, then empty and spare columns are left out,
    then each value gets a line of its own.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    output = io.StringIO()
    on_terminal = sys.stdout.isatty()
    console = Console(file=output, force_terminal=on_terminal or None, highlight=False, emoji=False)
    if not on_terminal:
        console.width = _UNLIMITED
    columns, widths = _fitting(table, console.width)
    if not columns:
        return _drawn_singly(table)
    drawn = RichTable(box=SIMPLE_HEAD, pad_edge=False)
    for number, width in zip(columns, widths, strict=True):
        drawn.add_column(table.headings[number], width=width, overflow="fold", no_wrap=number in table.whole)
    for row in table.rows:
        drawn.add_row(*(Text(*row[number]) if number < len(row) else "" for number in columns))
    console.print(drawn)
    # Rich pads each line to the width of the table.
    return "".join(f"{line.rstrip()}\n" for line in output.getvalue().splitlines())


def _fitting(table: Table, width: int) -> tuple[list[int], list[int]]:
    """The columns that fit into a width, with the width of each; none if the others do not fit either."""
    from rich.cells import cell_len

    columns = list(range(len(table.headings)))
    most, least = [0] * len(columns), [0] * len(columns)
    for row in (map(Cell, table.headings), *table.rows):
        for number, cell in enumerate(row):
            lines = cell.text.split("\n")
            parts = lines if number in table.whole else [word for line in lines for word in words(line)]
            most[number] = max(most[number], *map(cell_len, lines))
            least[number] = max(least[number], *map(cell_len, parts))
    empty = [number for number in columns if all(len(row) <= number or not row[number].text for row in table.rows)]
    for spare in (None, *empty, *(each for each in table.spare if each not in empty)):
        if spare is not None:
            columns.remove(spare)
        # Two blanks beside each column, and one between two of them.
        room = width - 3 * len(columns) + 1
        if sum(least[each] for each in columns) <= room:
            widths = {each: most[each] for each in columns}
            while sum(widths.values()) > room:
                widest = max((each for each in columns if widths[each] > least[each]), key=lambda each: widths[each])
                widths[widest] -= 1
            return columns, list(widths.values())
    return [], []


def _drawn_singly(table: Table) -> str:
    """Draw each value of a row in lines of its own, and a blank line between two rows."""
    rows = []
    for row in table.rows:
        facts: list[Fact] = []
        for heading, cell in zip(table.headings, row, strict=False):
            first, *more = cell.text.split("\n")
            facts += [Fact(heading, first, cell.style), *(Fact("", line, cell.style) for line in more)]
        rows.append(_aligned(facts))
    return "\n".join(rows)


def open_streams() -> None:
    """Replace a stdout or stderr that the caller has closed by the null device.

    A file that the command opens later would otherwise get the free descriptor, and the output with it.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))


class Terminal:
    """The two streams of a command.

    Parameters
    ----------
    json
        Stdout gets exactly one JSON document.
    quiet
        Stderr gets errors only.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.quiet = quiet
        #: Whether the matches of a query are written as CSV, or as JSON lines.
        self.csv = self.jsonl = False
        #: Whether that CSV is for a spreadsheet.
        self.excel = False
        self._begun = False
        self._nobody_reads = False

    @property
    def live(self) -> bool:
        """Whether a person sees stderr, so that a progress bar may move there."""
        return not self.quiet and sys.stderr.isatty() and os.environ.get("TERM", "") not in {"dumb", "unknown"}

    def say(self, sentence: str) -> None:
        """Write a sentence to stderr, unless the command is quiet."""
        if not self.quiet:
            self.log(translated(plain(sentence)))

    def complain(self, sentence: str) -> None:
        """Write an error to stderr, also from a quiet command."""
        self.log(in_style(f"{translated('Error:')} {translated(plain(sentence))}", "red", sys.stderr))

    def log(self, text: str) -> None:
        """Write text to stderr as it stands. A command continues when nobody reads its stderr any more."""
        if self._nobody_reads:
            return
        try:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
        except OSError:
            self._nobody_reads = True
            _discard(sys.stderr.fileno())

    def facts(self, facts: Iterable[Fact]) -> None:
        """Write named values to stdout, without rich, which takes as long to import as an echo."""
        shown = (Fact(translated(each.name), translated(plain(each.value)), each.style) for each in facts)
        self.write(_aligned(shown))

    def table(self, table: Table) -> None:
        """Write a table to stdout."""
        self.write(draw(table))

    def line(self, text: str, style: str = "") -> None:
        """Write one line to stdout."""
        self.write(f"{in_style(plain(text), style, sys.stdout)}\n")

    def listing(self, name: str, documents: Iterable[Any], table: Table, none: str) -> int:
        """Write the rows of a table to stdout, or say that there are none; as JSON, ``documents`` go by ``name``."""
        if self.json:
            return self.end({name: list(documents)})
        if table.rows:
            self.table(table)
        else:
            self.say(none)
        return ExitCode.DONE

    def value(self, name: str, text: str) -> int:
        """Write one value to stdout and nothing else, so that a script can use it; in JSON it goes by ``name``."""
        if not self.json:
            self.line(text)
        return self.end({name: text})

    def end(self, content: Mapping[str, Any], code: int = ExitCode.DONE) -> int:
        """Return the exit code of a command, after writing its JSON document if there should be one."""
        if self.json:
            self.document({**content, "exit_code": code})
        return code

    def document(self, content: Mapping[str, Any]) -> None:
        """Write the JSON document to stdout."""
        # A path may hold bytes that are not UTF-8. Written as escapes, they leave the document valid.
        self.json_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", errors="backslashreplace")

    def json_text(self, text: str, errors: str = "surrogateescape") -> None:
        """Write JSON to stdout, where it is a terminal with escapes for characters that steer one."""
        lines = text.split("\n")
        self.write("\n".join(map(plain, lines)) if sys.stdout.isatty() else text, errors)

    def rows(self, rows: Iterable[Iterable[object]]) -> None:
        """Write rows to stdout as CSV."""
        text = csv_lines(rows, on_terminal=sys.stdout.isatty(), excel=self.excel)
        self.write(text if self._begun or not self.excel else f"{BOM}{text}")
        self._begun = True

    def write(self, text: str, errors: str = "surrogateescape") -> None:
        """Write results to stdout, in UTF-8 where it is a file or a pipe, whatever the locale is.

        A reader that closes the pipe (``| head``) does not change the exit code.

        Raises
        ------
        PacsTasksError
            If stdout cannot be written, as on a full disk.
        """
        try:
            if sys.stdout.isatty() or not hasattr(sys.stdout, "buffer"):
                encoding = sys.stdout.encoding or "utf-8"
                sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
            else:
                sys.stdout.flush()
                sys.stdout.buffer.write(text.encode("utf-8", errors))
            sys.stdout.flush()
        except OSError as error:
            _discard(sys.stdout.fileno())
            if not isinstance(error, BrokenPipeError):
                raise PacsTasksError(
                    f"The result cannot be written to stdout ({error.strerror}). Free some space, or redirect the "
                    "output."
                ) from None


def _discard(descriptor: int) -> None:
    """Discard everything that is still written there, also by Python at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


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
        # A traceback quotes what others have written.
        self._write("\n".join(map(plain, self.format(record).split("\n"))))


class CommandLog:
    """Sends the records of one command to its outputs, until :meth:`close`."""

    def __init__(self, level: str, kind: LogFormat = "text") -> None:
        self._level = level
        self._formatter = JsonLines() if kind == "json" else logging.Formatter(FORMAT)
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
            If it cannot be written, or is a path of Windows on another system.
        """
        # The settings have loaded it.
        from pacs_tasks.ae import is_foreign_path

        if is_foreign_path(path):
            raise ConfigurationError(
                "The log file has a path of Windows. Name a file of this machine with --log-file.", path
            )
        rotate(Path(path))
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
        output.setFormatter(self._formatter)
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
