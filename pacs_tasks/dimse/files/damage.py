"""Judge the data set of a file before it is sent.

A PACS that cannot parse a data set aborts the association, or stays silent until a time-out, at the cost of all other
instances. As in :mod:`.whole` only headers are read, but sequences are entered. Elements out of order, elements that
occur twice and odd lengths inside are no reason to hold a file back: the usual PACS accept them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from io import FileIO

from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.uid import UID

from pacs_tasks.dimse.files.data_set import UNCOMPRESSED, inflated, read_on
from pacs_tasks.dimse.files.elements import (
    DEEPEST,
    DEFLATED,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    ITEM,
    ITEM_END,
    LONG_VRS,
    PIXEL_DATA,
    SEQUENCE_END,
    SHORT_VRS,
    TEXT_VRS,
    UNDEFINED,
    Data,
    Encoding,
    MalformedError,
    length_size,
)
from pacs_tasks.dimse.files.label import SAMPLE, is_deflated
from pacs_tasks.dimse.files.part10 import FileWalker, Padding, Source, StoredInstance, guess_syntax, unreadable
from pacs_tasks.dimse.files.regular import read_regular
from pacs_tasks.errors import DamagedFileError

#: Transfer syntaxes of the Standard; what a private one means is not known.
_STANDARD = "1.2.840.10008.1.2."
#: RLE, and by the beginning of their UIDs JPEG and video, but not JPIP, which refers to pixel data elsewhere.
_RLE = "1.2.840.10008.1.2.5"
_JPEG = "1.2.840.10008.1.2.4."
_JPIP = frozenset(("94", "95", "204", "205"))
_PIXELS = 0x7FE0
#: The group of the first element, or a lower one.
_FIRST_GROUP = 0x0008
_DELIMITERS = 0xFFFE
_ITEM_BYTES = struct.pack("<HH", ITEM >> 16, ITEM & 0xFFFF)
_ITEM_STARTS = frozenset((_ITEM_BYTES, struct.pack(">HH", ITEM >> 16, ITEM & 0xFFFF)))
_LONGEST_SHORT = 0xFFFF

# Without the number of the element in its group.
_EXPLICIT = struct.Struct("<Hxx2sH").unpack_from
_IMPLICIT = struct.Struct("<HxxL").unpack_from
_LENGTH = struct.Struct("<L").unpack_from


def judged(instance: StoredInstance, *, repair: bool = False) -> StoredInstance:
    """Give an instance that can be sent.

    Parameters
    ----------
    repair
        Have a last value of odd length padded while it is sent.

    Raises
    ------
    DamagedFileError
        If the data set breaks off, is not in the transfer syntax that the file declares, has a broken element, or has
        an odd length that is not repaired. The message names the element and its offset in the file.
    UnreadableInputError
        If the file can no longer be read.
    """
    if not f"{instance.transfer_syntax_uid}.".startswith(_STANDARD):
        return instance
    try:
        with read_regular(instance.path) as file:
            if instance.transfer_syntax_uid in DEFLATED:
                _judge_deflated(file, instance)
                return instance
            return _judge(file, instance, repair=repair)
    except (OSError, ValueError) as error:
        raise unreadable(error, instance.path) from None


def _judge_deflated(file: FileIO, instance: StoredInstance) -> None:
    try:
        size = sum(map(len, _inflated(file, instance)))
    except MalformedError:
        raise DamagedFileError(
            "The data set is damaged: it is not deflated as its transfer syntax requires (PS3.5 section A.5), or it "
            f"breaks off before the end of the file ({instance.size} bytes). Export the file again, or send it all the "
            "same with --send-damaged.",
            instance.path,
        ) from None
    walker = _Judge(_Inflating(_inflated(file, instance)), replace(instance, data_offset=0, size=size))
    try:
        walker.elements(0, size, explicit=True)
    except MalformedError as error:
        raise DamagedFileError(
            f"The data set is damaged: once it is inflated, {error}, at element {walker.name()} (byte {walker.at} of "
            "what it inflates to). Export the file again, or send it all the same with --send-damaged.",
            instance.path,
        ) from None


def _inflated(file: FileIO, instance: StoredInstance) -> Iterator[bytes]:
    file.seek(instance.data_offset)
    return inflated(read_on(file))


def _judge(file: FileIO, instance: StoredInstance, *, repair: bool) -> StoredInstance:
    _check_syntax(file, instance)
    walker = _Judge(file, instance)
    try:
        walker.elements(instance.data_offset, instance.size, walker.encoding.explicit)
    except _SurplusError:
        raise DamagedFileError(
            f"The data set is damaged: its last element, {walker.name()}, ends at byte {walker.at} of the file, and "
            f"what follows up to its end ({instance.size} bytes) is not an element. Export the file again, or send it "
            "all the same with --send-damaged.",
            instance.path,
        ) from None
    except MalformedError as error:
        raise DamagedFileError(
            f"The data set is damaged: {error}, at element {walker.name()} (byte {walker.at} of the file). Export the "
            "file again, or send it all the same with --send-damaged.",
            instance.path,
        ) from None
    if (instance.size - instance.data_offset) % 2 == 0:
        return instance
    padding = walker.padding()
    if padding is not None and repair:
        return replace(instance, padding=padding)
    if padding is not None:
        raise DamagedFileError(
            f"The last element, {walker.name()} (byte {walker.at} of the file), has an odd length ({walker.length} "
            "bytes), which PS3.5 section 7.1.1 forbids. Send the file with --repair, which pads it, or rewrite it, for "
            "example with dcmconv.",
            instance.path,
        )
    name, at, length = walker.odd()
    raise DamagedFileError(
        f"Element {name} (byte {at} of the file) has an odd length ({length} bytes), which PS3.5 section 7.1.1 "
        "forbids, and only a last element can be padded with --repair. Rewrite the file, for example with dcmconv, or "
        "send it all the same with --send-damaged.",
        instance.path,
    )


def _check_syntax(file: FileIO, instance: StoredInstance) -> None:
    """Check that the first element has the encoding that the file declares."""
    file.seek(instance.data_offset)
    found = _other_syntax(file.read(8), instance)
    if found is None:
        return
    declared = UID(instance.transfer_syntax_uid, IGNORE).name
    if not found:
        file.seek(instance.data_offset)
        found = DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN if is_deflated(file.read(SAMPLE), 0) else ""
    if not found:
        raise DamagedFileError(
            f"The data set is not encoded in {declared}, as the file declares: see its first element, at byte "
            f"{instance.data_offset} of the file. Export the file again, or send it all the same with --send-damaged.",
            instance.path,
        )
    raise DamagedFileError(
        f"The data set is encoded in {UID(found).name}, while the file declares {declared}: see its first element, at "
        f"byte {instance.data_offset} of the file. Export the file again, or send it all the same with "
        "--send-damaged.",
        instance.path,
    )


def _other_syntax(head: bytes, instance: StoredInstance) -> str | None:
    """Give the transfer syntax of the first element if it is certainly not the declared one; empty for none known."""
    if len(head) < 8 or head[:2] == b"\0\0":
        return None
    should = Encoding.of(instance.transfer_syntax_uid)
    if should.explicit and not length_size(head[4:6], 0):
        group, length = _IMPLICIT(head)
        fits = length <= instance.size - instance.data_offset - len(head)
        return IMPLICIT_VR_LITTLE_ENDIAN if group <= _FIRST_GROUP and fits else ""
    found = guess_syntax(head)
    certain = head[4:6] in SHORT_VRS or head[4:6] in LONG_VRS
    return found if certain and found and Encoding.of(found) != should else None


class _SurplusError(MalformedError):
    """Behind the last element are fewer bytes than an element has."""


class _Inflating:
    """What a deflated data set inflates to, as a file that is read forwards, so that memory stays constant."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._start, self._rest = 0, b""
        self._at = 0

    def seek(self, position: int, /) -> int:
        while self._start + len(self._rest) < position and (block := next(self._blocks, None)) is not None:
            self._start += len(self._rest)
            self._rest = block
        self._at = position
        return position

    def read(self, length: int, /) -> bytes:
        self._rest, self._start = self._rest[self._at - self._start :], self._at
        while len(self._rest) < length and (block := next(self._blocks, None)) is not None:
            self._rest += block
        return self._rest[:length]


