"""Final names: never over another file without a trace, never through a link, whoever writes at the same time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from pacs_tasks.dimse.files import final_name, storage
from tests.support import dicom_files
from tests.support.dicom_files import data_set

NAME = "1.2/1.3/1.dcm"


def _temporary(root: Path, number: int = 0, **attributes: object) -> Path:
    """A complete file that has no final name yet."""
    root.mkdir(exist_ok=True)
    ds = dicom_files.instance(rows=4, **attributes)  # type: ignore[arg-type]
    return dicom_files.write(ds, root / f".{number}.part")


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(params=["openat", "by path"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory, on a system with openat and on one without."""
    if request.param == "by path":
        monkeypatch.setattr(final_name, "OPENAT", False)
    return tmp_path / "root"


def test_a_free_name_is_taken(root: Path) -> None:
    """The directories between are made, and nothing else is left."""
    content = _temporary(root).read_bytes()
    assert final_name.place(root / ".0.part", root, root / NAME) == ""
    assert _files(root) == {NAME: content}


def test_the_same_content_stays_once(root: Path) -> None:
    """Only the file meta information differs; the file gets a new time, so that whoever waits for it sees it come."""
    final_name.place(_temporary(root), root, root / NAME)
    os.utime(root / NAME, (1, 1))
    again = _temporary(root)
    again.write_bytes(again.read_bytes().replace(b"PYDICOM", b"SOMEONE"))
    assert final_name.place(again, root, root / NAME) == ""
    assert list(_files(root)) == [NAME]
    assert (root / NAME).stat().st_mtime > 1


def test_other_content_is_kept_beside_it_with_both_digests(root: Path) -> None:
    """Of three files none is lost; the latest has the name."""
    contents = [_temporary(root, number, patient_id=f"P{number}").read_bytes() for number in range(3)]
    digests = [hashlib.sha256(data_set(root / f".{number}.part")).hexdigest() for number in range(3)]
    remarks = [final_name.place(root / f".{number}.part", root, root / NAME) for number in range(3)]
    assert _files(root) == {NAME: contents[2], f"{NAME}.1": contents[0], f"{NAME}.2": contents[1]}
    assert not remarks[0]
    for number in (1, 2):
        assert f"new {digests[number]}, older {digests[number - 1]}" in remarks[number]
        assert f"kept with .{number} added" in remarks[number]


@pytest.mark.parametrize("kept", [0, 100, 500, -2])
def test_a_truncated_copy_is_replaced(root: Path, kept: int) -> None:
    """Nothing of it is lost: the new file begins with it."""
    content = _temporary(root).read_bytes()
    (root / NAME).parent.mkdir(parents=True)
    (root / NAME).write_bytes(content[:kept])
    assert final_name.place(root / ".0.part", root, root / NAME) == ""
    assert _files(root) == {NAME: content}


def test_a_whole_file_stays_beside_one_that_begins_with_it(root: Path) -> None:
    """Else whoever has its bytes could exchange it without a trace: the new one has an element more."""
    content = _temporary(root).read_bytes()
    (root / NAME).parent.mkdir(parents=True)
    (root / NAME).write_bytes(content)
    more = content + bytes.fromhex("e07f1000") + b"OB\0\0" + bytes.fromhex("02000000") + b"\1\2"
    (root / ".0.part").write_bytes(more)
    assert "kept with .1 added" in final_name.place(root / ".0.part", root, root / NAME)
    assert _files(root) == {NAME: more, f"{NAME}.1": content}


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe"])
def test_what_is_not_a_file_is_neither_followed_nor_lost(root: Path, tmp_path: Path, kind: str) -> None:
    """It is moved aside as it is."""
    elsewhere = tmp_path / "elsewhere"
    content = _temporary(root).read_bytes()
    (root / NAME).parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(root / NAME)
    else:
        (root / NAME).symlink_to(elsewhere)
    if kind == "link":
        elsewhere.write_bytes(content)
        os.utime(elsewhere, (1, 1))
    assert "is not a readable file" in final_name.place(root / ".0.part", root, root / NAME)
    assert (root / NAME).read_bytes() == content
    assert not (root / NAME).is_symlink()
    assert os.path.lexists(root / f"{NAME}.1")
    assert elsewhere.exists() is (kind == "link")
    assert kind != "link" or elsewhere.stat().st_mtime == 1


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("leads", ["out", "inside"])
def test_a_link_in_place_of_a_directory_is_not_followed(root: Path, tmp_path: Path, level: int, leads: str) -> None:
    """Of the study, or of the series."""
    _temporary(root)
    elsewhere = (tmp_path if leads == "out" else root) / "elsewhere"
    elsewhere.mkdir()
    link = root.joinpath(*Path(NAME).parts[:level])
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere)
    with pytest.raises(OSError, match="a link is in the place of a directory"):
        final_name.place(root / ".0.part", root, root / NAME)
    assert not list(elsewhere.iterdir())
    assert (root / ".0.part").exists()


