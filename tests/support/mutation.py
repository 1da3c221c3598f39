"""Conversations gone wrong: PDUs changed, cut, doubled, mixed up, and lengths that lie at every level.

Every change comes from a :class:`random.Random`, so a seed gives the same bytes again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from tests.support import messages

#: Lengths and numbers at which programs go wrong.
_TELLING: Final = (0, 1, 2, 3, 6, 7, 8, 64, 127, 128, 255, 256, 32_767, 32_768, 65_535, 65_536)
_TELLING_LONG: Final = (
    *_TELLING,
    (1 << 20) - 1,
    1 << 20,
    (1 << 20) + 1,
    0x7FFF_FFFF,
    1 << 31,
    0xFFFF_FFFE,
    0xFFFF_FFFF,
)
#: Items whose content is items again, and how many bytes stand before these.
_NESTED: Final = {0x20: 4, 0x21: 4, 0x50: 0}

Change = Callable[[Random, list[bytearray]], None]


def mutated(chance: Random, pdus: Sequence[bytes]) -> bytes:
    """The stream of these PDUs with one to six changes; about one in fifty keeps its bytes."""
    changed = [bytearray(pdu) for pdu in pdus]
    for _ in range(chance.choice((0, *[1] * 25, *[2] * 15, 4, 4, 4, 6, 6, 6))):
        if not changed:
            break
        chance.choice(_CHANGES)(chance, changed)
    stream = b"".join(changed)
    if chance.random() < 0.1:
        stream = stream[: chance.randrange(len(stream) + 1)]
    return stream


def pieces(chance: Random, stream: bytes) -> list[bytes]:
    """The stream as it is handed to a socket: mostly whole, else cut anywhere."""
    if chance.random() < 0.8:
        return [stream]
    sizes = [chance.choice((1, 5, 6, 12, 100, 5_000)) for _ in range(20)]
    return list(messages.in_pieces(stream, [*sizes, len(stream) or 1]))


def _place(chance: Random, pdu: bytearray) -> int:
    """A place in a PDU, more often near its beginning, where headers are."""
    return chance.randrange(min(len(pdu), chance.choice((12, 80, 400, len(pdu) or 1))) or 1)


def _flip(chance: Random, pdus: list[bytearray]) -> None:
    pdu = chance.choice(pdus)
    for _ in range(chance.choice((1, 1, 2, 8))):
        if pdu:
            pdu[_place(chance, pdu)] ^= 1 << chance.randrange(8)


def _overwrite(chance: Random, pdus: list[bytearray]) -> None:
    pdu = chance.choice(pdus)
    at = _place(chance, pdu)
    size = chance.choice((1, 2, 4))
    value = chance.choice(_TELLING_LONG) & ((1 << 8 * size) - 1)
    pdu[at : at + size] = value.to_bytes(size, chance.choice(("big", "little")))


def _insert(chance: Random, pdus: list[bytearray]) -> None:
    pdu = chance.choice(pdus)
    at = _place(chance, pdu)
    pdu[at:at] = chance.randbytes(chance.choice((1, 2, 4, 8, 100)))
    _mend(chance, pdu)


def _remove(chance: Random, pdus: list[bytearray]) -> None:
    pdu = chance.choice(pdus)
    at = _place(chance, pdu)
    del pdu[at : at + chance.choice((1, 2, 4, 8, 100))]
    _mend(chance, pdu)


def _cut(chance: Random, pdus: list[bytearray]) -> None:
    pdu = chance.choice(pdus)
    del pdu[chance.randrange(len(pdu) + 1) :]
    _mend(chance, pdu)


def _mend(chance: Random, pdu: bytearray) -> None:
    """Mostly make the length of a PDU right again, so that what is within it gets read."""
    if len(pdu) >= 6 and chance.random() < 0.7:
        struct.pack_into(">L", pdu, 2, len(pdu) - 6)


def _lie_about_a_pdu(chance: Random, pdus: list[bytearray]) -> None:
    pdu = chance.choice(pdus)
    if len(pdu) >= 6:
        near = max(len(pdu) - 6 + chance.randrange(-8, 9), 0)
        struct.pack_into(">L", pdu, 2, chance.choice((near, near, chance.choice(_TELLING_LONG))))


def _lie_about_a_pdv(chance: Random, pdus: list[bytearray]) -> None:
    pdu, places = _with(chance, pdus, 4, _pdv_places)
    if places:
        at = chance.choice(places)
        near = max(struct.unpack_from(">L", pdu, at)[0] + chance.randrange(-8, 9), 0)
        struct.pack_into(">L", pdu, at, min(chance.choice((near, near, chance.choice(_TELLING_LONG))), 0xFFFF_FFFF))


def _head_of_a_pdv(chance: Random, pdus: list[bytearray]) -> None:
    """Another presentation context, another message control header."""
    pdu, places = _with(chance, pdus, 4, _pdv_places)
    if places:
        at = chance.choice(places)
        if chance.random() < 0.5 and at + 4 < len(pdu):
            pdu[at + 4] = chance.choice((0, 1, 2, 3, 5, 7, 255, chance.randrange(256)))
        elif at + 5 < len(pdu):
            pdu[at + 5] = chance.choice((0, 1, 2, 3, 4, 255, chance.randrange(256)))


def _lie_about_an_item(chance: Random, pdus: list[bytearray]) -> None:
    pdu, places = _with(chance, pdus, chance.choice((1, 2)), _item_places)
    if places:
        at = chance.choice(places)
        near = max(struct.unpack_from(">H", pdu, at)[0] + chance.randrange(-8, 9), 0)
        struct.pack_into(">H", pdu, at, min(chance.choice((near, near, chance.choice(_TELLING))), 0xFFFF))


def _nest_items(chance: Random, pdus: list[bytearray]) -> None:
    """Items in items in items, thousands of empty ones, and sub-items that promise more than they hold."""
    pdu, places = _with(chance, pdus, chance.choice((1, 2)), _item_places)
    if not places:
        return
    hostile = chance.choice(
        (
            b"\x50\0\xff\xff" * 1_000,
            b"\x20\0\0\0" * 2_000,
            b"\x40\0\0\0" * 3_000,
            b"".join(b"\x50\0" + struct.pack(">H", 4 * depth) for depth in range(500, 0, -1)),
            b"\x54\0\0\x04\xff\xff\1\1",
            b"\x54\0\0\x06\0\x02\x31\xff\1\1" * 500,
            b"\x51\0\0\0",
            b"\x51\0\0\x03abc",
            b"\x53\0\0\x04\0\0\0\0",
            b"\x53\0\0\x04\xff\xff\xff\xff",
            b"\x53\0\0\x01\0",
        )
    )
    at = chance.choice(places) + 2
    pdu[at:at] = hostile
    _mend(chance, pdu)
    if chance.random() < 0.5 and len(pdu) >= at:
        # The item around it is longer as well.
        struct.pack_into(">H", pdu, at - 2, min(struct.unpack_from(">H", pdu, at - 2)[0] + len(hostile), 0xFFFF))


def _lie_about_an_element(chance: Random, pdus: list[bytearray]) -> None:
    """The lengths and values of a command set."""
    pdu, places = _with(chance, pdus, 4, _element_places)
    if places:
        at = chance.choice(places)
        value = chance.choice(_TELLING_LONG)
        struct.pack_into("<L", pdu, at, value) if chance.random() < 0.5 else struct.pack_into(
            "<H", pdu, min(at + 4, len(pdu) - 2), value & 0xFFFF
        )


def _random_content(chance: Random, pdus: list[bytearray]) -> None:
    pdu = chance.choice(pdus)
    pdu[6:] = chance.randbytes(chance.choice((0, 1, 4, 68, 1_000)))
    _mend(chance, pdu)


def _double(chance: Random, pdus: list[bytearray]) -> None:
    at = chance.randrange(len(pdus))
    pdus[at:at] = [bytearray(pdus[at]) for _ in range(chance.choice((1, 1, 2, 50)))]


def _drop(chance: Random, pdus: list[bytearray]) -> None:
    del pdus[chance.randrange(len(pdus))]


def _swap(chance: Random, pdus: list[bytearray]) -> None:
    one, other = chance.randrange(len(pdus)), chance.randrange(len(pdus))
    pdus[one], pdus[other] = pdus[other], pdus[one]


def _foreign(chance: Random, pdus: list[bytearray]) -> None:
    """A PDU of any type, known or not, where none was due."""
    kind = chance.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 255))
    content = chance.choice((b"", bytes(4), b"\0\1\2\3", chance.randbytes(68), chance.randbytes(300)))
    whole = chance.choice((messages.ABORT, messages.RELEASE, messages.RELEASED, messages.pdu(kind, content)))
    pdus.insert(chance.randrange(len(pdus) + 1), bytearray(whole))


def _noise(chance: Random, pdus: list[bytearray]) -> None:
    pdus.insert(chance.randrange(len(pdus) + 1), bytearray(chance.randbytes(chance.choice((1, 6, 20, 1_000)))))


_CHANGES: Final[tuple[Change, ...]] = (
    *(_flip, _flip, _overwrite, _overwrite, _insert, _remove, _cut),
    *(_lie_about_a_pdu, _lie_about_a_pdv, _lie_about_an_item, _lie_about_an_item, _lie_about_an_element),
    *(_head_of_a_pdv, _nest_items, _random_content),
    *(_double, _drop, _swap, _foreign, _noise),
)


def _with(
    chance: Random, pdus: list[bytearray], kind: int, places: Callable[[bytearray], list[int]]
) -> tuple[bytearray, list[int]]:
    """One PDU of this type, and the places in it that may be changed."""
    some = [pdu for pdu in pdus if pdu[:1] == bytes((kind,))]
    if not some:
        return bytearray(), []
    pdu = chance.choice(some)
    return pdu, places(pdu)


def _pdv_places(pdu: bytearray) -> list[int]:
    """Where the lengths of its PDVs stand."""
    found, at = [], 6
    while at + 6 <= len(pdu):
        found.append(at)
        at += 4 + max(int.from_bytes(pdu[at : at + 4], "big"), 2)
    return found


def _item_places(pdu: bytearray) -> list[int]:
    """Where the lengths of its items and sub-items stand."""
    found: list[int] = []

    def walk(at: int, end: int, depth: int) -> None:
        while at + 4 <= end:
            kind, length = struct.unpack_from(">BxH", pdu, at)
            found.append(at + 2)
            if kind in _NESTED and depth < 3:
                walk(at + 4 + _NESTED[kind], min(at + 4 + length, end), depth + 1)
            at += 4 + length

    walk(74, len(pdu), 0)
    return found


def _element_places(pdu: bytearray) -> list[int]:
    """Where the lengths of the elements of its command sets stand."""
    found = []
    for start in _pdv_places(pdu):
        at, end = start + 6, min(start + 4 + int.from_bytes(pdu[start : start + 4], "big"), len(pdu))
        while pdu[start + 5] & messages.COMMAND and at + 8 <= end:
            found.append(at + 4)
            at += 8 + int.from_bytes(pdu[at + 4 : at + 8], "little")
    return found
