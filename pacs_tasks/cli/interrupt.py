"""The first and the last moments of a command.

A ``KeyboardInterrupt`` amid an import may be lost there or end in a traceback. Before there is a job, nothing has to be
ended, so the process leaves at once.
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from pacs_tasks.dimse.files import hide_decoders

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_MESSAGE = b"Error: Cancelled before anything was begun.\n"
#: As :class:`~pacs_tasks.cli.output.exit_codes.ExitCode`, which is not imported yet.
CANCELLED = 5
#: Seconds after which a Ctrl-C that was lost comes again.
_SOON = 0.01


def guarded(command: Callable[[], int]) -> int:
    """Run the one command of this process and return its exit code. Ctrl-C never ends in a traceback."""
    hide_decoders()
    # pydantic would read the metadata of every package that is installed, to look for plugins.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # A process that was started to ignore Ctrl-C goes on to do so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _on_interrupt)
        sys.unraisablehook = _on_unraisable
    try:
        code = command()
    except KeyboardInterrupt:
        code = CANCELLED
    # The command has ended. Python's own end would answer Ctrl-C with a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


def leave(code: int) -> NoReturn:
    """End this process with an exit code, without the 50 to 150 ms in which Python takes its modules apart."""
    if any(not each.daemon for each in threading.enumerate() if each is not threading.main_thread()):
        # Python waits for such a thread.
        sys.exit(code)
    # What Python does at its end, in its order.
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        # There is no such stream, or it cannot be written to: Python knows the exit code for each case.
        sys.exit(code)
    os._exit(code)


def expect_job() -> None:
    """Raise ``KeyboardInterrupt`` amid an import too from now on, since there will be a job to cancel."""
    if signal.getsignal(signal.SIGINT) is _on_interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _on_interrupt(_number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, _MESSAGE)
            os._exit(CANCELLED)
        frame = frame.f_back
    raise KeyboardInterrupt


def _on_unraisable(lost: UnraisableHookArgs) -> None:
    """Let Ctrl-C come again that code in C, which cannot raise at that moment, has lost."""
    if isinstance(lost.exc_value, KeyboardInterrupt):
        threading.Timer(_SOON, _interrupt_again).start()
    else:
        sys.__unraisablehook__(lost)


def _interrupt_again() -> None:
    if sys.platform == "win32":
        _thread.interrupt_main()
    else:
        # A signal also ends a wait in the system.
        os.kill(os.getpid(), signal.SIGINT)
