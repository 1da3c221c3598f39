"""Where a command's words go: stdout is data, stderr is talk."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pacs_tasks.errors import PacsTasksError

#: A pipe has no width: a row stays one line, so that ``grep`` finds all of it. No path is so long.
_UNLIMITED = 100_000


def plain(text: str) -> str:
    """``text`` without control characters: a peer's words must not steer the terminal that shows them."""
    return "".join(" " if unicodedata.category(character) == "Cc" else character for character in text)


def readable(text: str) -> str:
    """``text`` with a question mark for each byte that was no character when we got it."""
    return text.encode("utf-8", "replace").decode("utf-8")


def open_streams() -> None:
    """Give a command that was started with a closed stdout or stderr one to write to, so that only its words are lost.

    A file that it opens later would take the free descriptor, and get them.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - open to the end


class _Talk(Console):
    """Stderr. Nobody reading it any more is no reason to end a command."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _discard(sys.stderr.fileno())


class Terminal:
    """The two streams of a command.

    ``json`` says that stdout carries exactly one JSON document; ``quiet`` says that stderr carries errors only.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.quiet = quiet
        #: Whether matches of a query go out as CSV, or as JSON lines.
        self.csv = self.jsonl = False
        self._unlimited = Console(file=sys.stdout, highlight=False, width=_UNLIMITED, emoji=False)
        self._out = Console(file=sys.stdout, highlight=False, emoji=False) if sys.stdout.isatty() else self._unlimited
        self.talk = _Talk(stderr=True, highlight=False, emoji=False, soft_wrap=True)

    @property
    def live(self) -> bool:
        """Whether somebody looks at stderr, so that a bar may move there."""
        return self.talk.is_terminal and not self.talk.is_dumb_terminal and not self.quiet

    def say(self, sentence: str) -> None:
        """Talk, unless it shall be quiet."""
        if not self.quiet:
            self._talk(sentence)

    def complain(self, sentence: str) -> None:
        """Say what went wrong, which even a quiet command does."""
        self._talk(f"Error: {sentence}", style="red")

    def show(self, table: RenderableType) -> None:
        """Put a table on stdout."""
        console = self._out if self._fits(table) else self._unlimited
        # Rich touches stdout at the end of a capture, if only with nothing.
        with _to_stdout(), console.capture() as capture:
            console.print(table)
        # Tables are padded to their width; at the end of a line nobody needs that.
        self.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))

    def _fits(self, table: RenderableType) -> bool:
        """Whether the ids in a table have room in one piece.

        Where they have not, each row is one line, which the terminal breaks: whoever selects the id gets all of it.
        """
        if not isinstance(table, Table) or not any(column.no_wrap for column in table.columns):
            return True
        return Measurement.get(self._unlimited, self._unlimited.options, table).minimum <= self._out.width

    def line(self, text: str) -> None:
        """Put one line on stdout."""
        self.write(f"{text}\n")

    def document(self, content: Mapping[str, Any]) -> None:
        """Put the JSON document on stdout."""
        # A path may hold bytes that are no UTF-8; written as an escape, the document stays valid JSON.
        self.write(json.dumps(content, ensure_ascii=False, indent=2) + "\n", errors="backslashreplace")

    def write(self, text: str, errors: str = "surrogateescape") -> None:
        """Write data to stdout, in UTF-8 where it goes to a file or a pipe whatever the locale says.

        A reader that left (``| head``) is no failure: the exit code goes on telling about the job.

        Raises
        ------
        PacsTasksError
            If it cannot be written, as on a full disk.
        """
        with _to_stdout():
            if sys.stdout.isatty() or not hasattr(sys.stdout, "buffer"):
                encoding = sys.stdout.encoding or "utf-8"
                sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
            else:
                sys.stdout.flush()
                sys.stdout.buffer.write(text.encode("utf-8", errors))
            sys.stdout.flush()

    def _talk(self, sentence: str, style: str = "") -> None:
        self.talk.print(Text(plain(sentence), style=style))


@contextmanager
def _to_stdout() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _discard(sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise PacsTasksError(
                f"the answer cannot be written to stdout ({error.strerror}); make room, or let it go elsewhere"
            ) from None


def _discard(descriptor: int) -> None:
    """Let all that is still written there vanish, also what Python flushes at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
