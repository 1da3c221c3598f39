"""The instances of a :class:`~pacs_tasks.testing.TestPACS`, byte for byte as received."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from secrets import token_hex

from pydicom import Dataset, dcmwrite
from pydicom.filereader import read_dataset
from pydicom.uid import UID
from pynetdicom.dsutils import split_dataset

#: The header ends at the pixel data (PS3.3 section C.7.6.3).
_FIRST_BULK_TAG = 0x7FE00000


@dataclass(frozen=True)
class StoredBytes:
    """One instance, with its data set as received or as stored in its file."""

    #: As in the C-STORE request or the file meta information.
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    #: The file of the instance; None if it is held in memory.
    path: Path | None = None
    #: Bytes of the file before the data set.
    offset: int = 0
    _held: bytes = field(default=b"", repr=False)

    @property
    def data_set(self) -> bytes:
        """The encoded data set, without preamble and file meta information."""
        if self.path is None:
            return self._held
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read()

    @cached_property
    def header(self) -> Dataset:
        """The attributes before the pixel data, not decoded yet; empty if the data set cannot be read."""
        syntax = UID(self.transfer_syntax_uid)
        known = syntax.is_transfer_syntax and not syntax.is_private
        try:
            encoded = self.data_set
            if known and syntax.is_deflated:
                encoded = zlib.decompress(encoded, -zlib.MAX_WBITS)
            header = read_dataset(
                BytesIO(encoded),
                known and syntax.is_implicit_VR,
                not known or syntax.is_little_endian,
                stop_when=lambda tag, _vr, _length: tag >= _FIRST_BULK_TAG,
            )
        except Exception:  # noqa: BLE001 - pydicom raises almost any exception
            return Dataset()
        # What a query for it returns.
        header.AvailableTransferSyntaxUID = self.transfer_syntax_uid
        return header

    @classmethod
    def from_file(cls, path: Path) -> StoredBytes:
        """Return an instance that stays in its DICOM file.

        Raises
        ------
        ValueError
            If the file has no complete file meta information (PS3.10 section 7.1).
        """
        meta, offset = split_dataset(path)
        wanted = ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
        missing = [keyword for keyword in wanted if keyword not in meta]
        if missing:
            raise ValueError(f"{path} has no {' and no '.join(missing)} in its file meta information")
        return cls(
            str(meta.MediaStorageSOPClassUID),
            str(meta.MediaStorageSOPInstanceUID),
            str(meta.TransferSyntaxUID),
            path,
            offset,
        )

    @classmethod
    def from_dataset(cls, ds: Dataset) -> StoredBytes:
        """Encode a pydicom data set, in the transfer syntax of its ``file_meta``."""
        buffer = BytesIO()
        dcmwrite(buffer, ds, enforce_file_format=True)
        encoded = buffer.getvalue()
        # Preamble, prefix, then (0002,0000) UL: the length of the rest of group 0002 (PS3.10 section 7.1).
        offset = 144 + int.from_bytes(encoded[140:144], "little")
        return cls(
            str(ds.SOPClassUID), str(ds.SOPInstanceUID), str(ds.file_meta.TransferSyntaxUID), _held=encoded[offset:]
        )

    @classmethod
    def from_wire(
        cls, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, data_set: bytes
    ) -> StoredBytes:
        """Return an instance as received by C-STORE."""
        return cls(sop_class_uid, sop_instance_uid, transfer_syntax_uid, _held=data_set)

    def written(self, directory: Path, meta: bytes) -> StoredBytes:
        """Write the instance to a file below ``directory``, after ``meta``: preamble, prefix and group 0002."""
        name = self.sop_instance_uid
        if not re.fullmatch(r"[0-9.]{1,64}", name):
            name = sha256(name.encode()).hexdigest()
        path = directory / f"{name}.dcm"
        # Two callers may send the same instance at the same time.
        unfinished = path.with_suffix(f".{token_hex(8)}.part")
        unfinished.write_bytes(meta + self._held)
        unfinished.replace(path)
        return StoredBytes(self.sop_class_uid, self.sop_instance_uid, self.transfer_syntax_uid, path, len(meta))
