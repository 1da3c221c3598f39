"""The demo: every operation once, against a PACS of its own, and nothing is left running.

The demo plays the PACS with pynetdicom, which no other command imports.
"""

from __future__ import annotations

import base64
import http.client
import json
import random
import secrets
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import pydicom
from pydicom import dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from pacs_tasks import embedded
from pacs_tasks.ae import RemoteAE
from pacs_tasks.cli.output.terminal import size
from pacs_tasks.cli.stack.processes import Stack, check_port, is_listening
from pacs_tasks.cli.stack.services import LOGIN, START_LIMIT
from pacs_tasks.client import Job, PacsClient
from pacs_tasks.connection import connect
from pacs_tasks.dimse.files import damage, part10
from pacs_tasks.embedded.launch import environment
from pacs_tasks.errors import ConfigurationError, PacsTasksError
from pacs_tasks.fleet.receivers import running
from pacs_tasks.outcome import Outcome
from pacs_tasks.request import FindRequest, RetrieveMethod, RetrieveRequest, StoreDirectoryRequest
from pacs_tasks.settings import Settings
from pacs_tasks.testing import TestPACS

_CT_INSTANCES = 200
_CHINESE_NAME = "张^三丰"
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_AE_TITLE = "DEMO_PACS"
#: Seconds that one job of the demo may take.
_PATIENCE = 120.0
#: SOP Instance UID -> transfer syntax and encoded data set.
Instances = dict[str, tuple[str, bytes]]
T = TypeVar("T", bound=Outcome)


def run_demo(settings: Settings, say: Callable[[str], None]) -> bool:
    """Start everything, send, query, retrieve by C-MOVE and C-GET, compare, and stop everything.

    Parameters
    ----------
    say
        Gets a sentence about each step.

    Returns
    -------
    bool
        Whether everything that was sent came back, byte for byte.
    """
    begun = time.monotonic()
    # pydicom warns about some of the files that it ships: they break the Standard on purpose.
    warnings.filterwarnings("ignore", module=r"pydicom\.")
    with tempfile.TemporaryDirectory(prefix="pacs-tasks-demo-") as name:
        root = Path(name)
        settings = settings.model_copy(
            update={
                "redis_url": None,
                "data_dir": root / "data",
                "receiver_dir": None,
                "receiver_host": "127.0.0.1",
                "receiver_port": check_port("The receiver", "PACS_TASKS_RECEIVER_PORT", "127.0.0.1", 0),
                "flower_port": check_port("Flower", "PACS_TASKS_FLOWER_PORT", "127.0.0.1", 0),
            }
        )
        with _everything(settings, say) as (client, pacs):
            complete = _round_trip(client, pacs, root, say)
    say(f"Everything was stopped and removed after {time.monotonic() - begun:.1f} s.")
    return complete


@contextmanager
def _everything(settings: Settings, say: Callable[[str], None]) -> Iterator[tuple[PacsClient, TestPACS]]:
    """Run the server, worker, receiver, Flower and PACS for the block."""
    login = f"demo:{secrets.token_urlsafe(12)}"
    with ExitStack() as stack:
        stack.callback(embedded.stop, settings)
        url = stack.enter_context(embedded.attach(settings))
        processes = stack.enter_context(Stack())
        variables = environment(settings, url)
        processes.start("flower", "workers.flowerconfig", [], {**variables, LOGIN: login}, quiet=True)
        processes.start("receiver", "workers.receiver", [], variables, quiet=True)
        destination = {settings.receiver_ae_title: ("127.0.0.1", settings.receiver_port)}
        pacs = stack.enter_context(TestPACS(_AE_TITLE, destinations=destination))
        redis = stack.enter_context(connect(url, settings.redis_timeout))

        def ready() -> bool:
            return bool(running(redis)) and bool(_workers_in_flower(settings, login))

        dead = processes.wait(START_LIMIT, lambda: ready() or bool(embedded.failure(settings)))
        if dead is not None:
            lines = " / ".join(dead.tail)
            raise ConfigurationError(
                f"The {dead.name} ended while it started ({lines}). Run `pacs-tasks {dead.name}` to see its output."
            )
        if processes.is_stopping:
            raise KeyboardInterrupt
        if embedded.failure(settings) or not ready():
            why = embedded.failure(settings) or f"Not everything answers within {START_LIMIT:.0f} s."
            raise ConfigurationError(f"The demo cannot start. {why}")
        say(f"Running: a private server, a worker, a receiver ({settings.receiver_ae_title}, port "
            f"{settings.receiver_port}), Flower (http://127.0.0.1:{settings.flower_port}), "
            f"a PACS ({pacs.ae_title}, port {pacs.port}).")  # fmt: skip
        yield stack.enter_context(PacsClient(url, settings)), pacs
        say(f"Flower lists {', '.join(_workers_in_flower(settings, login))}.")


def _workers_in_flower(settings: Settings, login: str) -> list[str]:
    """The workers that Flower lists; none while it does not answer."""
    if not is_listening("127.0.0.1", settings.flower_port):
        return []
    connection = http.client.HTTPConnection("127.0.0.1", settings.flower_port, timeout=5)
    try:
        credentials = base64.b64encode(login.encode()).decode()
        connection.request("GET", "/api/workers?refresh=1", headers={"Authorization": f"Basic {credentials}"})
        answer = connection.getresponse()
        return sorted(json.loads(answer.read())) if answer.status == 200 else []
    except (OSError, http.client.HTTPException, ValueError):
        return []
    finally:
        connection.close()


