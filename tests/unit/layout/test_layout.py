"""The places of retrieved files: readable names, whatever the data set holds, and never over another instance."""

from __future__ import annotations

import errno
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom import DataElement, Dataset, dcmread
from pydicom.config import IGNORE
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from pacs_tasks import layout
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.layout import Layout
from pacs_tasks.request import RetrieveRequest, build
from tests.support import dicom_files
from tests.support.dicom_files import CHINESE_NAME, UID_ROOT, study_uid

BY_NUMBER = "{PatientID}/{SeriesNumber:03}/{InstanceNumber:05}"
HOSTILE = (
    "../../etc/passwd",
    "..",
    ".",
    "/etc/passwd",
    "a/../../b",
    "a\\..\\b",
    "C:\\x",
    "CON",
    "nul.dcm",
    "com1",
    "LPT\u00b9",
    "-rf",
    ".hidden",
    "~root",
    "dots...",
    "a\u202egpj.exe",
    "tab\tline\nend\x1b[31m",
    "\x00",
    "   ",
    "",
    '*?<>|":',
    "\U0001f600" * 100,
    "x" * 5_000,
)


def _write(directory: Path, ds: Dataset) -> Path:
    return dicom_files.write(ds, directory / ".incoming.part")


def _place(layout: Layout, directory: Path, ds: Dataset) -> Path:
    path = _write(directory, ds)
    return layout.place(directory, path, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID).path


def _files(directory: Path) -> dict[str, str]:
    """The SOP Instance UID of each path below the directory."""
    found = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): str(dcmread(path).SOPInstanceUID) for path in found}


def test_without_a_template_files_are_called_after_their_uids(tmp_path: Path) -> None:
    """A template with only the UIDs gives the same names."""
    ds = dicom_files.instance()
    expected = tmp_path / study_uid() / f"{study_uid()}.1" / f"{ds.SOPInstanceUID}.dcm"
    for template in ("", "{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.dcm"):
        layout = Layout(template)
        assert layout.is_default
        assert _place(layout, tmp_path, ds) == expected
    assert not Layout(BY_NUMBER).is_default


@pytest.mark.parametrize("charset", ["GB18030", "ISO_IR 192"])
def test_a_template_makes_readable_names(charset: str, tmp_path: Path) -> None:
    """Text is decoded in its own character set, numbers are padded, and .dcm is added."""
    ds = dicom_files.instance(7, charset=charset)
    template = "{PatientName}/{StudyDate}_{Modality}_{StudyDescription}/{SeriesNumber:03}-{InstanceNumber:05}"
    placed = _place(Layout(template), tmp_path, ds)
    assert placed == tmp_path / CHINESE_NAME.replace("^", "_") / "20240115_CT_胸部" / "001-00007.dcm"
    assert dcmread(placed).SOPInstanceUID == ds.SOPInstanceUID


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_every_encoding_is_read(syntax: str, tmp_path: Path) -> None:
    """A deflated data set and a big endian one included."""
    ds = dicom_files.instance(7, transfer_syntax_uid=syntax)
    if syntax == ExplicitVRBigEndian:
        ds.set_original_encoding(False, False)
    placed = _place(Layout("{PatientName}_{InstanceNumber:03}"), tmp_path, ds)
    assert placed.name == f"{CHINESE_NAME.replace('^', '_')}_007.dcm"


def test_a_name_without_charset_is_read_in_that_of_the_remote(tmp_path: Path) -> None:
    """Some PACS never name their character set."""
    ds = dicom_files.instance(charset="GB18030")
    path = _write(tmp_path, ds)
    path.write_bytes(path.read_bytes().replace(b"\x08\x00\x05\x00CS\x08\x00GB18030 ", b"", 1))
    layout = Layout("{PatientName}", "GB18030")
    assert layout.place(tmp_path, path, "1.2", "1.3", ds.SOPInstanceUID).path.name == "张_三丰.dcm"


def test_the_first_group_of_a_name_is_taken(tmp_path: Path) -> None:
    """A person's name may have an alphabetic, an ideographic and a phonetic form (PS3.5 section 6.2.1.2)."""
    ds = dicom_files.instance(patient_name="Zhang^San=张^三", charset="ISO_IR 192")
    assert _place(Layout("{PatientName}"), tmp_path, ds).name == "Zhang_San.dcm"


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_value_never_leaves_the_directory(value: str, tmp_path: Path) -> None:
    """It becomes the name of a plain file on every system, Windows included, of at most 255 bytes."""
    out = tmp_path / "out"
    out.mkdir()
    ds = dicom_files.instance(charset="ISO_IR 192")
    for tag in ("PatientID", "StudyDescription"):
        ds[tag] = DataElement(tag, "LO", value, validation_mode=IGNORE)
    placed = _place(Layout("{PatientID}/x/{StudyDescription}"), out, ds)
    assert placed.resolve().is_relative_to(out.resolve())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    for name in placed.relative_to(out).parts:
        assert len(name.encode()) <= 255
        assert name[0] not in ".-~ "
        assert name[-1] not in ". "
        assert not re.search(r'[\x00-\x1f\x7f\u202e/\\<>:"|?*]', name)
        assert not re.match(r"(?i)(con|prn|aux|nul|(com|lpt)[0-9\u00b9])(\.|$)", name)
    if not value.strip("\x00 "):
        assert placed == out / "no-PatientID" / "x" / "no-StudyDescription.dcm"


