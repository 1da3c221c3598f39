"""TestPACS, called by the programs of DCMTK."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread

from pacs_tasks.testing import Faults, TestPACS
from tests.support import dicom_files, peers
from tests.support.processes import environment

pytestmark = pytest.mark.dcmtk


def dcmtk(*command: object, code: int = 0) -> str:
    """Return the output of a DCMTK program, which must exit with ``code``."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(TCP_NODELAY="1"),
        timeout=60,
        check=False,
    )
    said = done.stdout.decode("utf-8", "replace")
    assert done.returncode == code, said
    return said


def address(pacs: TestPACS) -> list[object]:
    return ["-aec", pacs.ae_title, pacs.host, pacs.port]


def keys(level: str, study: int = 1) -> list[str]:
    return ["-S", "-k", f"QueryRetrieveLevel={level}", "-k", f"StudyInstanceUID={dicom_files.study_uid(study)}"]


def test_that_echoscu_is_answered(pacs: TestPACS) -> None:
    """echoscu succeeds, and fails if its calling AE title is rejected."""
    dcmtk("echoscu", *address(pacs))
    pacs.faults = Faults(calling_aets=["SOMEBODY"])
    assert "Calling AE Title Not Recognized" in dcmtk("echoscu", *address(pacs), code=1)


@pytest.mark.parametrize("program", [["dcmsend"], ["storescu", "-xe"]], ids=["dcmsend", "storescu"])
def test_that_senders_of_dcmtk_are_served(pacs: TestPACS, tmp_path: Path, program: list[str]) -> None:
    """Instances from dcmsend and storescu are kept with their pixel data."""
    paths = dicom_files.write_series(tmp_path, 5)
    dcmtk(*program, *address(pacs), *paths)
    held = {dcmread(path).SOPInstanceUID: dcmread(path).PixelData for path in paths}
    assert {uid: dcmread_bytes(pacs, uid) for uid in pacs.instances} == held


def dcmread_bytes(pacs: TestPACS, uid: str) -> bytes:
    """The pixel data of the held instances: the last element of a generated one."""
    size = 64 * 64 * 2
    return pacs.instances[uid].data_set[-size:]


def test_that_findscu_gets_every_match() -> None:
    """findscu lists each instance of a study."""
    instances = [dicom_files.instance(number) for number in range(1, 4)]
    with TestPACS(instances=instances) as pacs:
        said = dcmtk("findscu", "-v", *keys("IMAGE"), "-k", "SOPInstanceUID", *address(pacs))
    for ds in instances:
        assert ds.SOPInstanceUID in said


def test_that_movescu_makes_it_deliver(storescp: peers.Directory) -> None:
    """movescu moves a study unchanged to storescp, and receives A801 for an unknown destination."""
    instances = dicom_files.sendable()[:1]
    with TestPACS(instances=instances) as pacs:
        (held,) = pacs.instances.values()
        study = str(held.header.StudyInstanceUID)
        command = ["movescu", "-S", "-aem", storescp.ae_title, "-k", "QueryRetrieveLevel=STUDY"]
        command += ["-k", f"StudyInstanceUID={study}"]
        dcmtk(*command, *address(pacs), code=69)
        assert storescp.files() == []
        pacs.destinations[storescp.ae_title] = ("127.0.0.1", storescp.port)
        dcmtk(*command, *address(pacs))
        (file,) = storescp.files()
        assert dicom_files.data_set(file) == held.data_set


def test_that_getscu_gets_every_instance(tmp_path: Path) -> None:
    """getscu retrieves a study unchanged."""
    with TestPACS(instances=[dicom_files.instance(number) for number in range(1, 4)]) as pacs:
        dcmtk("getscu", "+B", "-od", tmp_path, *keys("STUDY"), *address(pacs))
        held = sorted(each.data_set for each in pacs.instances.values())
    assert sorted(dicom_files.data_set(path) for path in tmp_path.iterdir()) == held
