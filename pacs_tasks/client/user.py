"""Who uses this process, for the audit trail."""

from __future__ import annotations

import contextlib
import os
import socket
import sys


def current_user() -> str:
    """Name the user of this process and the machine, as the system has them."""
    known = (os.environ.get(name) for name in ("LOGNAME", "USER", "USERNAME"))
    return f"{next(filter(None, known), '') or _account()}@{socket.gethostname()}"


def _account() -> str:
    """Name the account of a process that has no environment of a login, such as a service's."""
    if sys.platform != "win32":
        import pwd

        with contextlib.suppress(KeyError):
            return pwd.getpwuid(os.getuid()).pw_name
    return "unknown"