def _round_trip(client: PacsClient, pacs: TestPACS, root: Path, say: Callable[[str], None]) -> bool:
    files = root / "files"
    write_ct_series(files / "ct", _CT_INSTANCES)
    for number, path in enumerate(_shipped_instances()):
        shutil.copyfile(path, files / f"shipped-{number:02d}")
    expected = _instances(files)
    classes = {part10.read_instance(str(path)).sop_class_uid for path in files.rglob("*") if path.is_file()}
    total = sum(len(data) for _, data in expected.values())
    say(f"Files: {len(expected)} instances of {len(classes)} SOP classes in "
        f"{len({syntax for syntax, _ in expected.values()})} transfer syntaxes, {size(total)}.")  # fmt: skip

    sent = _outcome(client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(files))))
    say(f"Sent:  {sent.counters.done} of {sent.counters.total} as a chord of parts in {sent.seconds:.2f} s, "
        f"{size(sent.counters.bytes / max(sent.seconds, 1e-3))}/s.")  # fmt: skip
    complete = bool(sent)

    remote = RemoteAE(ae_title=pacs.ae_title, host=pacs.host, port=pacs.port, charset="GB18030")
    found = _outcome(client.enqueue(FindRequest(remote=remote, keys={"PatientName": _CHINESE_NAME})))
    everything = _outcome(client.enqueue(FindRequest(remote=remote)))
    studies = sorted({match["0020000D"]["Value"][0] for match in everything.matches})
    say(f"Found: {len(found.matches)} study of {_CHINESE_NAME}, {len(studies)} studies in all, "
        f"in {found.seconds + everything.seconds:.2f} s.")  # fmt: skip
    complete &= len(found.matches) == 1

    for method in (RetrieveMethod.MOVE, RetrieveMethod.GET):
        requests = [
            RetrieveRequest(remote=pacs.remote, study_uid=study, output_dir=str(root / method), method=method)
            for study in studies
        ]
        begun = time.monotonic()
        outcomes = [_outcome(job) for job in [client.enqueue(request) for request in requests]]
        complete &= all(outcomes)
        seconds = time.monotonic() - begun
        arrived = _instances(root / method)
        same = sum(arrived.get(uid) == instance for uid, instance in expected.items())
        complete &= same == len(expected) == len(arrived)
        say(f"C-{method.upper()}: {len(arrived)} instances of {len(studies)} studies in {seconds:.2f} s; "
            f"{same} of {len(expected)} data sets are identical, byte for byte.")  # fmt: skip
    return complete


def _outcome(job: Job[T]) -> T:
    job.wait(_PATIENCE)
    return job.outcome()


def _instances(directory: Path) -> Instances:
    """The instances below ``directory``."""
    found: Instances = {}
    for path in directory.rglob("*"):
        if path.is_file():
            instance = part10.read_instance(str(path))
            data_set = path.read_bytes()[instance.data_offset :]
            # A deflated data set of odd length is sent with a null byte appended (PS3.5 section A.5).
            found[instance.sop_instance_uid] = (instance.transfer_syntax_uid, data_set + b"\0" * (len(data_set) % 2))
    return found


# Example files


def _shipped_instances() -> list[Path]:
    """Return one file for each instance in the package of pydicom that any PACS stores.

    They have various SOP classes and transfer syntaxes. Nothing is downloaded.
    """
    found: dict[str, Path] = {}
    for path in sorted((Path(pydicom.__file__).parent / "data").rglob("*")):
        if path.is_file() and path.suffix not in {".py", ".pyc"} and (uid := _sop_instance_uid(path)):
            found.setdefault(uid, path)
    return list(found.values())


def _sop_instance_uid(path: Path) -> str:
    """Return the UID of an instance that is not damaged and has all UIDs; empty for any other file."""
    try:
        damage.judged(part10.read_instance(str(path)))
        ds = dcmread(path, specific_tags=list(_NEEDED), stop_before_pixels=True)
        whole = all(ds.get(name) for name in _NEEDED) and "TransferSyntaxUID" in ds.file_meta
        agrees = whole and ds.file_meta.get("MediaStorageSOPInstanceUID") == ds.SOPInstanceUID
        return str(ds.SOPInstanceUID) if agrees else ""
    except (
        PacsTasksError,
        InvalidDicomError,
        AttributeError,
        LookupError,
        ValueError,
        RuntimeError,
        OSError,
        EOFError,
    ):
        return ""


def write_ct_series(directory: Path, count: int, rows: int = 512) -> None:
    """Write a CT series of ``count`` instances of ``rows`` times ``rows`` pixels of 16 bits.

    The patient name is encoded in GB18030, as by most Chinese devices.
    """
    directory.mkdir(parents=True, exist_ok=True)
    study, series = generate_uid(), generate_uid()
    pixels = random.Random(count).randbytes(rows * rows * 2)  # noqa: S311 - noise, not a secret
    for number in range(1, count + 1):
        _write_ct(directory / f"CT{number:05d}", number, pixels, rows, (study, series, _CHINESE_NAME))


def _write_ct(path: Path, number: int, pixels: bytes, rows: int, common: tuple[str, str, str]) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = "GB18030"
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientName = common
    ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "DEMO-1", "19700101", "O"
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20240115", "120000", "DEMO-A1", "1"
    ds.StudyDescription, ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "胸部", "CT", "1", str(number)
    ds.ImagePositionPatient, ds.SliceThickness = [0, 0, number], "1"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = rows
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 0
    ds.PixelData = pixels
    ds.save_as(path, enforce_file_format=True)
