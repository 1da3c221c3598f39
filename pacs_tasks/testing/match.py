"""Which instances match the keys of a query, and what is answered (PS3.4 sections C.2.2 and C.4.1)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

from pydicom import Dataset
from pydicom.charset import decode_bytes, python_encoding
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag, Tag

from pacs_tasks.testing.instances import StoredBytes

#: The unique key of each level, from the root down (PS3.4 section C.6).
UNIQUE_KEYS: Final = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
_CHARSET: Final = Tag(0x0008, 0x0005)
_LEVEL: Final = Tag(0x0008, 0x0052)
_RETRIEVE_AE_TITLE: Final = Tag(0x0008, 0x0054)
_RANGES: Final = frozenset({"DA", "TM", "DT"})
#: VRs whose values are text, single or several between backslashes (PS3.5 section 6.2).
_TEXTS: Final = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
)
#: Attributes that no instance holds: how many of the second there are within one of the first (PS3.4 section C.3.4).
_COUNTS: Final = {
    "NumberOfPatientRelatedStudies": "StudyInstanceUID",
    "NumberOfPatientRelatedSeries": "SeriesInstanceUID",
    "NumberOfPatientRelatedInstances": "SOPInstanceUID",
    "NumberOfStudyRelatedSeries": "SeriesInstanceUID",
    "NumberOfStudyRelatedInstances": "SOPInstanceUID",
    "NumberOfSeriesRelatedInstances": "SOPInstanceUID",
}


def text(ds: Dataset, tag: BaseTag) -> str:
    """An attribute as text, decoded by the data set's own character set, never validated.

    pydicom warns about values that break the Standard's rules; a PACS lives with them.
    """
    if tag not in ds:
        return ""
    element = ds.get_item(tag)
    value = element.value
    if not isinstance(value, bytes):
        return "" if value is None else "\\".join(map(str, value)) if isinstance(value, list) else str(value)
    return decode_bytes(value, _encodings(ds), set()).strip(" \0")


def _encodings(ds: Dataset) -> list[str]:
    """The Python encodings for (0008,0005); unknown terms are read as Latin-1, which never fails."""
    element = ds.get_item(_CHARSET) if _CHARSET in ds else None
    value = b"" if element is None else element.value
    terms = value.decode("ascii", "replace") if isinstance(value, bytes) else "\\".join([value or ""])
    return [python_encoding.get(term.strip(" \0"), "iso8859") for term in terms.split("\\")]


def _vr(tag: BaseTag, ds: Dataset) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return str(ds.get_item(tag).VR or "UN")


def _pattern(key: str) -> re.Pattern[str]:
    """Wild card matching (PS3.4 section C.2.2.2.4); names are compared without regard to case, as most PACS do."""
    wild = {"*": ".*", "?": "."}
    return re.compile("".join(wild.get(each) or re.escape(each) for each in key), re.IGNORECASE | re.DOTALL)


def _matches_value(key: str, vr: str, value: str) -> bool:
    if vr == "UI":
        return value in key.split("\\")
    if vr in _RANGES and "-" in key:
        first, _, last = key.partition("-")
        return bool(value) and first <= value and (not last or value[: len(last)] <= last)
    if vr == "PN":
        # Any one component group may be asked for (PS3.5 section 6.2.1).
        groups = [value, *value.split("=")]
        return any(_pattern(key.rstrip("^ ")).fullmatch(group.rstrip("^ ")) for group in groups)
    return any(_pattern(key).fullmatch(each.strip()) for each in value.split("\\"))


def _tests(keys: Dataset) -> list[tuple[BaseTag, str, str]]:
    """The keys that restrict: (tag, VR, value). Zero length and a lone ``*`` match all (section C.2.2.2.3)."""
    found = []
    for tag in keys.keys():  # noqa: SIM118 - a data set iterates over decoded elements, its keys are tags
        keyword = keyword_for_tag(tag)
        vr = _vr(tag, keys)
        value = text(keys, tag) if vr in _TEXTS else ""
        if tag in {_CHARSET, _LEVEL, _RETRIEVE_AE_TITLE} or keyword in _COUNTS or value.strip("*") == "":
            continue
        if keyword == "ModalitiesInStudy":
            tag = Tag("Modality")  # noqa: PLW2901 - no instance holds the one, each holds the other
        found.append((tag, vr, value))
    return found


def without_counts(keys: Dataset) -> Dataset:
    """The same keys, but for those that ask how many studies, series or instances there are."""
    kept = Dataset()
    for tag in keys.keys():  # noqa: SIM118 - as above
        if keyword_for_tag(tag) not in _COUNTS:
            kept[tag] = keys.get_item(tag)
    return kept


def without_values(keys: Dataset, keywords: Collection[str]) -> Dataset:
    """The same keys, of which these have no value."""
    kept = Dataset()
    for tag in keys.keys():  # noqa: SIM118 - as above
        kept[tag] = _element(tag, _vr(tag, keys), b"") if keyword_for_tag(tag) in keywords else keys.get_item(tag)
    return kept


def has_uid_list(keys: Dataset) -> bool:
    """Whether a key is a list of UIDs (PS3.4 section C.2.2.2.2)."""
    return any(vr == "UI" and "\\" in value for _, vr, value in _tests(keys))


def select(instances: Iterable[StoredBytes], keys: Dataset) -> list[StoredBytes]:
    """The instances that every key matches."""
    tests = _tests(keys)
    return [
        instance
        for instance in instances
        if all(_matches_value(value, vr, text(instance.header, tag)) for tag, vr, value in tests)
    ]


def answers(
    instances: Iterable[StoredBytes], keys: Dataset, level: str, ae_title: str, *, with_charset: bool = True
) -> Iterator[Dataset]:
    """One identifier per patient, study, series or instance that the keys match.

    The text stays in the character set of its instance, which the answer names unless ``with_charset`` is false.
    """
    unique = Tag(UNIQUE_KEYS[level])
    held = list(instances)
    groups: dict[str, list[Dataset]] = {}
    for instance in held:
        groups.setdefault(text(instance.header, unique), []).append(instance.header)
    for uid in dict.fromkeys(text(instance.header, unique) for instance in select(held, keys)):
        yield _answer(groups[uid], keys, level, ae_title, with_charset=with_charset)


def _answer(members: Sequence[Dataset], keys: Dataset, level: str, ae_title: str, *, with_charset: bool) -> Dataset:
    first = members[0]
    answer = Dataset()
    wanted = {Tag(tag) for tag in keys.keys()} | {Tag(UNIQUE_KEYS[level])}  # noqa: SIM118 - as above
    for tag in wanted - {_CHARSET}:
        vr = _vr(tag, keys)
        computed = _COMPUTED.get(keyword_for_tag(tag))
        if tag == _LEVEL:
            value = level.encode()
        elif tag == _RETRIEVE_AE_TITLE:
            value = ae_title.encode()
        elif computed is not None:
            value = computed(members).encode()
        else:
            value = _raw(first, tag) if vr in _TEXTS else b""
        answer[tag] = _element(tag, vr, value)
    if with_charset and _CHARSET in first:
        answer[_CHARSET] = _element(_CHARSET, "CS", _raw(first, _CHARSET))
    return answer


def _raw(ds: Dataset, tag: BaseTag) -> bytes:
    element = ds.get_item(tag) if tag in ds else None
    value = None if element is None else element.value
    if isinstance(value, bytes):
        return value
    return b"" if value is None else text(ds, tag).encode("ascii", "replace")


def _element(tag: BaseTag, vr: str, value: bytes) -> RawDataElement:
    """An element that is written as it is, padded to even length (PS3.5 section 6.2)."""
    padded = value + (b"" if len(value) % 2 == 0 else b"\0" if vr == "UI" else b" ")
    return RawDataElement(tag, vr, len(padded), padded, 0, False, True, True)


def _count(tag: BaseTag) -> Callable[[Sequence[Dataset]], str]:
    return lambda members: str(len({text(member, tag) for member in members}))


def _modalities(members: Sequence[Dataset]) -> str:
    return "\\".join(sorted({text(member, Tag("Modality")) for member in members} - {""}))


_COMPUTED: Final[dict[str, Callable[[Sequence[Dataset]], str]]] = {
    "ModalitiesInStudy": _modalities,
    **{keyword: _count(Tag(tag_for_keyword(counted) or 0)) for keyword, counted in _COUNTS.items()},
}
