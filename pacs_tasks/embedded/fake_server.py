"""``python -m pacs_tasks.embedded.fake_server``: fakeredis as the private server, where Valkey has no wheel.

fakeredis is a Redis in Python. Its own ``TcpFakeServer`` closes a connection after each error reply, cuts long replies
off, enforces no password, and on Windows delivers no message to a subscriber that is silent. So the sockets are ours:
one thread a connection reads requests, another one writes replies. Parsing, commands and Lua are fakeredis's.

It keeps nothing on disk either. A second after a change, and at the end, this server writes all keys to one file, and
it reads that file at its start: jobs survive as they do with Valkey's append-only file.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import os
import pickle
import socket
import socketserver
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import redis
from fakeredis import FakeServer
from fakeredis._clients._tcp_server import encode_reply
from fakeredis._core import Item
from fakeredis._socket import FakeSocket

from pacs_tasks.embedded.guard import await_end, read_configuration
from pacs_tasks.embedded.places import Lock, Places
from pacs_tasks.settings import load

logger = logging.getLogger(__name__)

#: Seconds between two writes of the keys, and how many times longer than a write the pause must be.
_PAUSE, _SHARE = 1.0, 20.0
_RECEIVE = 65_536


class _Session(FakeSocket):
    """One client. It may do nothing before it has given the password."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.keys, 0, client_class=redis.Redis, client_info={})
        self._own = server
        self._is_known = False
        self.replies: SimpleQueue[Any] = SimpleQueue()

    def put_response(self, msg: Any) -> None:
        self.replies.put(msg)

    def protocol(self) -> int:
        """Return the version of the protocol that the client has chosen."""
        return self._client_info.protocol_version

    def _process_command(self, fields: list[bytes]) -> None:
        name = fields[0].upper() if fields else b""
        if not self._is_known:
            password = self._own.password
            self._is_known = name in {b"AUTH", b"HELLO"} and any(hmac.compare_digest(each, password) for each in fields)
        if not self._is_known:
            self.put_response(redis.AuthenticationError("Authentication required."))
        elif name == b"SHUTDOWN":
            self._own.ended.set()
        else:
            super()._process_command(fields)


class _Connection(socketserver.BaseRequestHandler):
    server: Server
    request: socket.socket

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session = _Session(self.server)
        # BaseFakeSocket.close forgets these.
        replies, protocol = session.replies, session.protocol
        writer = threading.Thread(target=self._write, args=(replies, protocol), daemon=True)
        writer.start()
        try:
            while data := self.request.recv(_RECEIVE):
                session.sendall(data)
        except OSError:
            pass
        except Exception as error:  # noqa: BLE001 - whatever is not Redis' protocol
            logger.warning("a connection is closed: %s", type(error).__name__)
        finally:
            session.close()
            replies.put(None)
            replies.put(StopIteration)

    def _write(self, replies: SimpleQueue[Any], protocol: Any) -> None:
        with contextlib.suppress(OSError):
            while (reply := replies.get()) is not StopIteration:
                self.request.sendall(encode_reply(reply, protocol()))


class Server(socketserver.ThreadingTCPServer):
    """A Redis in memory at a port of this machine, with a copy of its keys in a file."""

    daemon_threads = True
    # On Windows this option would share the port with another program.
    allow_reuse_address = sys.platform != "win32"
    request_queue_size = 128

    def __init__(self, port: int, password: str, file: Path) -> None:
        self.keys = FakeServer(server_type="redis", version=(7, 4), config={b"requirepass": password.encode()})
        self.password = password.encode()
        self.ended = threading.Event()
        self._file, self._written = file, b""
        self._read()
        super().__init__(("127.0.0.1", port), _Connection)

    def _read(self) -> None:
        if not self._file.exists():
            return
        # Only its owner can write this directory.
        for number, items in pickle.loads(self._file.read_bytes()).items():  # noqa: S301
            for key, (value, expires) in items.items():
                item = Item(value)
                item.expireat = expires
                self.keys.dbs[number][key] = item

    def write(self) -> None:
        """Write the keys to the file if they have changed, in one step."""
        with self.keys.lock:
            copy = {
                number: {key: (each[key].value, each[key].expireat) for key in each}
                for number, each in self.keys.dbs.items()
            }
            text = pickle.dumps(copy)
        if text == self._written:
            return
        fresh = self._file.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._file)
        self._written = text

    def keep_writing(self) -> None:
        """Write the keys again and again until the server has ended, and then once more."""
        pause = _PAUSE
        while not self.ended.wait(pause):
            begun = time.monotonic()
            self._try_to_write()
            pause = max(_PAUSE, _SHARE * (time.monotonic() - begun))
        self._try_to_write()

    def _try_to_write(self) -> None:
        try:
            self.write()
        except OSError as error:
            # The directory was removed, or the disk is full.
            logger.warning("the keys were not written: %s", error.strerror)


def main() -> int:
    """Serve until standard input says ``end``, closes, or a client sends SHUTDOWN; return the exit code."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    configuration = json.loads(read_configuration())
    places = Places.of(load())
    # Never closed: it ends with the process.
    lock = Lock(places.server_lock)
    if not lock.acquire(timeout=1):
        logger.error("another private server has this data directory")
        return 3
    lock.write(str(os.getpid()))
    try:
        server = Server(configuration["port"], configuration["password"], places.server_dir / "keys.pickle")
    except OSError as error:
        logger.error("the server cannot listen: %s", error)
        return 1

    def end() -> None:
        await_end()
        server.ended.set()

    for target in (server.serve_forever, end):
        threading.Thread(target=target, daemon=True).start()
    server.keep_writing()
    return 0


if __name__ == "__main__":
    sys.exit(main())
