"""HTTP/1.1 as uvicorn reads it by httptools, with a limit of what comes before a body, which httptools has not."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Bytes of a request line and its headers. The same as uvicorn allows with h11.
_LONGEST_HEAD = 64 << 10


class LimitedProtocol(HttpToolsProtocol):
    """One connection: it ends with the status 400 when the head of a request has no end."""

    _in_head = False
    _head = 0

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
        super().data_received(data)
        if self._in_head:
            self._head += len(data)
            if self._head > _LONGEST_HEAD and not self.transport.is_closing():
                self.send_400_response("The request line and its headers are too long.")

    def on_message_begin(self) -> None:
        """Begin to count: the head of a request comes."""
        self._in_head, self._head = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """End the count: the body comes."""
        self._in_head = False
        super().on_headers_complete()
