"""ZIP and tar archives: what they hold, and what they must not do to a worker."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pacs_tasks.dimse.sources import archive
from pacs_tasks.dimse.sources.archive import Unpacked, members
from pacs_tasks.errors import UnreadableInputError
from pacs_tasks.ledger.manifest import FileLine, decode, encode

ODD_NAMES = ["../../outside", "/etc/passwd", "a/../../b", "C:\\x.dcm", "same", "same", "张三/1", "a" * 300]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where members are unpacked."""
    directory = tmp_path / "unpacked"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_are_told_apart_by_their_place_and_leave_the_directory_by_no_name(
    tmp_path: Path, temporary: Path
) -> None:
    path = str(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.mkdir("empty")
        for number, name in enumerate(ODD_NAMES):
            packed.writestr(name, f"content {number}")
    before = set(tmp_path.iterdir())
    with Unpacked() as unpacked:
        files = [Path(unpacked.file(path, each)) for each in members(path)]
        assert [each.read_text() for each in files] == [f"content {number}" for number in range(len(ODD_NAMES))]
        assert {each.parent.parent for each in files} == {temporary}
        assert files[0].parent.stat().st_mode & 0o077 == 0
    assert not list(temporary.iterdir())
    assert set(tmp_path.iterdir()) == before


def test_what_a_killed_worker_left_goes_when_its_work_is_taken_up(tmp_path: Path, temporary: Path) -> None:
    """At once where the same part begins again, and after a day where it does not; others are left alone."""
    path = str(tmp_path / "a.zip")
    packed(Path(path))
    (member,) = members(path)

    def left(owner: str) -> Path:
        with Unpacked(owner) as unpacked:
            directory = Path(unpacked.file(path, member)).parent
            return shutil.copytree(directory, directory.with_name(f"{directory.name}-left"))

    mine, other, old = left("job 0-5"), left("job 5-10"), left("job 10-15")
    os.utime(old, (0, 0))
    with Unpacked("job 0-5", taken_up=True) as unpacked:
        assert (mine.exists(), other.exists()) == (False, True)
        unpacked.file(path, member)
    assert (other.exists(), old.exists()) == (True, False)


def packed(path: Path, method: int = zipfile.ZIP_STORED) -> bytearray:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("1.dcm", b"content of the file")
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("case", ["cut off", "no directory", "garbage"])
def test_an_archive_that_is_not_whole_is_refused_before_anything_is_sent(tmp_path: Path, case: str) -> None:
    path = tmp_path / "a.zip"
    content = bytes(packed(path))
    path.write_bytes({"cut off": content[:-5], "no directory": content[:40], "garbage": b"PK\3\4garbage"}[case])
    assert archive.is_archive(str(path))
    with pytest.raises(UnreadableInputError, match="not whole"):
        list(members(str(path)))


def damaged(content: bytearray) -> bytearray:
    content[content.index(b"content")] ^= 1
    return content


def encrypted(content: bytearray) -> bytearray:
    content[content.index(b"PK\1\2") + 8] |= 1
    return content


def packed_by_another_method(content: bytearray) -> bytearray:
    content[content.index(b"PK\1\2") + 10] = 99
    return content


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(damaged, "damaged"), (encrypted, "encrypted"), (packed_by_another_method, "method")],
    ids=["checksum", "encrypted", "method"],
)
@pytest.mark.usefixtures("temporary")
def test_a_member_that_cannot_be_unpacked_whole_is_no_file(
    tmp_path: Path, spoil: Callable[[bytearray], bytearray], reason: str
) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(spoil(packed(path)))
    (member,) = members(str(path))
    with Unpacked() as unpacked, pytest.raises(UnreadableInputError, match=reason) as caught:
        unpacked.file(str(path), member)
    assert caught.value.subject == f"{path}/1.dcm"


@pytest.mark.usefixtures("temporary")
def test_an_archive_that_changed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    packed(path)
    (member,) = members(str(path))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("another.dcm", b"content of the file")
    with Unpacked() as unpacked, pytest.raises(UnreadableInputError, match="has changed"):
        unpacked.file(str(path), member)


def test_an_archive_that_claims_more_than_it_can_hold_is_refused(tmp_path: Path) -> None:
    """The directory of this one claims 4 GB in 120 bytes."""
    path = tmp_path / "a.zip"
    content = packed(path, zipfile.ZIP_DEFLATED)
    entry = content.index(b"PK\1\2")
    content[entry + 24 : entry + 28] = b"\0\0\0\xf0"
    path.write_bytes(content)
    with pytest.raises(UnreadableInputError, match="fill a disk"):
        list(members(str(path)))


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"PK\3\4", True), (b"PK\5\6" + bytes(18), True), (b"", False), (b"PK\3\4".ljust(128, b"\0") + b"DICM", False)],
    ids=["archive", "empty archive", "empty file", "DICOM with a preamble of its own"],
)
def test_an_archive_is_recognised_by_its_content(tmp_path: Path, content: bytes, expected: bool) -> None:
    path = tmp_path / "named.dcm"
    path.write_bytes(content)
    assert archive.is_archive(str(path)) is expected
    assert not archive.is_archive(str(tmp_path))
    assert not archive.is_archive(str(tmp_path / "missing"))