def test_long_names_are_cut_between_characters_and_stay_apart() -> None:
    """Two names with the same beginning stay different."""
    texts = ["好" * 200 + end for end in "ab"]
    cut = [layout.component(text, ".dcm") for text in texts]
    assert cut[0] != cut[1]
    for name in cut:
        assert len(name.encode()) <= layout.LONGEST
        assert name.startswith("好" * 70)
        assert "\ufffd" not in name
    assert layout.component("x" * 251, ".dcm") == "x" * 251 + ".dcm"


def test_one_sign_becomes_one_sign() -> None:
    """So different values keep different names where possible."""
    told = [layout.of_value(value, "PatientID") for value in ("a", "a b", "a/b", "Ä", "A\u0308", "")]
    assert told == ["a", "a b", "a_b", "Ä", "Ä", "no-PatientID"]
    assert [layout.component(text) for text in ("..", "..a", "a..", "CON", "Con.x", "CONE")] == [
        "__", "__a", "a__", "_CON", "_Con.x", "CONE",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "width", "name"),
    [("7", 3, "007"), ("-7", 3, "-07"), ("1234", 3, "1234"), ("x7", 3, "x7"), ("", 3, "no-InstanceNumber")],
)
def test_widths_are_for_numbers(value: str, width: int, name: str) -> None:
    """Other values stay unchanged."""
    assert layout.of_value(value, "InstanceNumber", width) == name


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{PatientId}", "did you mean {PatientID}"),
        ("{patientname}/{SOPInstanceUID}", "did you mean {PatientName}"),
        ("{PixelData}", "the layout has a field that does not exist"),
        ("{}", "a field that does not exist"),
        ("  ", "is empty"),
        ("/", "is empty"),
        ("/data/{PatientID}", "leads out"),
        ("~/{PatientID}", "leads out"),
        ("../{PatientID}", ". or .. between slashes"),
        ("{PatientID}/../{StudyID}", ". or .. between slashes"),
        ("{PatientID}//{StudyID}", "nothing between two slashes"),
        ("{PatientID}/", "nothing between two slashes"),
        ("{PatientID}\\{StudyID}", "the character"),
        ("C:{PatientID}", "the character ':'"),
        ("{PatientID", "brace without its partner"),
        ("{PatientID}}", "brace without its partner"),
        ("{InstanceNumber:5d}", "write it as {InstanceNumber:05}"),
        ("{InstanceNumber:}", "write it as {InstanceNumber:05}"),
        ("{InstanceNumber:0999}", "write it as {InstanceNumber:05}"),
        ("x/" * 20 + "{PatientID}", "more than 10 parts"),
        ("x" * 2_000, "more than 1000 characters"),
    ],
)
def test_a_wrong_template_is_refused_where_it_enters(template: str, said: str) -> None:
    """The error names the mistake."""
    with pytest.raises(InvalidRequestError) as refused:
        build(RetrieveRequest, {"study_uid": "1.2", "output_dir": "/out", "layout": template})
    assert said in refused.value.message
    assert "\n" not in refused.value.message


def test_collisions_never_overwrite(tmp_path: Path) -> None:
    """The second instance of a name gets its UID added; each always returns to its own place, damaged ones too."""
    layout = Layout("{PatientID}/all")
    placed = {number: _place(layout, tmp_path, dicom_files.instance(number)) for number in (1, 2, 3)}
    uids = {number: str(dicom_files.instance(number).SOPInstanceUID) for number in (1, 2, 3)}
    assert {number: path.name for number, path in placed.items()} == {
        1: "all.dcm",
        2: f"all_{uids[2]}.dcm",
        3: f"all_{uids[3]}.dcm",
    }
    os.truncate(placed[1], 800)
    for number in (3, 2, 1):
        assert _place(layout, tmp_path, dicom_files.instance(number)) == placed[number]
    assert set(_files(tmp_path).values()) == set(uids.values())
    placed[1].unlink()
    # An instance keeps the place that it has.
    assert _place(layout, tmp_path, dicom_files.instance(2)) == placed[2]
    assert len(_files(tmp_path)) == 2


