"""Putting a whole file where the layout says."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from pathlib import Path

from pacs_tasks.ae import DEFAULT_CHARSET
from pacs_tasks.dimse.files import part10, storage
from pacs_tasks.errors import InvalidRequestError, NotDicomError, UnreadableInputError
from pacs_tasks.layout import names
from pacs_tasks.layout.head import values_of
from pacs_tasks.request.template import DEFAULT, Field, parse

_ENDING = ".dcm"
#: Names that are tried for one instance: that of the layout, with its UID, and with its UID and a number.
_MOST_NAMES = 20
#: A file system without hard links says one of these.
_NO_LINKS = frozenset((errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK))


class Layout:
    """How files are called below an output directory.

    Parameters
    ----------
    template
        Fields and names (see :mod:`pacs_tasks.request.template`); empty: the UIDs of study, series and instance.
    charset
        In which text is read where a data set names no character set of its own.
    """

    def __init__(self, template: str = "", charset: str = DEFAULT_CHARSET) -> None:
        try:
            self._components = parse(template or DEFAULT)
        except ValueError as error:
            raise InvalidRequestError(f"{error}") from None
        self.is_default = self._components == parse(DEFAULT)
        self._charset = charset
        self._fields = {each for component in self._components for each in component if isinstance(each, Field)}
        #: How many directories a file has up to the output directory, that one included.
        self.depth = len(self._components)
        #: Directories that were seen to lie in the output directory.
        self._inside: set[Path] = set()

    def place(self, directory: Path, temporary: Path, study_uid: str, series_uid: str, sop_instance_uid: str) -> Path:
        """Move a whole file to its place, which no other instance has; it replaces an older file of the same one.

        Parameters
        ----------
        directory
            The output directory.
        temporary
            The file, which is gone afterwards. It may lie on another file system.

        Returns
        -------
        Where it is now. The same instance comes to the same place each time; where that holds anything else, the SOP
        Instance UID is added to the name.

        Raises
        ------
        InvalidRequestError
            If one of the UIDs is none, or a link in the output directory leads away.
        OSError
            If it cannot be written.
        """
        uids = study_uid, series_uid, sop_instance_uid
        try:
            return self._place(directory, temporary, *uids)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        near = directory / f".{secrets.token_hex(12)}.part"
        try:
            # With its permissions: whoever may read it there may read it here.
            shutil.copy(temporary, near)
            placed = self._place(directory, near, *uids)
        finally:
            near.unlink(missing_ok=True)
        temporary.unlink()
        return placed

    def _place(self, directory: Path, temporary: Path, study_uid: str, series_uid: str, sop_instance_uid: str) -> Path:
        # A peer must not choose where a file goes, whatever the template makes of it.
        by_uids = storage.instance_path(directory, study_uid, series_uid, sop_instance_uid)
        if self.is_default:
            # This name belongs to this instance alone.
            self._prepare(directory, by_uids.parent)
            temporary.replace(by_uids)
            return by_uids
        *parents, stem = self._names(temporary, study_uid, series_uid, sop_instance_uid)
        parent = directory.joinpath(*(names.component(name) for name in parents))
        self._prepare(directory, parent)
        plain, *longer = (parent / names.component(stem, ending) for ending in _endings(sop_instance_uid))
        # Where it went when its place was taken, there it stays, also when that is free by now.
        if holds(longer[0], sop_instance_uid):
            return temporary.replace(longer[0])
        for target in (plain, *longer):
            if _claim(temporary, target):
                return target
            if holds(target, sop_instance_uid):
                return temporary.replace(target)
        raise FileExistsError(errno.EEXIST, "all names for an instance are taken by other files")

    def _names(self, temporary: Path, study_uid: str, series_uid: str, sop_instance_uid: str) -> list[str]:
        known = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid, "SOPInstanceUID": sop_instance_uid}
        read = values_of(str(temporary), {field.keyword for field in self._fields} - known.keys(), self._charset)
        values = {**read, **known}
        return [
            "".join(
                names.of_value(values.get(piece.keyword, ""), piece.keyword, piece.width)
                if isinstance(piece, Field)
                else piece
                for piece in component
            )
            for component in self._components
        ]

    def _prepare(self, directory: Path, parent: Path) -> None:
        """Make a directory below ``directory``, unless a link leads out on the way to it.

        Seen once, it is not looked at again: whoever can change it meanwhile may write there anyway.
        """
        if parent in self._inside and parent.is_dir():
            return
        current = directory
        for name in parent.relative_to(directory).parts:
            current /= name
            # Not the output directory itself: one that was taken away is not to be filled in secret.
            current.mkdir(exist_ok=True)
            if current.is_symlink() and not current.resolve().is_relative_to(directory.resolve()):
                raise InvalidRequestError(
                    "a link inside the output directory leads out of it, and nothing is written through it; "
                    "remove the link",
                    str(current),
                )
        self._inside.add(parent)


def holds(path: Path, sop_instance_uid: str) -> bool:
    """Whether a file is this SOP instance, as far as its head says; it may be cut off behind that."""
    if not path.is_file():
        return False
    try:
        return part10.read_instance(str(path)).sop_instance_uid == sop_instance_uid
    except (NotDicomError, UnreadableInputError):
        return False


def _endings(sop_instance_uid: str) -> list[str]:
    with_uid = f"_{sop_instance_uid}"
    return [_ENDING, with_uid + _ENDING, *(f"{with_uid}_{number}{_ENDING}" for number in range(2, _MOST_NAMES))]


def _claim(temporary: Path, target: Path) -> bool:
    """Give a file a name that nothing has; false if something has it. Of two who want it at once one gets it."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _claim_without_links(temporary, target)
    temporary.unlink()
    return True


def _claim_without_links(temporary: Path, target: Path) -> bool:
    """The same by an empty file, which nobody takes for an instance."""
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    try:
        temporary.replace(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return True
