"""Templates for the names of retrieved files: their fields and their syntax.

In ``{PatientID}/{StudyDate}_{Modality}/{InstanceNumber:05}``, ``/`` separates directories. The last component names the
file, which gets the suffix ``.dcm``. :mod:`pacs_tasks.layout` turns values into names.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, NamedTuple

from pydantic import AfterValidator

from pacs_tasks.ae import WrongValueError

#: The fields of a template and their tags. All of them are at the beginning of a data set.
FIELDS: Mapping[str, int] = MappingProxyType(
    {
        "SOPClassUID": 0x0008_0016,
        "SOPInstanceUID": 0x0008_0018,
        "StudyDate": 0x0008_0020,
        "SeriesDate": 0x0008_0021,
        "AcquisitionDate": 0x0008_0022,
        "ContentDate": 0x0008_0023,
        "StudyTime": 0x0008_0030,
        "SeriesTime": 0x0008_0031,
        "AcquisitionTime": 0x0008_0032,
        "ContentTime": 0x0008_0033,
        "AccessionNumber": 0x0008_0050,
        "Modality": 0x0008_0060,
        "Manufacturer": 0x0008_0070,
        "InstitutionName": 0x0008_0080,
        "ReferringPhysicianName": 0x0008_0090,
        "StationName": 0x0008_1010,
        "StudyDescription": 0x0008_1030,
        "SeriesDescription": 0x0008_103E,
        "PatientName": 0x0010_0010,
        "PatientID": 0x0010_0020,
        "PatientBirthDate": 0x0010_0030,
        "PatientSex": 0x0010_0040,
        "BodyPartExamined": 0x0018_0015,
        "ProtocolName": 0x0018_1030,
        "StudyInstanceUID": 0x0020_000D,
        "SeriesInstanceUID": 0x0020_000E,
        "StudyID": 0x0020_0010,
        "SeriesNumber": 0x0020_0011,
        "AcquisitionNumber": 0x0020_0012,
        "InstanceNumber": 0x0020_0013,
    }
)
#: The default.
DEFAULT = "{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}"
#: Components of 255 bytes each then fit into the 4,096 bytes of a path on Linux.
_MOST_COMPONENTS = 10
_LONGEST = 1_000
# Each is compiled at its first use: most commands have no template.
_FIELD = r"\{([^{}]*)\}"
_WIDTH = r"0?([1-9][0-9]?)"
#: Characters that file names on Windows cannot hold; files are often copied there.
_FORBIDDEN = r'[\x00-\x1f\x7f<>:"\\|?*]'


class Field(NamedTuple):
    """A field of a template. A number with fewer than ``width`` digits is padded with zeroes."""

    keyword: str
    width: int


#: The name of one directory or of the file: text and fields.
Component = tuple[str | Field, ...]


def parse(template: str) -> tuple[Component, ...]:
    """Read a template.

    Raises
    ------
    ValueError
        If it is wrong; the message is one sentence.
    """
    text = template.strip()
    if text.lower().endswith(".dcm"):
        text = text[: -len(".dcm")]
    if not text.strip("/ "):
        raise ValueError("the layout is empty; name fields such as {PatientID}/{StudyDate}/{SOPInstanceUID}")
    if len(text) > _LONGEST:
        raise ValueError(f"the layout has more than {_LONGEST} characters; make it shorter")
    if text.startswith(("/", "~")):
        raise ValueError(
            "the layout leads out of the output directory; begin it with a name or a field, not with / or ~"
        )
    pieces = text.split("/")
    if len(pieces) > _MOST_COMPONENTS:
        raise ValueError(f"the layout has more than {_MOST_COMPONENTS} parts between slashes; leave some out")
    return tuple(_component(piece.strip()) for piece in pieces)


def _component(text: str) -> Component:
    if not text:
        raise ValueError("the layout has nothing between two slashes, or ends with one; name the directory or the file")
    if text in {".", ".."}:
        raise ValueError(
            "the layout has . or .. between slashes, which may lead out of the output directory; leave it out"
        )
    found: list[str | Field] = []
    position = 0
    for match in re.finditer(_FIELD, text):
        found += [_literal(text[position : match.start()]), _field(match[1])]
        position = match.end()
    found.append(_literal(text[position:]))
    return tuple(each for each in found if each)


def _literal(text: str) -> str:
    if "{" in text or "}" in text:
        raise ValueError("the layout has a brace without its partner; write fields as {PatientID}")
    wrong = re.search(_FORBIDDEN, text)
    if wrong:
        raise ValueError(
            f"the layout has the character {wrong[0]!r}, which file names on Windows cannot hold; "
            "leave it out, and separate directories with /"
        )
    return text


def _field(text: str) -> Field:
    keyword, colon, spec = text.partition(":")
    if keyword not in FIELDS:
        raise _unknown_field(keyword)
    width = re.fullmatch(_WIDTH, spec)
    if colon and width is None:
        raise ValueError(f"the layout has a wrong width of {{{keyword}}}; write it as {{{keyword}:05}}")
    return Field(keyword, int(width[1]) if width else 0)


def _unknown_field(keyword: str) -> ValueError:
    """Make the error for a field that does not exist; it names the closest one, or all."""
    import difflib

    near = difflib.get_close_matches(keyword.lower(), [each.lower() for each in FIELDS], n=1)
    meant = next((each for each in FIELDS if near and each.lower() == near[0]), "")
    hint = f"did you mean {{{meant}}}" if meant else f"there are {', '.join(sorted(FIELDS))}"
    return WrongValueError(f"the layout has a field that does not exist; {hint}", f"{{{keyword}}}")


def check(template: str) -> str:
    """Return the template, or raise ``ValueError`` as :func:`parse` does."""
    parse(template)
    return template


#: A template. Empty: :data:`DEFAULT`.
Template = Annotated[str, AfterValidator(lambda template: template and check(template))]
