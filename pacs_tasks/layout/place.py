"""Move a complete file to its place in the layout."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from pacs_tasks.ae import DEFAULT_CHARSET
from pacs_tasks.dimse.files import part10, storage
from pacs_tasks.errors import InvalidRequestError, NotDicomError, UnreadableInputError
from pacs_tasks.layout import names
from pacs_tasks.request.template import DEFAULT, Field, parse

_ENDING = ".dcm"
#: Names to try for one instance: the one of the layout, with its UID, and with its UID and a number.
_MOST_NAMES = 20
#: Errors of a file system without hard links.
_NO_LINKS = frozenset((errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK))


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

    Attributes
    ----------
    depth
        The number of directories from a file up to the output directory, inclusive.

    Raises
    ------
    InvalidRequestError
        If the template is not valid.
    """

    def __init__(self, template: str = "", charset: str = DEFAULT_CHARSET, owner: str = "") -> None:
        try:
            self._components = parse(template or DEFAULT)
        except ValueError as error:
            raise InvalidRequestError(f"{error}") from None
        self.is_default = self._components == parse(DEFAULT)
        self.depth = len(self._components)
        self._charset, self._owner = charset, owner
        self._fields = {each for component in self._components for each in component if isinstance(each, Field)}
        #: Directories that are known to lie in the output directory.
        self._inside: set[Path] = set()

    def place(self, directory: Path, temporary: Path, study_uid: str, series_uid: str, sop_instance_uid: str) -> Path:
        """Move a complete file to its place. It replaces only an older file of the same SOP instance.

        Parameters
        ----------
        directory
            The output directory.
        temporary
            The file, which is gone afterwards. It may lie on another file system.

        Returns
        -------
        The new path. The same instance always gets the same path; if another file is there, the SOP Instance UID is
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
        near = storage.unfinished_path(directory, self._owner)
        try:
            # shutil.copy keeps the permissions, so that the same people may read the file.
            shutil.copy(temporary, near)
            placed = self._place(directory, near, *uids)
        finally:
            near.unlink(missing_ok=True)
        temporary.unlink()
        return placed

    def _place(self, directory: Path, temporary: Path, study_uid: str, series_uid: str, sop_instance_uid: str) -> Path:
        # This checks the UIDs, whatever the template: a remote must not choose where a file goes.
        by_uids = storage.instance_path(directory, study_uid, series_uid, sop_instance_uid)
        if self.is_default:
            # No other instance can have this name.
            self._prepare(directory, by_uids.parent)
            temporary.replace(by_uids)
            return by_uids
        *parents, stem = self._names(temporary, study_uid, series_uid, sop_instance_uid)
        parent = directory.joinpath(*(names.component(name) for name in parents))
        self._prepare(directory, parent)
        plain, *longer = (parent / names.component(stem, ending) for ending in _endings(sop_instance_uid))
        # An instance that got a longer name keeps it, even if the plain one is free by now.
        if _holds(longer[0], sop_instance_uid):
            return temporary.replace(longer[0])
        for target in (plain, *longer):
            if _claim(temporary, target):
                return target
            if _holds(target, sop_instance_uid):
                return temporary.replace(target)
        raise FileExistsError(errno.EEXIST, "other files have all names for the instance")

    def _names(self, temporary: Path, study_uid: str, series_uid: str, sop_instance_uid: str) -> list[str]:
        known = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid, "SOPInstanceUID": sop_instance_uid}
        wanted = {field.keyword for field in self._fields} - known.keys()
        values = {**names.values_of(str(temporary), wanted, self._charset), **known}
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
        """Create a directory below ``directory``, unless a link on the path leads out of it.

        A directory is checked once: whoever can change it later may write there anyway.
        """
        if parent in self._inside and parent.is_dir():
            return
        current = directory
        for name in parent.relative_to(directory).parts:
            current /= name
            # The output directory itself is not created again: someone may have moved it away on purpose.
            current.mkdir(exist_ok=True)
            if current.is_symlink() and not current.resolve().is_relative_to(directory.resolve()):
                raise InvalidRequestError(
                    "A link inside the output directory leads out of it, so nothing is written through it. Remove the "
                    "link.",
                    str(current),
                )
        self._inside.add(parent)


def _holds(path: Path, sop_instance_uid: str) -> bool:
    """Whether a file is this SOP instance by its head; the rest of it may be missing."""
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
    """Give a file a free name; False if another file has it. Of two processes that want it at once, one gets it."""
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
    """The same with an empty file, which nobody mistakes for an instance."""
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
