"""Where retrieved instances go below the output directory.

The values of a template come from data sets that anybody may have written. So each value becomes a harmless name, links
that lead out of the output directory are not followed, and an existing file is replaced only by the same SOP instance.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import unicodedata
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pacs_tasks.ae import DEFAULT_CHARSET
from pacs_tasks.dimse.files import part10, storage
from pacs_tasks.dimse.files.elements import IMPLICIT_VR_LITTLE_ENDIAN, SPECIFIC_CHARACTER_SET, encode_implicit
from pacs_tasks.dimse.files.final_name import Folder, Placed
from pacs_tasks.dimse.files.regular import is_regular, read_regular
from pacs_tasks.dimse.find.match import decode_match
from pacs_tasks.errors import InvalidRequestError, NotDicomError, UnreadableInputError
from pacs_tasks.request.template import DEFAULT, FIELDS, Field, parse

#: The longest name that ext4, NTFS, APFS and XFS allow, in bytes of UTF-8.
LONGEST = 255
#: Characters that one of the systems to which files are copied does not allow in a name.
_FORBIDDEN = frozenset('/\\<>:"|?*')
#: Control and format characters (a right-to-left mark reverses ``gpj.exe``), halves of pairs, and line ends.
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"))
#: Device names of Windows, with any extension.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])(?:$|[ .])", re.IGNORECASE)
#: Bytes that are read of one value; a name has room for 255.
_LONGEST_VALUE = 1 << 10
#: Component groups of a person's name (PS3.5 section 6.2.1.2), the preferred one first.
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


# Values, from the head of a file


def values_of(path: str, keywords: Collection[str], charset: str) -> dict[str, str]:
    """Read the values of fields from a file, as :func:`elements_of`. Missing and unreadable ones are left out."""
    wanted = {FIELDS[keyword]: keyword for keyword in keywords}
    if not wanted:
        return {}
    decoded = elements_of(path, wanted, charset)
    return {keyword: _text(decoded.get(f"{tag:08X}", {})) for tag, keyword in wanted.items()}


def elements_of(path: str, tags: Collection[int], charset: str) -> dict[str, Any]:
    """Read elements from the head of a file, as DICOM JSON (PS3.18 annex F), in bounded memory and time.

    Parameters
    ----------
    charset
        The character set of data sets that do not name one.

    Returns
    -------
    Those that are there and can be read; none if it is not a DICOM file.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    try:
        instance = part10.read_instance(path)
    except (NotDicomError, UnreadableInputError):
        return {}
    with read_regular(path) as file:
        found = part10.read_values(file, instance, {*tags, SPECIFIC_CHARACTER_SET}, _LONGEST_VALUE)
    # Text is encoded alike in every transfer syntax, and matches have the same trouble with character sets.
    return decode_match(encode_implicit(found), IMPLICIT_VR_LITTLE_ENDIAN, charset)


def _text(element: dict[str, Any]) -> str:
    """The values of a DICOM JSON element (PS3.18 section F.2.2), joined."""
    return "_".join(_one(value) for value in element.get("Value") or [] if value is not None)


