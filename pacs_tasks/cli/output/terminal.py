"""The streams of a command: results go to stdout, everything else goes to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pacs_tasks.cli.output.text import Fact, Table, draw, draw_facts, in_style, plain
from pacs_tasks.errors import PacsTasksError


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
        self._nobody_reads = False

    @property
    def live(self) -> bool:
        """Whether a person sees stderr, so that a progress bar may move there."""
        return not self.quiet and sys.stderr.isatty() and os.environ.get("TERM", "") not in {"dumb", "unknown"}

    def say(self, sentence: str) -> None:
        """Write a sentence to stderr, unless the command is quiet."""
        if not self.quiet:
            self.log(plain(sentence))

    def complain(self, sentence: str) -> None:
        """Write an error to stderr, also from a quiet command."""
        self.log(in_style(f"Error: {plain(sentence)}", "red", sys.stderr))

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
        """Write named values to stdout."""
        self.write(draw_facts(facts))

    def table(self, table: Table) -> None:
        """Write a table to stdout."""
        self.write(draw(table))

    def line(self, text: str, style: str = "") -> None:
        """Write one line to stdout."""
        self.write(f"{in_style(text, style, sys.stdout)}\n")

    def document(self, content: Mapping[str, Any]) -> None:
        """Write the JSON document to stdout."""
        # A path may hold bytes that are not UTF-8. Written as escapes, they leave the document valid.
        self.write(json.dumps(content, ensure_ascii=False, indent=2) + "\n", errors="backslashreplace")

    def write(self, text: str, errors: str = "surrogateescape") -> None:
        """Write results to stdout, in UTF-8 where it is a file or a pipe, whatever the locale is.

        A reader that closes the pipe (``| head``) does not change the exit code.

        Raises
        ------
        PacsTasksError
            If stdout cannot be written, as on a full disk.
        """
        with _to_stdout():
            if sys.stdout.isatty() or not hasattr(sys.stdout, "buffer"):
                encoding = sys.stdout.encoding or "utf-8"
                sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
            else:
                sys.stdout.flush()
                sys.stdout.buffer.write(text.encode("utf-8", errors))
            sys.stdout.flush()


@contextmanager
def _to_stdout() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _discard(sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise PacsTasksError(
                f"The result cannot be written to stdout ({error.strerror}). Free some space, or redirect the output."
            ) from None


def _discard(descriptor: int) -> None:
    """Discard everything that is still written there, also by Python at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
