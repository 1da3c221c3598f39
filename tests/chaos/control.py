"""How the suite talks to the processes that play a part in it: a line of JSON each way, over loopback."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable
from typing import Any, Final

#: Seconds for an answer: the process may be one of many on a busy machine.
_LIMIT: Final = 20.0

Command = Callable[[Any], Any]


def serve(port: int, command: Command) -> threading.Thread:
    """Answer what :func:`ask` asks at a port, from a thread of its own."""

    class _Conversation(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            answer = command(json.loads(self.rfile.readline()))
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    class _Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    server = _Server(("127.0.0.1", port), _Conversation)
    thread = threading.Thread(target=server.serve_forever, name="control", daemon=True)
    thread.start()
    return thread


def ask(port: int, question: Any) -> Any:
    """The answer of the process that serves this port."""
    with socket.create_connection(("127.0.0.1", port), timeout=_LIMIT) as sock, sock.makefile("rwb") as lines:
        lines.write(json.dumps(question).encode() + b"\n")
        lines.flush()
        return json.loads(lines.readline())
