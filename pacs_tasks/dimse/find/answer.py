"""The answer to a query, judged: whether it stays within limits, and has the values that the query asked for.

A remote that is broken or hostile does not end its answer by itself. Caps on matches, bytes and elements bound the
memory and the time of a worker. A remote that exceeds one is not waited for: the association is aborted, and what came
before counts as an incomplete answer.

A remote need not match optional keys (PS3.4 section C.2.2.2): it then returns what they do not match, and may say so by
the status FF01. The comparison is lenient, because remotes differ in case, padding and precision: only what contradicts
a key by any reading counts as another value.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pacs_tasks.ae import AnswerLimits, RemoteAE
from pacs_tasks.dimse.files.elements import ITEM, ITEM_END, SEQUENCE_END, UNDEFINED, Encoding, MalformedError, Walker
from pacs_tasks.dimse.find.identifier import Path, name_of
from pacs_tasks.errors import AnswerCutOffError

# Whether it stays within limits

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
        counter = _ElementCounter(content, encoding, most)
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


class _ElementCounter(Walker):
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


# Whether it has the values that the query asked for

#: "Matches are continuing": the remote does not support some optional keys (PS3.4 section C.4.1.1.4).
_SOME_KEYS_UNSUPPORTED = 0xFF01
#: Digits of a date, and of a time with a fraction; shorter ones stand for all that begin so.
_DIGITS = {"DA": 8, "TM": 12}
#: A DT: year to second, fraction, offset from UTC.
_DT = re.compile(
    r"(\d{4})(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:\.(\d{1,6}))?)?)?)?)?)?(?:([+-])(\d\d)(\d\d))?"
)
_INSTANT = timedelta(microseconds=1)
#: How much time a DT means that has so many parts; a month and a year at their longest.
_PRECISIONS = {
    1: timedelta(days=366),
    2: timedelta(days=31),
    3: timedelta(days=1),
    4: timedelta(hours=1),
    5: timedelta(minutes=1),
}
#: The farthest local time from UTC: that of one who does not name the offset.
_FARTHEST = timedelta(hours=14)
#: What stands between the components of a name, and what people write there.
_SEPARATORS = re.compile(r"[\^, ]+")
#: Stands for bytes that could not be decoded.
_UNDECODED = "\N{REPLACEMENT CHARACTER}"


class KeyCheck:
    """Checks each match against the keys that have a value.

    Parameters
    ----------
    required
        Keys that every remote matches; FF01 does not mean them.
    """

    def __init__(self, keys: Mapping[Path, str], required: Collection[Path]) -> None:
        self._wanted = {path: value for path, value in keys.items() if value.strip(' *"')}
        self._required = required
        self._total = 0
        self._unsupported = False
        self._absent: Counter[Path] = Counter()
        self._different: Counter[Path] = Counter()

    def holds(self, match: Mapping[str, Any], code: int) -> bool:
        """Check one match, which came with a pending status, and return whether it has a value for each key."""
        self._total += 1
        self._unsupported |= code == _SOME_KEYS_UNSUPPORTED
        holds = True
        for path, key in self._wanted.items():
            elements = [(vr, values) for vr, values in _elements(match, path) if values]
            if not elements:
                self._absent[path] += 1
            elif not any(_matches(key, vr, values) for vr, values in elements):
                self._different[path] += 1
            else:
                continue
            holds = False
        return holds

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The keys by which the remote did not match, or perhaps not, by their names."""
        found = {*self._different, *self._absent, *self._perhaps_unsupported}
        return tuple(name_of(path) for path in self._wanted if path in found)

    @property
    def _perhaps_unsupported(self) -> list[Path]:
        """The optional keys that FF01 may mean, if the matches do not show which."""
        if not self._unsupported or self._different or self._absent:
            return []
        return [path for path in self._wanted if path not in self._required]

    def remarks(self) -> Iterator[str]:
        """Yield in sentences by which keys the remote did not match."""
        for path, count in self._different.items():
            yield f"the PACS ignored {name_of(path)}: {count} of {self._total} matches have another value"
        for path, count in self._absent.items():
            if path not in self._different:
                yield f"the PACS may have ignored {name_of(path)}: {count} of {self._total} matches have no value"
        if self._perhaps_unsupported:
            names = ", ".join(map(name_of, self._perhaps_unsupported))
            yield f"the PACS reports that it does not support some keys (FF01), and may have ignored {names}"


def _elements(match: Mapping[str, Any], path: Path) -> Iterator[tuple[str, list[Any]]]:
    """Yield VR and values of an attribute, in each item of the sequences around it."""
    element = match.get(f"{path[0]:08X}") or {}
    values = element.get("Value") or []
    if len(path) == 1:
        yield str(element.get("vr", "")), [value for value in values if value is not None and value != ""]
        return
    for item in values:
        if isinstance(item, Mapping):
            yield from _elements(item, path[1:])


