"""Names in six specific character sets, stored by us, found by name and read back: dcmqrscp and Orthanc.

What the peers do (DCMTK 3.6.7, Orthanc 1.10.1):

- Both compare the whole value, so a single component group of a name wants wild cards around it, or beside it.
- dcmqrscp answers in the charset of the instance. Where the query is in another one it converts both to UTF-8, which
  Debian's DCMTK cannot do with ISO 2022 IR 87: glibc's iconv lacks it. Where they are the same it compares bytes, the
  escape sequences around a character too: "*山*" is not found in "山田".
- Orthanc keeps everything as UTF-8 and answers in its ``DefaultEncoding``, whatever was asked in. It drops without a
  word what that lacks (https://orthanc.uclouvain.be/book/developers/implementation-notes.html).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.upper_layer import contexts
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.outcome import Category, InstanceCategory
from pacs_tasks.request import FindRequest, Level
from tests.support import dicom_files, peers
from tests.support.queries import find
from tests.support.sending import store

LOCAL = LocalAE(ae_title="CALLER")
PATIENT = Timeouts.of(20)


class Name(NamedTuple):
    """A person's name in all its component groups; ``key`` matches it by one of them."""

    number: int
    charset: str
    groups: dict[str, str]
    key: str

    @property
    def value(self) -> str:
        return "=".join(self.groups.values())


def _name(number: int, charset: str, key: str, *groups: str) -> Name:
    return Name(number, charset, dict(zip(("Alphabetic", "Ideographic", "Phonetic"), groups, strict=False)), key)


NAMES = (
    _name(1, "GB18030", "*=王^小东*", "Wang^XiaoDong", "王^小东", "ㄨㄤ^ㄒㄧㄠ"),
    _name(2, "GBK", "*=李^小龙*", "Li^XiaoLong", "李^小龙", "ㄌㄧ^ㄒㄧㄠ"),
    _name(3, "ISO_IR 192", "*=张^三丰*", "Zhang^SanFeng", "张^三丰", "ㄓㄤ^ㄙㄢ"),
    _name(4, "ISO_IR 100", "Äneas^R*", "Äneas^Rüdiger"),
    _name(5, "\\ISO 2022 IR 87", "*=山田^太郎*", "Yamada^Tarou", "山田^太郎", "やまだ^たろう"),
    _name(6, "\\ISO 2022 IR 149", "*=洪^吉洞*", "Hong^Gildong", "洪^吉洞", "홍^길동"),
)
EVERY = pytest.mark.parametrize("name", NAMES, ids=[name.charset.strip("\\") for name in NAMES])


def _store(remote: RemoteAE, directory: Path) -> None:
    files = []
    for name in NAMES:
        ds = dicom_files.instance(
            study=name.number, patient_id=f"P{name.number}", patient_name=name.value, charset=name.charset, rows=1
        )
        ds.StudyDescription = "CHEST"
        files.append(dicom_files.write(ds, directory / f"{name.number}.dcm"))
    instances = [part10.read_instance(str(path)) for path in files]
    [(proposed, batch)] = contexts.contexts_for(instances)
    with Association.open(LOCAL, remote, proposed, PATIENT) as assoc:
        assert all(store(assoc, instance).category is InstanceCategory.SUCCESS for instance in batch)


@pytest.fixture(
    scope="module",
    params=[pytest.param("orthanc", marks=pytest.mark.orthanc), pytest.param("dcmqrscp", marks=pytest.mark.dcmtk)],
)
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[peers.Peer]:
    """An archive with one study of each name."""
    directory = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        started: peers.Peer = stack.enter_context(getattr(peers, request.param)(directory))
        _store(started.remote, directory / "files")
        yield started


def _found(remote: RemoteAE, **fields: Any) -> list[dict[str, Any]]:
    outcome = find(FindRequest(remote=remote, **fields), LOCAL, PATIENT)
    assert outcome.category in {Category.SUCCESS, Category.WARNING}, outcome.status
    return list(outcome.matches)


@EVERY
@pytest.mark.parametrize("level", [Level.PATIENT, Level.STUDY])
def test_names_are_read_with_all_their_groups(archive: peers.Peer, name: Name, level: Level) -> None:
    """A query by patient id returns the name as it was stored, in whatever character set the archive answers."""
    [match] = _found(archive.remote, level=level, keys={"PatientID": f"P{name.number}"})
    assert match["00100010"]["Value"] == [name.groups]


@EVERY
@pytest.mark.parametrize("by_remote", [True, False])
def test_names_are_found_in_their_charset(archive: peers.Peer, name: Name, by_remote: bool) -> None:
    """The whole name, or one group with wild cards, matches its patient alone in either form."""
    remote = archive.remote.model_copy(update={"charset": name.charset}) if by_remote else archive.remote
    for key in (name.value, name.key):
        [match] = _found(remote, charset=None if by_remote else name.charset, keys={"PatientName": key})
        assert match["00100020"]["Value"] == [f"P{name.number}"]
        assert match["00100010"]["Value"] == [name.groups]


@EVERY
def test_names_are_found_in_utf8(archive: peers.Peer, name: Name) -> None:
    """A query without a character set goes out in UTF-8 and matches the names that the archive can convert.

    DCMTK's dcmqrscp converts Japanese ones in ISO 2022 IR 87 since 3.7; 3.6.7 finds none.
    """
    found = _found(archive.remote, keys={"PatientName": name.key})
    may_not = archive.ae_title == "DCMQRSCP" and "87" in name.charset
    assert [match["00100010"]["Value"] for match in found] in ([[name.groups]], *([[]] if may_not else []))


@pytest.mark.orthanc
def test_orthanc_drops_what_its_default_encoding_lacks(tmp_path: Path) -> None:
    """With Latin 1 it matches Chinese characters and omits them from the answer."""
    with peers.orthanc(tmp_path, DefaultEncoding="Latin1") as orthanc:
        _store(orthanc.remote, tmp_path / "files")
        [chinese] = _found(orthanc.remote, keys={"PatientName": "*=王^小东*"})
        [german] = _found(orthanc.remote, keys={"PatientName": "Äneas*"})
    assert chinese["00080005"]["Value"] == ["ISO_IR 100"]
    assert chinese["00100010"]["Value"][0]["Alphabetic"] == "Wang^XiaoDong"
    assert "王" not in str(chinese)
    assert german["00100010"]["Value"] == [{"Alphabetic": "Äneas^Rüdiger"}]