def test_other_files_are_not_overwritten_either(tmp_path: Path) -> None:
    """A note, a directory, an empty file."""
    for name, content in (("1.dcm", "a note"), ("2.dcm", "")):
        (tmp_path / name).write_text(content)
    (tmp_path / "3.dcm").mkdir()
    for number in (1, 2, 3):
        uid = dicom_files.instance(number).SOPInstanceUID
        placed = _place(Layout("{InstanceNumber}"), tmp_path, dicom_files.instance(number))
        assert placed.name == f"{number}_{uid}.dcm"
    assert ((tmp_path / "1.dcm").read_text(), (tmp_path / "2.dcm").read_text()) == ("a note", "")


@pytest.mark.parametrize("links", [True, False])
def test_two_that_come_at_once_both_stay(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several instances that want one name, one gets it, with and without hard links."""
    if not links:

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(1, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    instances = [dicom_files.instance(number, rows=4) for number in range(1, 41)]
    paths = [dicom_files.write(each, tmp_path / f".{number}.part") for number, each in enumerate(instances)]

    def place(number: int) -> Path:
        uid = str(instances[number].SOPInstanceUID)
        return Layout("{PatientID}/one").place(tmp_path, paths[number], study_uid(), f"{study_uid()}.1", uid).path

    with ThreadPoolExecutor(8) as pool:
        placed = list(pool.map(place, range(40)))
    assert len(set(placed)) == 40
    found = _files(tmp_path)
    assert sorted(found.values()) == sorted(str(each.SOPInstanceUID) for each in instances)
    assert {str(path.relative_to(tmp_path)) for path in placed} == set(found)


def test_a_link_that_leads_out_is_not_followed(tmp_path: Path) -> None:
    """A link that stays inside is followed."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    for directory in (out, elsewhere, out / "real"):
        directory.mkdir()
    (out / "P12345").symlink_to(elsewhere)
    (out / study_uid()).symlink_to(elsewhere)
    for template in (BY_NUMBER, ""):
        with pytest.raises(InvalidRequestError, match="leads out of it"):
            _place(Layout(template), out, dicom_files.instance())
    assert not list(elsewhere.iterdir())
    (out / "P12345").unlink()
    (out / "P12345").symlink_to(out / "real")
    placed = _place(Layout(BY_NUMBER), out, dicom_files.instance())
    assert placed.resolve() == out / "real" / "001" / "00001.dcm"


@pytest.mark.parametrize("template", ["", BY_NUMBER])
@pytest.mark.parametrize("copied", [False, True])
def test_nothing_is_written_through_a_link_that_takes_the_place_of_the_output_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, copied: bool
) -> None:
    """Somebody exchanges it after the first file, or after it was checked. A file of another file system is copied."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    names = Layout(template, root=out.resolve())
    _place(names, out, dicom_files.instance(1))
    out.rename(tmp_path / "moved")
    out.symlink_to(elsewhere)
    path = _write(tmp_path, ds := dicom_files.instance(2))
    if copied:

        def refuse(*_: object) -> None:
            raise OSError(errno.EXDEV, "another file system")

        monkeypatch.setattr(names, "_place", refuse)
    with pytest.raises(OSError, match="a link is in the place of a directory"):
        names.place(out, path, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
    assert not list(elsewhere.iterdir())
    assert path.exists()


def test_a_link_in_place_of_a_file_is_replaced_rather_than_followed(tmp_path: Path) -> None:
    """Its target stays unchanged."""
    out = tmp_path / "out"
    out.mkdir()
    elsewhere = dicom_files.write(dicom_files.instance(1, patient_id="other"), tmp_path / "kept.dcm")
    content = elsewhere.read_bytes()
    (out / "1.dcm").symlink_to(elsewhere)
    placed = _place(Layout("{InstanceNumber}"), out, dicom_files.instance(1))
    assert (placed.name, placed.is_symlink()) == ("1.dcm", False)
    assert elsewhere.read_bytes() == content


def test_a_removed_output_directory_is_not_created_again(tmp_path: Path) -> None:
    """Otherwise files could fill the directory below an unmounted mount point."""
    path = _write(tmp_path, dicom_files.instance())
    for template in ("", BY_NUMBER):
        with pytest.raises(FileNotFoundError):
            Layout(template).place(tmp_path / "gone", path, "1.2", "1.3", f"{UID_ROOT}.1.1.1")
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("uid", ["../../x", "", "1.2/3"])
def test_a_malformed_uid_is_refused(uid: str, tmp_path: Path) -> None:
    """The template makes no difference."""
    path = _write(tmp_path, dicom_files.instance())
    with pytest.raises(InvalidRequestError):
        Layout("{InstanceNumber}").place(tmp_path, path, "1.2", "1.3", uid)
    assert path.exists()
