"""The answer to a query, counted: a remote that is broken or hostile does not end it by itself.

Caps on matches, bytes and elements bound the memory and the time of a worker. A remote that exceeds one is not waited
for: the association is aborted, and what came before counts as an incomplete answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from pacs_tasks.ae import AnswerLimits, RemoteAE
from pacs_tasks.dimse.files.elements import ITEM, ITEM_END, SEQUENCE_END, UNDEFINED, Encoding, MalformedError, Walker
from pacs_tasks.errors import AnswerCutOffError

#: Bytes of one match. The longest ones hold lists of UIDs or names; pixel data do not belong there.
_LONGEST_MATCH = 1 << 22
#: Items within each other. A worklist nests three.
_DEEPEST_MATCH = 16
#: An element takes at least so many bytes.
_SHORTEST_ELEMENT = 8
_ITEM_BYTES = b"\xfe\xff\x00\xe0"


class CountedAnswer:
    """Counts the answer to one query, which may take several requests.

    Parameters
    ----------
    least
        Matches that the request itself allows, if those are more than the limit.
    """

    def __init__(self, remote: RemoteAE, limits: AnswerLimits, least: int | None = None) -> None:
        self._remote, self._limits = remote, limits
        self._most = max(limits.matches, least or 0)
        self._matches = self._bytes = 0

    def begin_request(self) -> None:
        """Begin to count the matches of one request: if a query is split, most of them come again."""
        self._matches = 0

    def check_kept(self, number: int) -> None:
        """Check the number of different matches of all requests.

        Raises
        ------
        AnswerCutOffError
            If there are too many.
        """
        if number > self._most:
            raise AnswerCutOffError(
                f"{self._remote} sent more than {self._most} matches, so its answer was cut off. Narrow the query, or "
                "raise PACS_TASKS_MAX_MATCHES if it holds so many."
            )

    def receive(self, fragments: Iterable[memoryview], transfer_syntax_uid: str) -> bytes:
        """Receive one match, and give its bytes.

        Raises
        ------
        AnswerCutOffError
            If the answer, or this match, exceeds a limit.
        """
        self._matches += 1
        self.check_kept(self._matches)
        content = bytearray()
        for fragment in fragments:
            content += fragment
            if len(content) > _LONGEST_MATCH:
                raise AnswerCutOffError(
                    f"{self._remote} sent a match of more than {_LONGEST_MATCH} bytes, so its answer was cut off. "
                    "Query for fewer keys, and inform its administrator."
                )
            if self._bytes + len(content) > self._limits.answer_bytes:
                raise AnswerCutOffError(
                    f"{self._remote} sent more than {self._limits.answer_bytes} bytes of matches, so its answer was "
                    "cut off. Narrow the query, or raise PACS_TASKS_MAX_ANSWER_BYTES if it holds so many."
                )
        self._bytes += len(content)
        self._check_structure(bytes(content), Encoding.of(transfer_syntax_uid))
        return bytes(content)

    def _check_structure(self, content: bytes, encoding: Encoding) -> None:
        """Check the elements and the depth of a match that is long or nested enough to exceed a limit."""
        most = self._limits.match_elements
        if len(content) <= most * _SHORTEST_ELEMENT and content.count(_ITEM_BYTES) <= _DEEPEST_MATCH:
            return
        counter = _Counter(content, encoding, most)
        with suppress(MalformedError):
            counter.count(0, encoding.explicit, 0)
        if counter.left < 0:
            raise AnswerCutOffError(
                f"{self._remote} sent a match with more than {most} elements, so its answer was cut off. Inform its "
                "administrator, or raise PACS_TASKS_MAX_MATCH_ELEMENTS."
            )
        if counter.too_deep:
            raise AnswerCutOffError(
                f"{self._remote} sent a match with more than {_DEEPEST_MATCH} sequences within each other, so its "
                "answer was cut off. Inform its administrator."
            )


class _Counter(Walker):
    """Counts elements, and enters sequences as a decoder does.

    Attributes
    ----------
    left
        How many elements may follow; negative if there are too many.
    """

    def __init__(self, content: bytes, encoding: Encoding, most: int) -> None:
        super().__init__(content, encoding)
        self.left = most
        self.too_deep = False

    def count(self, position: int, explicit: bool, depth: int, end: int | None = None) -> int:
        """Count the elements or items up to ``end`` or to a delimiter; give the position behind them."""
        # A sequence and its item are two steps.
        self.too_deep = depth > 2 * _DEEPEST_MATCH
        if self.too_deep:
            raise MalformedError("its sequences are nested too deeply")
        end = self.size if end is None else end
        while position < end:
            tag, length, value = self.header(position, explicit)
            if tag in {ITEM_END, SEQUENCE_END}:
                return value
            following = end if length == UNDEFINED else value + length
            if tag == ITEM or length == UNDEFINED or self.data[value : value + 4] == _ITEM_BYTES:
                inner = explicit and not (tag != ITEM and length == UNDEFINED and self.unknown(position))
                behind = self.count(value, inner, depth + 1, min(following, end))
                following = behind if length == UNDEFINED else following
            position = following
        return position