def _one(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    name = next((value[group] for group in _GROUPS if value.get(group)), "")
    return str(name).rstrip("^ ").replace("^", "_")


# Names


def of_value(value: str, keyword: str, width: int = 0) -> str:
    """Return a piece of a name for the value of a field; ``no-PatientID`` if it is empty.

    Parameters
    ----------
    width
        Pad a number with zeroes to this many digits.
    """
    text = value.strip(" \0")
    if width and re.fullmatch(r"[+-]?[0-9]{1,12}", text):
        text = f"{int(text):0{width}}"
    text = "".join(_harmless(each) for each in unicodedata.normalize("NFC", text)).strip()
    return text or f"no-{keyword}"


def _harmless(character: str) -> str:
    if character in _FORBIDDEN or unicodedata.category(character) in _UNSEEN:
        return "_"
    return " " if character.isspace() else character


def component(text: str, ending: str = "") -> str:
    """Return a name that no system mistakes for a hidden file, an option, a device or another directory.

    Parameters
    ----------
    text
        Pieces as :func:`of_value` returns them, and the text between them.
    ending
        The end of the name, such as ``.dcm``; it is never cut.

    Returns
    -------
    At most :data:`LONGEST` bytes. A name that had to be cut ends with a digest, so that two long names differ.
    """
    # One character replaces one, so that different names stay different.
    bare = text.rstrip(". ")
    text = bare + "_" * (len(text) - len(bare))
    bare = text.lstrip(".- ~")
    text = "_" * (len(text) - len(bare)) + bare
    if _DEVICE.match(text):
        text = f"_{text}"
    room = LONGEST - len(ending.encode())
    encoded = text.encode("utf-8", "replace")
    if len(encoded) > room:
        digest = f"~{hashlib.sha256(encoded).hexdigest()[:8]}"
        text = encoded[: room - len(digest)].decode("utf-8", "ignore").rstrip(". ") + digest
    return text + ending


_ENDING = ".dcm"
_CHUNK = 1 << 20
#: Names to try for one instance: the one of the layout, with its UID, and with its UID and a number.
_MOST_NAMES = 20


class Layout:
    """The names of files below an output directory.

    Parameters
    ----------
    template
        Fields and text (see :mod:`pacs_tasks.request.template`); empty: the UIDs of study, series and instance.
    charset
        The character set of data sets that do not name one.
    owner
        Who writes, as for :func:`pacs_tasks.dimse.files.storage.unfinished_path`.
    root
        Where the output directory is without links; None: where it is when the first file comes. Nothing is written
        once a link has come into that path.

    Attributes
    ----------
    depth
        The number of directories from a file up to the output directory, inclusive.

    Raises
    ------
    InvalidRequestError
        If the template is not valid.
    """

    def __init__(
        self, template: str = "", charset: str = DEFAULT_CHARSET, owner: str = "", root: Path | None = None
    ) -> None:
        try:
            self._components = parse(template or DEFAULT)
        except ValueError as error:
            raise InvalidRequestError(f"{error}") from None
        self.is_default = self._components == parse(DEFAULT)
        self.depth = len(self._components)
        self._charset, self._owner, self._root = charset, owner, root
        self._fields = {each for component in self._components for each in component if isinstance(each, Field)}
        #: Directories that are known to lie in the output directory, and where they are without links.
        self._inside: dict[Path, Path] = {}

    def place(self, directory: Path, temporary: Path, study_uid: str, series_uid: str, sop_instance_uid: str) -> Placed:
        """Move a complete file to its place. It replaces no file with other content: that is kept beside it.

        Parameters
        ----------
        directory
            The output directory.
        temporary
            The file, which is gone afterwards. It may lie on another file system.

        Returns
        -------
        The new path, with a remark if an older file of the instance has other content and is kept under another name.
        The same instance always gets the same path; if a file of another instance is there, the SOP Instance UID is
        added to the name.

        Raises
        ------
        InvalidRequestError
            If one of the UIDs is not a UID, or a link leads out of the output directory.
        OSError
            If the file cannot be written.
        """
        uids = study_uid, series_uid, sop_instance_uid
        try:
            return self._place(directory, temporary, *uids)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        near, descriptor = storage.create_unfinished(self._top(directory), self._owner, strict=True)
        try:
            with os.fdopen(descriptor, "wb") as copy, read_regular(str(temporary)) as file:
                shutil.copyfileobj(file, copy, _CHUNK)
                # The same people may read the file.
                os.chmod(  # noqa: PTH101 - a descriptor
                    descriptor if os.chmod in os.supports_fd else near, os.fstat(file.fileno()).st_mode & 0o777
                )
            placed = self._place(directory, near, *uids)
        finally:
            near.unlink(missing_ok=True)
        temporary.unlink()
        return placed

    def _place(
        self, directory: Path, temporary: Path, study_uid: str, series_uid: str, sop_instance_uid: str
    ) -> Placed:
        # This checks the UIDs, whatever the template: a remote must not choose where a file goes.
        by_uids = storage.kept_path(directory, study_uid, series_uid, sop_instance_uid)
        if self.is_default:
            # No other instance can have this name.
            with Folder(*self._prepared(directory, by_uids.parent), strict=True) as folder:
                return Placed(by_uids, folder.settle(temporary, by_uids.name))
        *parents, stem = self._names(temporary, study_uid, series_uid, sop_instance_uid)
        parent = directory.joinpath(*(component(name) for name in parents))
        plain, *longer = (parent / component(stem, ending) for ending in _endings(storage.safe_name(sop_instance_uid)))
        with Folder(*self._prepared(directory, parent), strict=True) as folder:
            # An instance that got a longer name keeps it, even if the plain one is free by now.
            if _holds(longer[0], sop_instance_uid):
                return Placed(longer[0], folder.settle(temporary, longer[0].name))
            for target in (plain, *longer):
                if folder.claim(temporary, target.name):
                    return Placed(target)
                if _holds(target, sop_instance_uid):
                    return Placed(target, folder.settle(temporary, target.name))
        raise FileExistsError(errno.EEXIST, "other files have all names for the instance")

    def _names(self, temporary: Path, study_uid: str, series_uid: str, sop_instance_uid: str) -> list[str]:
        uids = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid, "SOPInstanceUID": sop_instance_uid}
        known = {keyword: storage.safe_name(uid) if uid else "" for keyword, uid in uids.items()}
        wanted = {field.keyword for field in self._fields} - known.keys()
        values = {**values_of(str(temporary), wanted, self._charset), **known}
        return [
            "".join(
                of_value(values.get(piece.keyword, ""), piece.keyword, piece.width)
                if isinstance(piece, Field)
                else piece
                for piece in component
            )
            for component in self._components
        ]

    def _prepared(self, directory: Path, parent: Path) -> tuple[Path, Path]:
        """Give the output directory and one below it, both without links, unless a link there leads out.

        A directory is resolved once. If a link takes its place later, nothing is written through it.
        """
        top = self._top(directory)
        if parent not in self._inside:
            self._inside[parent] = self._resolved(top, top / parent.relative_to(directory))
        return top, self._inside[parent]

    def _top(self, directory: Path) -> Path:
        if self._root is None:
            self._root = directory.resolve()
        return self._root

    def _resolved(self, top: Path, parent: Path) -> Path:
        found = parent.resolve()
        if not found.is_relative_to(top):
            below = [parent, *parent.parents][len(parent.parts) - len(top.parts) :: -1]
            link = next(
                (each for each in below if each.is_symlink() and not each.resolve().is_relative_to(top)), parent
            )
            raise InvalidRequestError(
                "A link inside the output directory leads out of it, so nothing is written through it. Remove the "
                "link.",
                str(link),
            )
        return found


def _holds(path: Path, sop_instance_uid: str) -> bool:
    """Whether a file is this SOP instance by its head; the rest of it may be missing."""
    if not is_regular(str(path)):
        return False
    try:
        return part10.read_instance(str(path)).sop_instance_uid == sop_instance_uid
    except (NotDicomError, UnreadableInputError):
        return False


def _endings(sop_instance_uid: str) -> list[str]:
    with_uid = f"_{sop_instance_uid}"
    return [_ENDING, with_uid + _ENDING, *(f"{with_uid}_{number}{_ENDING}" for number in range(2, _MOST_NAMES))]
