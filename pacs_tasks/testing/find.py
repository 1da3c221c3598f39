"""C-FIND: how a :class:`~pacs_tasks.testing.TestPACS` matches and responds (PS3.4 sections C.2.2 and C.4.1)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import count, islice
from typing import Final

from pydicom import Dataset
from pydicom.charset import decode_bytes, python_encoding
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import STR_VR

from pacs_tasks.testing.association import QUERY_RETRIEVE_LEVELS
from pacs_tasks.testing.faults import Faults
from pacs_tasks.testing.instances import StoredBytes

_IDENTIFIER_DOES_NOT_MATCH: Final = 0xA900

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
_PATIENT_ID: Final = Tag("PatientID")
_RANGES: Final = frozenset({"DA", "TM", "DT"})
_SYNTAXES: Final = "AvailableTransferSyntaxUID"
#: Attributes that no instance holds (PS3.4 section C.3.4), and the attribute whose distinct values they count.
_COUNTS: Final = {
    "NumberOfPatientRelatedStudies": "StudyInstanceUID",
    "NumberOfPatientRelatedSeries": "SeriesInstanceUID",
    "NumberOfPatientRelatedInstances": "SOPInstanceUID",
    "NumberOfStudyRelatedSeries": "SeriesInstanceUID",
    "NumberOfStudyRelatedInstances": "SOPInstanceUID",
    "NumberOfSeriesRelatedInstances": "SOPInstanceUID",
}


def text(ds: Dataset, tag: BaseTag) -> str:
    """Return an attribute as text, decoded by the character set of the data set.

    It is never validated: pydicom warns about values that break the Standard, but a PACS accepts them.
    """
    if tag not in ds:
        return ""
    element = ds.get_item(tag)
    value = element.value
    if not isinstance(value, bytes):
        return "" if value is None else "\\".join(map(str, value)) if isinstance(value, list) else str(value)
    return decode_bytes(value, _encodings(ds), set()).strip(" \0")


def _encodings(ds: Dataset) -> list[str]:
    """The Python encodings for (0008,0005). Unknown terms are read as Latin-1, which never fails."""
    element = ds.get_item(_CHARSET) if _CHARSET in ds else None
    value = b"" if element is None else element.value
    terms = value.decode("ascii", "replace") if isinstance(value, bytes) else "\\".join([value or ""])
    return [python_encoding.get(term.strip(" \0"), "iso8859") for term in terms.split("\\")]


def _tags(ds: Dataset) -> list[BaseTag]:
    """The tags of a data set, without decoding its elements as iteration does."""
    return list(ds.keys())


def _vr(tag: BaseTag, ds: Dataset) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return str(ds.get_item(tag).VR or "UN")


def _pattern(key: str) -> re.Pattern[str]:
    """Wild card matching (PS3.4 section C.2.2.2.4). Names are compared without regard to case, as most PACS do."""
    wild = {"*": ".*", "?": "."}
    return re.compile("".join(wild.get(each) or re.escape(each) for each in key), re.IGNORECASE | re.DOTALL)


def _matches_value(key: str, vr: str, value: str) -> bool:
    if vr == "UI":
        return value in key.split("\\")
    if vr in _RANGES and "-" in key:
        first, _, last = key.partition("-")
        return bool(value) and first <= value and (not last or value[: len(last)] <= last)
    if vr == "PN":
        # The key may be any one component group (PS3.5 section 6.2.1).
        groups = [value, *value.split("=")]
        return any(_pattern(key.rstrip("^ ")).fullmatch(group.rstrip("^ ")) for group in groups)
    return any(_pattern(key).fullmatch(each.strip()) for each in value.split("\\"))


def _tests(keys: Dataset) -> list[tuple[BaseTag, str, str]]:
    """The keys with a value: (tag, VR, value). An empty value and a lone ``*`` match all (section C.2.2.2.3)."""
    found = []
    for tag in _tags(keys):
        keyword = keyword_for_tag(tag)
        vr = _vr(tag, keys)
        value = text(keys, tag) if vr in STR_VR else ""
        if tag in {_CHARSET, _LEVEL, _RETRIEVE_AE_TITLE} or keyword in _COUNTS or value.strip("*") == "":
            continue
        # Instances hold Modality; only studies have ModalitiesInStudy.
        found.append((Tag("Modality") if keyword == "ModalitiesInStudy" else tag, vr, value))
    return found


def _heeded(keys: Dataset, unknown: Collection[str], ignored: Collection[str]) -> Dataset:
    """The same keys, without those of some keywords and with others empty."""
    kept = Dataset()
    for tag in _tags(keys):
        keyword = keyword_for_tag(tag)
        if keyword not in unknown:
            kept[tag] = _element(tag, _vr(tag, keys), b"") if keyword in ignored else keys.get_item(tag)
    return kept


def has_uid_list(keys: Dataset) -> bool:
    """Whether a key is a list of UIDs (PS3.4 section C.2.2.2.2)."""
    return any(vr == "UI" and "\\" in value for _, vr, value in _tests(keys))


def select(instances: Iterable[StoredBytes], keys: Dataset) -> list[StoredBytes]:
    """Return the instances that match all keys."""
    tests = _tests(keys)
    return [
        instance
        for instance in instances
        if all(_matches_value(value, vr, text(instance.header, tag)) for tag, vr, value in tests)
    ]


def _matches(
    instances: Iterable[StoredBytes], keys: Dataset, level: str, ae_title: str, *, with_charset: bool = True
) -> Iterator[Dataset]:
    """One identifier for each patient, study, series or instance that matches the keys.

    Text stays in the character set of its instance, which the identifier names unless ``with_charset`` is False.
    """
    unique = Tag(UNIQUE_KEYS[level])
    held = list(instances)
    groups: dict[str, list[Dataset]] = {}
    for instance in held:
        groups.setdefault(text(instance.header, unique), []).append(instance.header)
    for uid in dict.fromkeys(text(instance.header, unique) for instance in select(held, keys)):
        yield _identifier(groups[uid], keys, level, ae_title, with_charset=with_charset)


def _identifier(members: Sequence[Dataset], keys: Dataset, level: str, ae_title: str, *, with_charset: bool) -> Dataset:
    first = members[0]
    identifier = Dataset()
    wanted = {*_tags(keys), Tag(UNIQUE_KEYS[level])}
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
            value = _raw(first, tag) if vr in STR_VR else b""
        identifier[tag] = _element(tag, vr, value)
    if with_charset and _CHARSET in first:
        identifier[_CHARSET] = _element(_CHARSET, "CS", _raw(first, _CHARSET))
    return identifier


def _raw(ds: Dataset, tag: BaseTag) -> bytes:
    element = ds.get_item(tag) if tag in ds else None
    value = None if element is None else element.value
    if isinstance(value, bytes):
        return value
    return b"" if value is None else text(ds, tag).encode("ascii", "replace")


def _element(tag: BaseTag, vr: str, value: bytes) -> RawDataElement:
    """An element whose bytes pydicom writes unchanged, padded to even length (PS3.5 section 6.2)."""
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


# Responses


def responses(
    held: Collection[StoredBytes], keys: Dataset, sop_class_uid: str, faults: Faults, ae_title: str
) -> Iterator[tuple[int, Dataset | None]]:
    """Each match with status pending, or the one status with which the query fails."""
    level = text(keys, _LEVEL)
    failure = _failure(keys, level, sop_class_uid, faults)
    if failure is not None:
        yield failure, None
        return
    if faults.refused_uid_lists and has_uid_list(keys):
        return
    unknown = (*(_COUNTS if faults.no_counts else ()), *(() if faults.lists_syntaxes else (_SYNTAXES,)))
    wanted = _heeded(keys, unknown, faults.ignored_keys)
    matches = partial(_matches, held, wanted, level, ae_title, with_charset=not faults.omit_charset)
    if faults.all_or_nothing and next(islice(matches(), faults.most_matches, None), None) is not None:
        yield faults.most_matches_status, None
        return
    found = _without_end(matches, Tag(UNIQUE_KEYS[level])) if faults.matches_without_end else matches()
    for match in islice(found, faults.most_matches):
        for keyword in faults.omitted_keys:
            match.pop(tag_for_keyword(keyword) or 0, None)
        _distort(match, faults)
        yield faults.pending_status, match
    if faults.most_matches_status and next(found, None) is not None:
        yield faults.most_matches_status, None


def _without_end(matches: Callable[[], Iterator[Dataset]], unique: BaseTag) -> Iterator[Dataset]:
    """The matches again and again, each time with another value of the unique key."""
    for number in count():
        for match in matches():
            match[unique] = _element(unique, _vr(unique, match), _raw(match, unique) + f".{number}".encode())
            yield match


def _distort(match: Dataset, faults: Faults) -> None:
    """Add to a match what no PACS that works sends."""
    for number in range(faults.match_elements):
        tag = Tag(0x0009 + 2 * (number >> 15), 0x8000 + (number & 0x7FFF))
        match[tag] = _element(tag, "LO", b"")
    if faults.match_bytes:
        tag = Tag(0x0009, 0x1001)
        match[tag] = _element(tag, "UT", b"x" * faults.match_bytes)
    item = Dataset()
    for _ in range(faults.match_depth):
        outer = Dataset()
        outer.RequestAttributesSequence = [item]
        item = outer
    match.update(item)
    if faults.related_instances is not None:
        for keyword, counted in _COUNTS.items():
            tag = Tag(keyword)
            if counted == "SOPInstanceUID" and tag in match:
                match[tag] = _element(tag, "IS", str(faults.related_instances).encode())


def _failure(keys: Dataset, level: str, sop_class_uid: str, faults: Faults) -> int | None:
    if faults.find_status is not None:
        return faults.find_status
    status = faults.find_statuses.get(text(keys, _PATIENT_ID))
    if status is not None:
        return status
    if level not in QUERY_RETRIEVE_LEVELS[sop_class_uid] or any(keyword in keys for keyword in faults.unknown_keys):
        return _IDENTIFIER_DOES_NOT_MATCH
    return faults.no_image_level if level == "IMAGE" else None
