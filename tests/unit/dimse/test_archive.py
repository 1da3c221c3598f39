"""ZIP and tar archives: what they hold, and what they must not do to a worker."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import struct
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pacs_tasks.dimse.sources import archive
from pacs_tasks.dimse.sources.archive import Unpacked, members
from pacs_tasks.dimse.sources.zip_directory import has_more_than
from pacs_tasks.errors import JobCancelledError, UnreadableInputError
from pacs_tasks.ledger.manifest import FileLine, decode, encode
from pacs_tasks.serve import spool
from pacs_tasks.serve.problems import RefusedError

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


#: A header of its own before the one for a member.
_COMMENT = tarfile.TarInfo.create_pax_global_header({"comment": "x"})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (head(9 << 30), "fill a disk"),
        (head(9 << 30, tarfile.XHDTYPE), "damaged"),
        (head(9 << 30, tarfile.GNUTYPE_LONGNAME), "damaged"),
        (head(9 << 30, tarfile.GNUTYPE_SPARSE), "damaged"),
        (_COMMENT + head(9 << 30, tarfile.XHDTYPE), "damaged"),
        (_COMMENT + head(9 << 30, tarfile.GNUTYPE_LONGNAME), "damaged"),
        (_COMMENT + head(9 << 30, tarfile.GNUTYPE_SPARSE), "damaged"),
    ],
    ids=["size", "attributes", "name", "sparse", "attributes, second", "name, second", "sparse, second"],
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


@contextmanager
def memory(most: int) -> Iterator[None]:
    """Check that no more than so many bytes are taken at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def for_all(**attributes: str) -> bytes:
    """A header whose attributes are those of each member that follows."""
    return tarfile.TarInfo.create_pax_global_header(attributes)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (for_all(path="x" * 1_000_000) + head(0) * 1_000, "damaged"),
        (for_all(path="x" * 10_000) + head(0) * 1_000, "damaged"),
        (b"".join(for_all(**{f"{each}": "x" * 60_000}) + head(0) for each in range(1_000)), "damaged"),
        (tarfile.TarInfo.create_pax_global_header({"comment": "x"}) * 9 + head(0), "damaged"),
        (tarfile.TarInfo("x" * 5_000).tobuf(tarfile.GNU_FORMAT), "more than 4,096 bytes"),
    ],
    ids=["long name for all", "name for all", "more and more for all", "nothing but headers", "long name"],
)
def test_names_in_a_tar_take_little_memory(tmp_path: Path, content: bytes, reason: str) -> None:
    """tarfile keeps what a header says of all members, and gives it to each."""
    path = tmp_path / "a.tar"
    path.write_bytes(content + bytes(1024))
    del content
    with memory(16_000_000), pytest.raises(UnreadableInputError, match=reason):
        list(members(str(path)))


def test_a_comment_for_all_members_is_no_matter(tmp_path: Path) -> None:
    """``git archive`` writes one."""
    path = tmp_path / "a.tar"
    path.write_bytes(for_all(comment="4b63458") + head(0) + bytes(1024))
    assert [each.path for each in members(str(path))] == [f"{path}/a"]


def test_directories_in_a_tar_count_and_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They compress to nothing, and none of them is a file that is asked for."""
    path = tmp_path / "a.tgz"
    path.write_bytes(gzip.compress(head(0, tarfile.DIRTYPE) * 101 + bytes(1024)))
    seen: list[int] = []

    def check() -> None:
        seen.append(1)
        if len(seen) == 5:
            raise JobCancelledError("stop")

    with pytest.raises(JobCancelledError):
        list(members(str(path), check))
    assert not list(members(str(path)))
    monkeypatch.setattr(archive, "_MOST_MEMBERS", 100)
    with pytest.raises(UnreadableInputError, match="more than 100 files"):
        list(members(str(path)))


def refused_by_the_worker(path: Path) -> None:
    with pytest.raises(UnreadableInputError, match="more than 20000 files"):
        list(members(str(path)))


def refused_by_the_server(path: Path) -> None:
    sink = spool.Archive(path.with_name("upload"), 1 << 30)
    sink.write(path.read_bytes())
    sink.close()
    with pytest.raises(RefusedError, match="more than 20000 files") as caught:
        sink.verify()
    assert caught.value.status == 413


@pytest.mark.parametrize("refused", [refused_by_the_worker, refused_by_the_server])
def test_entries_of_a_zip_are_counted_before_they_are_read(
    tmp_path: Path, refused: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many entries for one file: 1 MB, of which zipfile would make 10."""
    path, number = tmp_path / "a.zip", 20_001
    monkeypatch.setattr(archive, "_MOST_MEMBERS", number - 1)
    monkeypatch.setattr(spool, "_MOST_FILES", number - 1)
    content = packed(path)
    at, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    entry = bytearray(content[at : at + 46]) + b"x"
    entry[28:30] = b"\1\0"
    directory = bytes(entry) * number
    struct.pack_into("<L", content, end + 12, len(directory))
    path.write_bytes(content[:at] + directory + content[end:])
    del directory
    with memory(3_000_000):
        refused(path)


@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("front", [b"", b"#!/bin/sh" * 1_000], ids=["plain", "self-extracting"])
@pytest.mark.parametrize("comment", [b"", b"PK\5\6 is how it ends"], ids=["", "comment"])
def test_entries_of_a_zip_are_counted_as_zipfile_reads_them(
    zip64: bool, front: bytes, comment: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names go across the borders of what is read, and other data may be in front."""
    if zip64:
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for number in range(2_000):
            made.writestr(f"{number}{'x' * (number % 150)}", b"")
        made.comment = comment[::-1]
    file = io.BytesIO(front + file.getvalue())
    assert len(zipfile.ZipFile(file).infolist()) == 2_000
    assert [has_more_than(most, file) for most in (1, 1_999, 2_000, 2_001)] == [True, True, False, False]


def test_what_is_no_directory_of_a_zip_is_not_counted() -> None:
    """Whatever the end record says of it."""
    for content in (b"", b"PK\5\6", b"PK\5\6".ljust(22, b"\0").replace(bytes(4), b"\xff\0\0\0"), bytes(100)):
        with pytest.raises(zipfile.BadZipFile):
            has_more_than(0, io.BytesIO(content))
    empty = io.BytesIO(b"PK\5\6".ljust(22, b"\0"))
    assert not has_more_than(0, empty)
