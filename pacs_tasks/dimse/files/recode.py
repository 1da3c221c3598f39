"""Re-encode a data set in another uncompressed transfer syntax (PS3.5 sections 7 and A.1 to A.3).

Headers and short values are encoded anew in memory. Long values stay in the file until they are sent, so that memory
does not grow with the pixel data. Every value stays the same; group lengths, which are retired, are left out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import IO

from pydicom.datadict import dictionary_VR, private_dictionary_VR

from pacs_tasks.dimse.files.elements import (
    DEEPEST,
    ITEM,
    ITEM_END,
    LONG_VRS,
    PIXEL_DATA,
    SEQUENCE_END,
    SHORT_VRS,
    TEXT_VRS,
    UNDEFINED,
    Encoding,
    MalformedError,
    length_size,
)
from pacs_tasks.dimse.files.part10 import FileWalker

#: Bytes of a value that stays in the file, at least, and of one read of it; both are multiples of every unit.
_LONG = 1 << 12
_BLOCK = 1 << 18
#: Bytes that are encoded in memory: a hundred times those of the usual long structure sets and reports.
_MOST_IN_MEMORY = 1 << 27
_BITS_ALLOCATED, _PIXEL_REPRESENTATION = 0x0028_0100, 0x0028_0103
#: Bytes that change places with the byte order, by VR (PS3.5 section 7.3). UN is always little endian (section 6.2.2).
_UNITS = {
    **dict.fromkeys(("AT", "OW", "SS", "US"), 2),
    **dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
_LONG_VRS = frozenset(vr.decode() for vr in LONG_VRS)
_VRS = frozenset(vr.decode() for vr in LONG_VRS | SHORT_VRS)
_LONGEST_SHORT = 0xFFFE


@dataclass(frozen=True)
class _Span:
    """A value in the file; ``unit`` bytes at a time change places, if it is more than one."""

    position: int
    length: int
    unit: int


@dataclass
class _Encoded:
    """What has been encoded so far, in order; :meth:`add` raises where it does not fit into memory."""

    length: int = 0
    in_memory: int = 0
    pieces: list[bytearray | _Span] = field(default_factory=list)

    def add(self, content: bytes | bytearray) -> None:
        last = self.pieces[-1] if self.pieces else None
        if isinstance(last, bytearray):
            last += content
        else:
            self.pieces.append(bytearray(content))
        self.length += len(content)
        self.in_memory += len(content)
        if self.in_memory > _MOST_IN_MEMORY:
            raise MalformedError(f"its headers and short values alone take more than {_MOST_IN_MEMORY} bytes")

    def add_span(self, span: _Span) -> None:
        self.pieces.append(span)
        self.length += span.length

    def extend(self, other: _Encoded) -> None:
        for piece in other.pieces:
            if isinstance(piece, _Span):
                self.add_span(piece)
            else:
                self.add(piece)


@dataclass(frozen=True)
class _Element:
    """An element of the source; ``vr`` is empty where the source does not name it."""

    tag: int
    vr: str
    position: int
    length: int


class _Scope:
    """What the elements of one data set or item say about the others.

    Parameters
    ----------
    outer
        The scope of what contains the item.
    look_ahead
        Gives the Pixel Representation behind a position at this level; None if there is none.

    Attributes
    ----------
    position
        The element that is encoded now.
    """

    def __init__(self, outer: _Scope | None, look_ahead: Callable[[int], int | None]) -> None:
        self._outer, self._look_ahead = outer, look_ahead
        self.position = 0
        #: 1 if pixels are signed, by (0028,0103); None if that is not known.
        self._representation: int | None = None
        self._looked = False
        self._bits_allocated = 16
        self._creators: dict[int, str] = {}

    @property
    def signed(self) -> bool:
        """Whether pixels are signed, as this data set says, or else the one around it, as pydicom reads it."""
        if self._representation is None and not self._looked:
            self._representation, self._looked = self._look_ahead(self.position), True
        if self._representation is None:
            return self._outer is not None and self._outer.signed
        return self._representation == 1

    def note(self, tag: int, value: bytes, source: Encoding) -> None:
        """Remember how pixels are encoded, and the creators of private blocks (PS3.5 section 7.8.1)."""
        if tag in {_BITS_ALLOCATED, _PIXEL_REPRESENTATION}:
            number = int.from_bytes(value[:2], "big" if source.big else "little")
            if tag == _BITS_ALLOCATED:
                self._bits_allocated = number
            else:
                self._representation = number
        elif tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF:
            self._creators[(tag & 0xFFFF_0000) | (tag & 0xFF) << 8] = value.decode("ascii", "replace").strip("\0 ")

    def vr_of(self, tag: int) -> str:
        """Look up the VR of an element whose source does not name it; UN for an unknown one (PS3.5 section 6.2.2)."""
        try:
            if not tag >> 16 & 1:
                vr = dictionary_VR(tag)
            elif 0x10 <= tag & 0xFFFF <= 0xFF:
                return "LO"
            else:
                vr = private_dictionary_VR(tag, self._creators.get(tag & 0xFFFF_FF00, ""))
        except KeyError:
            return "UN"
        if vr == "US or SS":
            return "SS" if self.signed else "US"
        # Implicit VR holds these as OW (PS3.5 section A.1).
        return vr if vr in _VRS else "OW"

    def unit_of(self, tag: int, vr: str) -> int:
        """How many bytes change places with the byte order: a whole pixel of more than 16 bits, as pydicom reads it."""
        if tag == PIXEL_DATA and vr == "OW" and self._bits_allocated in {32, 64}:
            return self._bits_allocated // 8
        return _UNITS.get(vr, 1)


class _Reader:
    """Reads the elements of the source."""

    def __init__(self, file: IO[bytes], end: int) -> None:
        self._file, self.end = file, end

    def bytes_at(self, position: int, length: int) -> bytes:
        if position + length > self.end:
            raise MalformedError("it is truncated")
        self._file.seek(position)
        content = self._file.read(length)
        if len(content) != length:
            raise MalformedError("it became shorter")
        return content

    def walker(self, source: Encoding) -> FileWalker:
        return FileWalker(self._file, self.end, source)

    def element(self, position: int, source: Encoding) -> _Element:
        order = ">" if source.big else "<"
        head = self.bytes_at(position, 8)
        group, number = struct.unpack(f"{order}HH", head[:4])
        tag, vr, long_at = group << 16 | number, head[4:6].decode("latin-1"), f"{order}L"
        size = length_size(head[4:6], group) if source.explicit and group != 0xFFFE else 0
        # Nobody knows how to encode a VR that is none, or that does not exist yet.
        vr = vr if vr in _VRS else "UN"
        if size == 4:
            return _Element(tag, vr, position + 12, struct.unpack(long_at, self.bytes_at(position + 8, 4))[0])
        if size == 2:
            return _Element(tag, vr, position + 8, struct.unpack(f"{order}H", head[6:])[0])
        return _Element(tag, "", position + 8, struct.unpack(long_at, head[4:])[0])


class Recoded:
    """A data set in another encoding.

    Parameters
    ----------
    file
        Read by position while this is used.
    position, end
        Where the data set begins and ends in the file.
    source, target
        Its encoding, and the one that it gets.

    Raises
    ------
    MalformedError
        If the data set cannot be walked to its end, or its pixel data are compressed.
    """

    def __init__(self, file: IO[bytes], position: int, end: int, source: Encoding, target: Encoding) -> None:
        self._reader, self._target = _Reader(file, end), target
        order = ">" if target.big else "<"
        self._tag_and_long, self._long = struct.Struct(f"{order}HHL"), struct.Struct(f"{order}L")
        self._short = struct.Struct(f"{order}HH2sH")
        self._encoded = self._data_set(position, end, source, 0, None)

    def __len__(self) -> int:
        return self._encoded.length

    def blocks(self) -> Iterator[bytes]:
        """Yield the encoded bytes in order, a block at a time."""
        for piece in self._encoded.pieces:
            if not isinstance(piece, _Span):
                yield bytes(piece)
                continue
            for start in range(0, piece.length, _BLOCK):
                count = min(_BLOCK, piece.length - start)
                yield _swapped(self._reader.bytes_at(piece.position + start, count), piece.unit)

    def _data_set(self, position: int, end: int, source: Encoding, depth: int, outer: _Scope | None) -> _Encoded:
        """Encode the elements up to ``end``."""
        encoded, scope = _Encoded(), _Scope(outer, partial(self._pixel_representation, source, end))
        while position < end:
            scope.position = position
            element = self._reader.element(position, source)
            position = self._add(encoded, element, source, depth, scope)
        if position != end:
            raise MalformedError("an element is longer than what contains it")
        return encoded

    def _add(self, encoded: _Encoded, element: _Element, source: Encoding, depth: int, scope: _Scope) -> int:
        """Add one element, and give the position behind it."""
        vr = element.vr or scope.vr_of(element.tag)
        if element.length == UNDEFINED and element.tag == PIXEL_DATA:
            raise MalformedError("its pixel data are compressed, but its transfer syntax is not")
        if vr == "SQ" or element.length == UNDEFINED:
            inner = Encoding(explicit=False) if element.vr == "UN" else source
            items, position = self._items(element, inner, depth, scope)
            length = UNDEFINED if element.length == UNDEFINED else items.length
            encoded.add(self._header(element.tag, "SQ", length))
            encoded.extend(items)
            return position
        position = element.position + element.length
        if position > self._reader.end:
            raise MalformedError("it is truncated")
        if element.tag & 0xFFFF:
            self._add_value(encoded, element, vr, source, scope)
        return position

    def _add_value(self, encoded: _Encoded, element: _Element, vr: str, source: Encoding, scope: _Scope) -> None:
        if vr == "UN" and self._target.big and scope.vr_of(element.tag) != "SQ":
            # Readers disagree about the byte order of UN in Big Endian.
            vr = scope.vr_of(element.tag)
        if self._target.explicit and vr not in _LONG_VRS and element.length > _LONGEST_SHORT:
            # A length of 16 bits does not hold it (PS3.5 section 6.2.2). It comes from Implicit VR: little endian.
            vr = "UN"
        unit = scope.unit_of(element.tag, vr) if source.big != self._target.big else 1
        # A value of odd length is padded (PS3.5 section 7.1.1).
        padding = (b" " if vr in TEXT_VRS else b"\0") * (element.length % 2)
        encoded.add(self._header(element.tag, vr, element.length + len(padding)))
        if element.length >= _LONG:
            encoded.add_span(_Span(element.position, element.length, unit))
            encoded.add(padding)
            return
        value = self._reader.bytes_at(element.position, element.length)
        scope.note(element.tag, value, source)
        encoded.add(_swapped(value, unit) + padding)

    def _items(self, sequence: _Element, source: Encoding, depth: int, scope: _Scope) -> tuple[_Encoded, int]:
        """Encode the items of a sequence, and give the position behind it (PS3.5 section 7.5)."""
        if depth >= DEEPEST:
            raise MalformedError(f"its sequences are nested more than {DEEPEST} deep")
        encoded, position = _Encoded(), sequence.position
        end = self._reader.end if sequence.length == UNDEFINED else position + sequence.length
        while position < end:
            item = self._reader.element(position, source)
            if item.tag == SEQUENCE_END and sequence.length == UNDEFINED:
                encoded.add(self._header(SEQUENCE_END, "", 0))
                return encoded, item.position
            if item.tag == SEQUENCE_END and item.position == end:
                # Needless behind a defined length, and yet written.
                return encoded, end
            if item.tag != ITEM:
                raise MalformedError("a sequence contains something other than items")
            if item.length == UNDEFINED:
                content, position = self._open_item(item.position, source, depth + 1, scope)
            else:
                position = item.position + item.length
                content = self._data_set(item.position, position, source, depth + 1, scope)
            encoded.add(self._header(ITEM, "", UNDEFINED if item.length == UNDEFINED else content.length))
            encoded.extend(content)
        if position != end or sequence.length == UNDEFINED:
            raise MalformedError("a sequence has no end")
        return encoded, position

    def _open_item(self, position: int, source: Encoding, depth: int, outer: _Scope) -> tuple[_Encoded, int]:
        """Encode an item of undefined length with its delimiter, and give the position behind it."""
        encoded, scope = _Encoded(), _Scope(outer, partial(self._pixel_representation, source, self._reader.end))
        while True:
            scope.position = position
            element = self._reader.element(position, source)
            if element.tag == ITEM_END:
                encoded.add(self._header(ITEM_END, "", 0))
                return encoded, element.position
            position = self._add(encoded, element, source, depth, scope)

    def _pixel_representation(self, source: Encoding, end: int, position: int) -> int | None:
        """Look for (0028,0103) from a position on, at the level of that position."""
        walker = self._reader.walker(source)
        with suppress(MalformedError):
            while position < end:
                tag, length, value = walker.header(position, source.explicit)
                if tag == _PIXEL_REPRESENTATION:
                    return int.from_bytes(self._reader.bytes_at(value, 2), "big" if source.big else "little")
                if tag > _PIXEL_REPRESENTATION:
                    return None
                position = walker.after(position, length, value, source.explicit)
        return None

    def _header(self, tag: int, vr: str, length: int) -> bytes:
        group, number = tag >> 16, tag & 0xFFFF
        if not self._target.explicit or group == 0xFFFE:
            return self._tag_and_long.pack(group, number, length)
        if vr in _LONG_VRS:
            return self._short.pack(group, number, vr.encode(), 0) + self._long.pack(length)
        return self._short.pack(group, number, vr.encode(), length)


def _swapped(value: bytes, unit: int) -> bytes:
    """Reverse each unit; bytes behind the last whole one stay."""
    if unit == 1:
        return value
    whole = len(value) - len(value) % unit
    swapped = bytearray(value)
    for place in range(unit):
        swapped[place:whole:unit] = value[unit - 1 - place : whole : unit]
    return bytes(swapped)
