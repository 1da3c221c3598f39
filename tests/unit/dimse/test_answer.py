"""What is taken in of one match: its bytes, its elements, and the depth of its sequences."""

from __future__ import annotations

import pytest

from pacs_tasks.ae import AnswerLimits, RemoteAE
from pacs_tasks.dimse.files.elements import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, encode_implicit
from pacs_tasks.dimse.find.answer import CountedAnswer
from pacs_tasks.errors import AnswerCutOffError
from tests.support import hostile

LIMITS = AnswerLimits(matches=3, answer_bytes=1 << 20, match_elements=100)
ITEM = 0xFFFE_E000


def _intake(content: bytes, syntax: str = EXPLICIT_VR_LITTLE_ENDIAN, limits: AnswerLimits = LIMITS) -> bytes:
    return CountedAnswer(RemoteAE(), limits).receive([memoryview(content)], syntax)


def _implicit(depth: int, number: int) -> bytes:
    """So many sequences of defined length within each other, with so many elements in the innermost item."""
    content = encode_implicit({0x0010_0010: b"AB"}) * number
    for _ in range(depth):
        content = encode_implicit({0x0040_0275: encode_implicit({ITEM: content})})
    return content


@pytest.mark.parametrize("content", [b"", hostile.study(1), *hostile.of_elements(80)(), *hostile.of_depth(16)()])
def test_a_usual_match_passes(content: bytes) -> None:
    assert _intake(content) == content


@pytest.mark.parametrize("number", [101, 50_000])
def test_elements_are_counted_within_sequences_too(number: int) -> None:
    """In sequences of undefined and of defined length, in either VR."""
    for content, syntax in (
        (hostile.study(1) + hostile.element(0x0029_1010, b"LO") * number, EXPLICIT_VR_LITTLE_ENDIAN),
        (_implicit(0, number), IMPLICIT_VR_LITTLE_ENDIAN),
        (_implicit(3, number), IMPLICIT_VR_LITTLE_ENDIAN),
    ):
        with pytest.raises(AnswerCutOffError, match=r"sent a match with more than 100 elements"):
            _intake(content, syntax)


@pytest.mark.parametrize("depth", [40, 2_000, 50_000])
def test_depth_is_bounded(depth: int) -> None:
    """However many sequences a match nests, it is the remote's fault, in words."""
    _, content = hostile.of_depth(depth)()
    with pytest.raises(AnswerCutOffError, match="more than 16 sequences within each other"):
        _intake(content, limits=AnswerLimits(match_elements=1_000_000))
    with pytest.raises(AnswerCutOffError, match=r"sequences within each other|more than 100 elements"):
        _intake(_implicit(min(depth, 2_000), 1), IMPLICIT_VR_LITTLE_ENDIAN)


def test_broken_matches_are_left_to_the_decoder() -> None:
    """What cannot be walked is no reason to cut off: its readable elements are shown."""
    content = hostile.study(1) + b"\x29\0\x10\x10LO\xff\xff" + b"x" * 2_000
    assert _intake(content) == content


def test_bytes_and_matches_add_up() -> None:
    """Over all requests of a query for bytes; for each request, and for what is kept, for matches."""
    counted = CountedAnswer(RemoteAE(), LIMITS)
    for _ in range(3):
        counted.receive([memoryview(hostile.study(1))], EXPLICIT_VR_LITTLE_ENDIAN)
    with pytest.raises(AnswerCutOffError, match="more than 3 matches"):
        counted.receive([memoryview(b"")], EXPLICIT_VR_LITTLE_ENDIAN)
    counted.begin_request()
    with pytest.raises(AnswerCutOffError, match="more than 1048576 bytes"):
        counted.receive([memoryview(bytes(1 << 20))], EXPLICIT_VR_LITTLE_ENDIAN)
    with pytest.raises(AnswerCutOffError, match="more than 3 matches"):
        counted.check_kept(4)


def test_one_match_has_an_end() -> None:
    """A match of which more and more comes is not collected for ever."""
    fragments = iter(lambda: memoryview(bytes(1 << 16)), None)
    with pytest.raises(AnswerCutOffError, match="match of more than 4194304 bytes"):
        CountedAnswer(RemoteAE(), AnswerLimits()).receive(fragments, EXPLICIT_VR_LITTLE_ENDIAN)


def test_a_limit_of_the_request_goes_beyond() -> None:
    """Whoever asks for so many matches gets them."""
    counted = CountedAnswer(RemoteAE(), LIMITS, 5)
    for _ in range(5):
        counted.receive([memoryview(b"")], EXPLICIT_VR_LITTLE_ENDIAN)
    with pytest.raises(AnswerCutOffError, match="more than 5 matches"):
        counted.receive([memoryview(b"")], EXPLICIT_VR_LITTLE_ENDIAN)