def _exchanged(directory: Path, elsewhere: Path) -> None:
    """Put a link into the place of a directory, which lives on under another name."""
    directory.rename(directory.with_name("moved"))
    directory.symlink_to(elsewhere)


@pytest.mark.parametrize("moment", ["before", "amid"])
@pytest.mark.parametrize("name", ["top", "above"])
@pytest.mark.parametrize("makes", ["a name", "an unfinished file", "a directory"])
def test_a_strict_top_must_not_become_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, makes: str, name: str, moment: str
) -> None:
    """Before it is opened, or between that and the look at what was opened: nothing is written through the link."""
    top = tmp_path.resolve() / "above/top"
    top.parent.mkdir()
    temporary, elsewhere = _temporary(top), tmp_path / "elsewhere"
    exchange = partial(_exchanged, top if name == "top" else top.parent, elsewhere)
    (elsewhere if name == "top" else elsewhere / "top").mkdir(parents=True)
    look = final_name._is_at

    def exchange_and_look(*arguments: Any) -> bool:
        exchange()
        return look(*arguments)

    if moment == "before":
        exchange()
    else:
        monkeypatch.setattr(final_name, "_is_at", exchange_and_look)
    make: Callable[[], object] = {
        "a name": lambda: final_name.place(temporary, top, top / NAME, strict=True),
        "an unfinished file": lambda: storage.create_unfinished(top, strict=True),
        "a directory": lambda: final_name.open_directory(top, make=moment == "before"),
    }[makes]
    with pytest.raises(OSError, match="a link is in the place of a directory"):
        make()
    assert not [each for each in elsewhere.rglob("*") if each.name != "top"]


def test_a_directory_above_need_not_be_listed(tmp_path: Path) -> None:
    """It may only be entered, as the home of a user often is."""
    (tmp_path / "above/top").mkdir(parents=True)
    (tmp_path / "above").chmod(0o111)
    try:
        storage.make_directory(tmp_path.resolve() / "above/top/new")
    finally:
        (tmp_path / "above").chmod(0o755)
    assert (tmp_path / "above/top/new").is_dir()


def test_a_file_that_is_there_already_stays(root: Path) -> None:
    """Its temporary path and its final one are the same entry, by whatever path."""
    final_name.place(_temporary(root), root, root / NAME)
    (root.parent / "other").symlink_to(root)
    for path in (root / NAME, root.parent / "other" / NAME):
        assert final_name.place(path, root, root / NAME) == ""
    assert list(_files(root)) == [NAME]


def test_the_top_directory_is_never_made(root: Path, tmp_path: Path) -> None:
    """Somebody may have moved it away on purpose."""
    temporary = _temporary(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        final_name.place(temporary, root, root / NAME)
    assert temporary.exists()


@pytest.mark.parametrize("links", [True, False])
def test_writers_at_once_lose_nothing(root: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen contents want one name at the same moment: sixteen files are there in the end."""
    if not links:

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(1, "no links here")

        monkeypatch.setattr(os, "link", refuse)
        # Nobody relies on the others being quick.
        monkeypatch.setattr(final_name, "_PATIENCE", 0)
    paths = [_temporary(root, number, patient_id=f"P{number}") for number in range(16)]
    contents = sorted(path.read_bytes() for path in paths)
    together = Barrier(8)

    def place(path: Path) -> None:
        together.wait(10)
        final_name.place(path, root, root / NAME)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(place, paths))
    assert sorted(_files(root).values()) == contents


def test_a_flood_of_contents_stays_quick(root: Path) -> None:
    """After the first numbers the names are random, so that nobody counts to a thousand each time."""
    for number in range(60):
        final_name.place(_temporary(root, number, patient_id=f"P{number}"), root, root / NAME)
    assert len(_files(root)) == 60