def test_a_member_survives_its_way_through_the_manifest() -> None:
    line = FileLine("/data/a.zip/1.dcm", 7, "/data/a.zip", 3)
    assert decode(encode(line)) == line


_CONTENT = {"IM/1": b"1" * 1000, "x" * 200: os.urandom(200_000), "IM/2": b"2" * 513, "IM/1 ": b""}
_MODES = ("w", "w:gz", "w:bz2", "w:xz")


def tarred(path: Path, mode: str) -> str:
    """Write a tar, with a link, a directory and a name that is not UTF-8."""
    with tarfile.open(path, mode, encoding="gbk", format=tarfile.GNU_FORMAT) as file:  # type: ignore[call-overload]
        for name, content in {**_CONTENT, "张三/3": b"3"}.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            file.addfile(header, io.BytesIO(content))
        for name, kind in (("directory", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "/etc/passwd"
            file.addfile(header)
    return str(path)


@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.usefixtures("temporary")
def test_each_member_of_a_tar_comes_out_as_it_went_in(tmp_path: Path, mode: str) -> None:
    """In any order, and a link leads nowhere."""
    path = tarred(tmp_path / "named", mode)
    assert archive.is_archive(path)
    *files, chinese, link = members(path)
    assert [each.path for each in files] == [f"{path}/{name}" for name in _CONTENT]
    chinese.path.encode()
    line = FileLine(files[1].path, files[1].size, path, files[1].place)
    assert decode(encode(line)) == line
    with Unpacked() as unpacked:
        for each in (files[2], files[1], chinese, files[0], files[3]):
            name = each.path.removeprefix(f"{path}/")
            assert Path(unpacked.file(path, each)).read_bytes() == _CONTENT.get(name, b"3")
        with pytest.raises(UnreadableInputError, match="link"):
            unpacked.file(path, link)
        unpacked.clear()
        assert Path(unpacked.file(path, files[0])).read_bytes() == _CONTENT["IM/1"]


@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.parametrize("spoil", ["cut off", "damaged"])
def test_a_tar_that_is_not_whole_is_refused_before_anything_is_sent(tmp_path: Path, mode: str, spoil: str) -> None:
    """tarfile takes a damaged header for the end, and reads no checksum of what compresses it."""
    path = tmp_path / "a"
    content = bytearray(Path(tarred(path, mode)).read_bytes())
    if spoil == "cut off":
        del content[-15_000:]
    else:
        content[1536 if mode == "w" else len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UnreadableInputError, match="not whole"):
        list(members(str(path)))


def head(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    found = tarfile.TarInfo("a")
    found.size, found.type = size, kind
    return found.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (head(9 << 30), "fill a disk"),
        (head(9 << 30, tarfile.XHDTYPE), "damaged"),
        (head(9 << 30, tarfile.GNUTYPE_LONGNAME), "damaged"),
        (head(9 << 30, tarfile.GNUTYPE_SPARSE), "damaged"),
    ],
    ids=["size", "attributes", "name", "sparse"],
)
def test_a_compressed_tar_takes_no_more_than_it_holds(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.tgz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(UnreadableInputError, match=reason):
        list(members(str(path)))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
@pytest.mark.parametrize(
    "content", [b"", b"no tar", bytes(128) + b"DICM" + bytes(1000)], ids=["empty", "text", "DICOM"]
)
def test_what_is_compressed_without_being_a_tar_is_to_be_unpacked(
    tmp_path: Path, compress: Callable[[bytes], bytes], content: bytes
) -> None:
    """It is whole. A tar without members is none of these."""
    path = tmp_path / "a.dcm.gz"
    path.write_bytes(compress(content))
    with pytest.raises(UnreadableInputError, match="compressed, but it is not a tar archive"):
        list(members(str(path)))
    path.write_bytes(compress(bytes(10_240)))
    assert not list(members(str(path)))


@pytest.mark.usefixtures("temporary")
def test_a_compressed_tar_that_changed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.tgz"
    first, *_ = members(tarred(path, "w:gz"))
    path.write_bytes(gzip.compress(head(5).ljust(10_240, b"\0")))
    with Unpacked() as unpacked, pytest.raises(UnreadableInputError, match="has changed"):
        unpacked.file(str(path), first)
