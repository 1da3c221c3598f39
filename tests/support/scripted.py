"""A peer that does exactly what a test says, byte by byte: for what no real peer does on demand."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pacs_tasks.ae import RemoteAE
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer import negotiation as acse

Script = Callable[[socket.socket], None]


@contextmanager
def peer(script: Script) -> Iterator[RemoteAE]:
    """Listen on a free port and run ``script`` with each connection; the connection ends with the script."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    ending = threading.Event()
    running: list[threading.Thread] = []

    def serve(sock: socket.socket) -> None:
        with sock:
            sock.settimeout(30)
            try:
                script(sock)
            except OSError:
                # The other side hung up; tests look at it from there.
                return

    def accept() -> None:
        while not ending.is_set():
            try:
                sock, _ = listener.accept()
            except TimeoutError:
                continue
            if ending.is_set():
                sock.close()
                return
            running.append(threading.Thread(target=serve, args=(sock,), daemon=True))
            running[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield RemoteAE(ae_title="SCRIPTED", host="127.0.0.1", port=listener.getsockname()[1])
    finally:
        ending.set()
        wake(listener)
        accepting.join(10)
        listener.close()
        for thread in running:
            thread.join(10)


def wake(listener: socket.socket) -> None:
    """Have a thread that accepts connections look up at once."""
    with suppress(OSError):
        socket.create_connection(listener.getsockname(), timeout=1).close()


def receive_pdu(sock: socket.socket) -> tuple[int, bytes]:
    """Read one whole PDU."""
    head = _read(sock, 6)
    return head[0], _read(sock, int.from_bytes(head[2:], "big"))


def _read(sock: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        part = sock.recv(count - len(content))
        if not part:
            raise ConnectionResetError("the caller hung up")
        content += part
    return content


def wait_for_end(sock: socket.socket) -> bytes:
    """Read until the other side hangs up; what came meanwhile."""
    content = b""
    while part := sock.recv(65_536):
        content += part
    return content


def let_go(sock: socket.socket) -> None:
    """Read until the other side asks to release, and agree."""
    while receive_pdu(sock)[0] != 5:
        continue
    sock.sendall(b"\6\0\0\0\0\4\0\0\0\0")


def accept_all(
    sock: socket.socket, max_length: int = 16_384, operations: tuple[int, int] | None = None
) -> acse.AssociateRequest:
    """Answer an association request, taking the first transfer syntax of each context and every role."""
    _, content = receive_pdu(sock)
    request = acse.decode_request(memoryview(content))
    results = {cx.context_id: (acse.ACCEPTED, cx.transfer_syntaxes[0]) for cx in request.contexts}
    sock.sendall(acse.encode_accept(acse.AssociateAccept(results, max_length, request.roles, operations), request))
    return request


def p_data(context_id: int, control: int, content: bytes) -> bytes:
    """A P-DATA-TF with one PDV (PS3.8 section 9.3.5)."""
    pdv = (len(content) + 2).to_bytes(4, "big") + bytes((context_id, control)) + content
    return b"\4\0" + len(pdv).to_bytes(4, "big") + pdv


def store_response(context_id: int) -> bytes:
    """Success for message 1 (PS3.7 section 9.3.1.2)."""
    elements: dict[int, int | str] = {
        command.COMMAND_FIELD: command.C_STORE_RQ | command.RESPONSE,
        command.MESSAGE_ID_RESPONDED_TO: 1,
        command.STATUS: 0,
    }
    return p_data(context_id, 3, command.encode(elements, data_set=False))


def read_message(sock: socket.socket) -> tuple[int, bytes]:
    """Read one command set and the data set that follows it, if any: context id and the bytes of the command set."""
    command_set, context_id = b"", 0
    while True:
        _, content = receive_pdu(sock)
        context_id, control, value = content[4], content[5], content[6:]
        if control & 1:
            command_set += value
            if control & 2 and b"\0\0\0\x08\2\0\0\0\1\1" in command_set:
                return context_id, command_set
        elif control & 2:
            return context_id, command_set