def _matches(key: str, vr: str, values: list[Any]) -> bool:
    """Whether one of the values matches a key."""
    if vr == "PN":
        return _name_matches(key, list(_groups(values)))
    texts = [str(value).strip() for value in values]
    if any(_UNDECODED in text for text in texts):
        return True
    if vr in _DIGITS:
        return _in_range(re.sub("[:.]", "", key), [re.sub("[:.]", "", text) for text in texts], _DIGITS[vr])
    compare = _COMPARISONS.get(vr)
    return compare is None or any(compare(each, text) for each in key.split("\\") for text in texts)


def _in_range(key: str, digits: Iterable[str], width: int) -> bool:
    """Whether one of the values lies in a range, or can be the same moment as a single value."""
    found = re.fullmatch(r"\s*(\d*)\s*(-?)\s*(\d*)\s*", key)
    if found is None:
        return any(_text_matches(key, each) for each in digits)
    first, dash, last = found.groups()
    last = last if dash else first
    low, high = first.ljust(width, "0"), last.ljust(width, "9")
    return any(low <= each.ljust(width, "9") and each.ljust(width, "0") <= high for each in digits)


class _Moment(NamedTuple):
    """The first and the last moment that a DT can mean, in UTC if it names its offset from UTC."""

    first: datetime
    last: datetime
    zoned: bool


def _moment(text: str) -> _Moment | None:
    """Read a DT of any precision (PS3.5 section 6.2)."""
    found = _DT.fullmatch(text)
    if found is None:
        return None
    *parts, fraction, sign, hours, minutes = found.groups()
    given, digits = [int(part) for part in parts if part], fraction or ""
    year, month, day, hour, minute, second = (*given, *(1, 1, 0, 0, 0)[len(given) - 1 :])
    offset = timedelta(hours=int(f"{sign}{hours}"), minutes=int(f"{sign}{minutes}")) if sign else timedelta()
    precision = _PRECISIONS.get(len(given), timedelta(microseconds=10 ** (6 - len(digits))))
    try:
        first = datetime(year, month, day, hour, minute, second, int(digits.ljust(6, "0"))) - offset
        return _Moment(first, first + precision - _INSTANT, bool(sign))
    except (ValueError, OverflowError):
        return None


def _datetime_matches(key: str, text: str) -> bool:
    """Whether a value can lie in a range, or be the same moment: a hyphen is that of a range or of an offset."""
    value, key = _moment(text), key.strip()
    hyphens = [place for place, each in enumerate(key) if each == "-"]
    readings = [(key, key), *((key[:place], key[place + 1 :]) for place in hyphens)]
    ranges = [
        (_moment(first), _moment(last))
        for first, last in readings
        if all(each == "" or _moment(each) is not None for each in (first, last))
    ]
    return value is None or not ranges or any(_between(first, value, last) for first, last in ranges)


def _between(first: _Moment | None, value: _Moment, last: _Moment | None) -> bool:
    def slack(other: _Moment) -> timedelta:
        return timedelta() if other.zoned == value.zoned else _FARTHEST

    after = first is None or value.last + slack(first) >= first.first
    return after and (last is None or value.first - slack(last) <= last.last)


def _number_matches(key: str, text: str) -> bool:
    try:
        return float(key) == float(text)
    except ValueError:
        return _text_matches(key, text)


def _uid_matches(key: str, text: str) -> bool:
    return key.strip("\0 ") == text


def _plain(text: str) -> str:
    """Fold case, width and accents (PS3.4 section C.2.2.2.1 leaves them to the remote for names)."""
    return "".join(
        each for each in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(each)
    ).strip()


def _text_matches(key: str, text: str) -> bool:
    """Wild card matching (PS3.4 section C.2.2.2.4)."""
    wild = {"*": ".*", "?": "."}
    pattern = "".join(wild.get(each) or re.escape(each) for each in _plain(key))
    return re.fullmatch(pattern, _plain(text), re.DOTALL) is not None


#: By VR; values of others have no text form.
_COMPARISONS: Mapping[str, Callable[[str, str], bool]] = {
    "DT": _datetime_matches,
    "UI": _uid_matches,
    **dict.fromkeys(("DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"), _number_matches),
    **dict.fromkeys(("AE", "AS", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"), _text_matches),
}


def _groups(values: Iterable[Any]) -> Iterator[str]:
    """Yield the component groups of names: DICOM JSON has them apart (PS3.18 section F.2.2)."""
    for value in values:
        yield from map(str, value.values()) if isinstance(value, Mapping) else str(value).split("=")


def _name_matches(key: str, groups: Collection[str]) -> bool:
    """Whether a group of the key matches a group of the name, as a whole or in each component that the key gives."""
    if any(_UNDECODED in group for group in groups):
        return True
    return any(_group_matches(each, group) for each in key.split("=") if each.strip() for group in groups)


def _group_matches(key: str, group: str) -> bool:
    # Chinese names are often written in one piece.
    if any(_text_matches(_SEPARATORS.sub(each, key), _SEPARATORS.sub(each, group)) for each in (" ", "")):
        return True
    wanted, found = key.split("^"), group.split("^")
    found += [""] * (len(wanted) - len(found))
    return all(not each.strip() or _text_matches(each, part) for each, part in zip(wanted, found, strict=False))