class _Judge(FileWalker):
    """Walks a data set as strictly as the usual PACS.

    Attributes
    ----------
    tag, at, length
        The element whose header was read last, the position of that header in the file, the length of the value.
    """

    def __init__(self, file: Source, instance: StoredInstance) -> None:
        self.encoding = Encoding.of(instance.transfer_syntax_uid)
        super().__init__(file, instance.size, self.encoding)
        self._syntax = instance.transfer_syntax_uid
        self._begin, self._end = instance.data_offset, instance.size
        #: The first element of odd length: its name, position and length; looked for only if there is one.
        self._odd: tuple[str, int, int] | None = None
        self._odd_end = instance.size
        self._seeks_odd = False
        self.tag = self.at = self.length = self._depth = 0
        # The outermost element that was read last: its position and its tag.
        self._last = self._outer = 0
        self._has_pixels = False

    def name(self) -> str:
        """Name the element that was read last, and the outermost one that it is in."""
        inner, outer = (f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in (self.tag, self._outer))
        return f"{inner} in {outer}" if self._depth else inner

    def header(self, position: int, explicit: bool) -> tuple[int, int, int]:
        tag, length, value = super().header(position, explicit)
        self.tag, self.at, self.length = tag, position, length
        if self._seeks_odd and position < self._odd_end and length & 1 and length != UNDEFINED:
            # What is odd in a sequence makes the sequence odd, so the innermost one counts.
            self._odd, self._odd_end = (self.name(), position, length), value + length
        return tag, length, value

    def length_without_vr(self, position: int) -> int:
        self.tag, self.at = self._tag(position), position + self._start
        raise MalformedError("it has no value representation (VR), which its transfer syntax requires")

    def _tag(self, position: int) -> int:
        group, element = self.tag_at(self.data, position)
        return int(group) << 16 | int(element)

    def elements(self, position: int, end: int | None, explicit: bool, depth: int = 0) -> int:
        """Walk elements up to ``end``, or else to the delimiter of their item; give the position behind them."""
        while True:
            position = self._skim(position, end, explicit, outermost=depth == 0)
            if end is not None and position >= end:
                break
            self._depth = depth
            if depth == 0 and self._has_pixels and position + 8 > self._end:
                self.tag, self.at = self._outer, position
                raise _SurplusError("the bytes behind it are not an element")
            tag, length, value = self.header(position, explicit)
            # DCMTK warns of zeroes behind the pixel data, and reads the file.
            if tag >> 16 == 0 and not (self._has_pixels and depth == tag == length == 0):
                raise MalformedError("zeroes or a command element stand where an element should")
            if depth == 0:
                self._last, self._outer = position, tag
                self._has_pixels |= tag >> 16 == _PIXELS
            if tag == ITEM_END and end is None:
                return value
            if tag >> 16 == _DELIMITERS and tag != ITEM_END:
                raise MalformedError("an item or a delimiter stands outside of a sequence")
            position = self._value(value, explicit, depth)
        if position > end:
            raise MalformedError("it reaches beyond the end of its item" if depth else "it is truncated")
        return position

    def _value(self, value: int, explicit: bool, depth: int) -> int:
        """Give the position behind the value of the element that was read last, which is walked if it has items."""
        position, tag, length = self.at, self.tag, self.length
        if tag == PIXEL_DATA and depth == 0:
            self._check_pixels(length)
        if length == UNDEFINED and tag == PIXEL_DATA:
            return self._fragments(value)
        if length == UNDEFINED and explicit and self.unknown(position):
            # It is a sequence in Implicit VR Little Endian (PS3.5 section 6.2.2).
            with self.little_endian():
                return self._items(value, None, explicit=False, depth=depth + 1)
        if length == UNDEFINED:
            return self._items(value, None, explicit, depth + 1)
        if self._vr(position) == b"SQ" if explicit else self._begins_with_item(value) and _vr_of(tag) == "SQ":
            return self._items(value, value + length, explicit, depth + 1)
        return value + length

    def _vr(self, position: int) -> bytes:
        self._load(position)
        return bytes(self.data[position - self._start + 4 :][:2])

    def _begins_with_item(self, value: int) -> bool:
        """Whether the value of the element that was read last begins as that of a sequence that is not empty."""
        if self.length < 8 or self.tag == PIXEL_DATA:
            return False
        self._load(value)
        return bytes(self.data[value - self._start :][:4]) in _ITEM_STARTS

    def _check_pixels(self, length: int) -> None:
        """Check that pixel data are encapsulated if the transfer syntax is compressed, and only then (PS3.5 A.4)."""
        if length == UNDEFINED:
            if self._syntax in UNCOMPRESSED:
                raise MalformedError("the pixel data are compressed, which the declared transfer syntax is not")
        elif self._syntax == _RLE or (self._syntax.startswith(_JPEG) and self._syntax.removeprefix(_JPEG) not in _JPIP):
            raise MalformedError("the pixel data are not encapsulated, as the declared transfer syntax requires")

    def _items(self, position: int, end: int | None, explicit: bool, depth: int) -> int:
        """Walk items up to ``end``, or else to the delimiter of their sequence (PS3.5 section 7.5)."""
        if depth > DEEPEST:
            raise MalformedError(f"its sequences are nested more than {DEEPEST} deep")
        while end is None or position < end:
            self._depth = depth
            tag, length, value = self.header(position, explicit=True)
            if tag == SEQUENCE_END:
                return value
            if tag != ITEM:
                raise MalformedError("a sequence contains something other than items")
            position = self.elements(value, None if length == UNDEFINED else value + length, explicit, depth)
        if position > end:
            raise MalformedError("an item reaches beyond the end of its sequence")
        return position

    def _fragments(self, position: int) -> int:
        """Walk the fragments of encapsulated pixel data, whose values are no elements (PS3.5 section A.4)."""
        self._depth += 1
        while True:
            tag, length, position = self.header(position, explicit=True)
            if tag == SEQUENCE_END:
                return position
            if tag != ITEM or length == UNDEFINED:
                raise MalformedError("the pixel data contain something other than fragments")
            position += length

    def _skim(self, position: int, end: int | None, explicit: bool, *, outermost: bool) -> int:
        """Pass plain elements in the window, much faster than one by one; give the position of another one."""
        if self.encoding.big or self._seeks_odd or (end is not None and position >= end):
            return position
        self._load(position)
        start = self._start
        stop = self.size if end is None else min(self.size, end - start)
        following, passed = (_skim_explicit if explicit else _skim_implicit)(self.data, position - start, stop)
        if passed is not None:
            self.at, self.tag = passed + start, self._tag(passed)
            if outermost:
                self._last, self._outer = self.at, self.tag
        return following + start

    def odd(self) -> tuple[str, int, int]:
        """Walk again to the first element of odd length; give its name, position and length."""
        self._seeks_odd = True
        self.elements(self._begin, self._end, self.encoding.explicit)
        return self._odd or (self.name(), self.at, self.length)

    def padding(self) -> Padding | None:
        """Give the padding of the last element if it has an odd length that can be made even."""
        self._depth = 0
        tag, length, value = self.header(self._last, self.encoding.explicit)
        if length % 2 == 0 or length == UNDEFINED:
            return None
        vr = self._vr(self.at) if self.encoding.explicit else b""
        if vr == b"SQ" or (vr in {b"", b"UN"} and self._begins_with_item(value)):
            # What is odd is inside.
            return None
        is_short = vr != b"" and length_size(vr, tag >> 16) == 2
        if is_short and length == _LONGEST_SHORT:
            return None
        # The length is the last field of the header.
        field = (length + 1).to_bytes(2 if is_short else 4, "big" if self.encoding.big else "little")
        text = (vr.decode() if vr else _vr_of(tag)) in TEXT_VRS
        return Padding(value - len(field), field, b" " if text else b"\0")


def _vr_of(tag: int) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def _skim_explicit(data: Data, position: int, stop: int) -> tuple[int, int | None]:
    """Pass elements of Explicit VR Little Endian; give the position behind them, and that of the last one."""
    last = None
    while position + 12 <= stop:
        group, vr, length = _EXPLICIT(data, position)
        if vr in SHORT_VRS:
            end = position + 8 + length
        elif vr in LONG_VRS and vr != b"SQ":
            end = position + 12 + _LENGTH(data, position + 8)[0]
        else:
            break
        # An undefined length always exceeds the end.
        if end > stop or not 0 < group < _PIXELS:
            break
        last, position = position, end
    return position, last


def _skim_implicit(data: Data, position: int, stop: int) -> tuple[int, int | None]:
    """Do the same for Implicit VR Little Endian."""
    last = None
    while position + 8 <= stop:
        group, length = _IMPLICIT(data, position)
        end = position + 8 + length
        if end > stop or not 0 < group < _PIXELS or data[position + 8 : position + 12] == _ITEM_BYTES:
            break
        last, position = position, end
    return position, last
