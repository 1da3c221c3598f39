"""Transfer DICOM files to and from a PACS: the commands and the class that existing users know.

As a program it is ``pacs-tasks``, which also logs to the console and to ``dicom_transfer.log``::

    python dicom_pacs_transfer.py send-dir --dir dicom_files --ip 192.168.1.100 --port 11112 --pacs-ae-title MY_PACS

From Python::

    from dicom_pacs_transfer import DicomPacsTransfer

    transfer = DicomPacsTransfer(pacs_ip="192.168.1.100", pacs_port=11112, ae_title="MY_APP", pacs_ae_title="PACS")
    transfer.send_dicom_file("image1.dcm")

It logs counts, statuses and job ids to the logger ``dicom_pacs_transfer``, and never a path or patient data.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from pacs_tasks import TLS
    from pacs_tasks.outcome import FindOutcome, Outcome, TransferOutcome
    from pacs_tasks.request import AnyRequest

__all__ = ["DicomPacsTransfer", "main"]

logger = logging.getLogger("dicom_pacs_transfer")
# Python writes records of a logger without any handler to stderr.
logger.addHandler(logging.NullHandler())

R = TypeVar("R", bound="AnyRequest")

#: What ``pip install pydicom pynetdicom`` leaves out, and those two.
_NEEDED = ("pacs_tasks", "celery", "redis", "click", "rich", "pydantic", "platformdirs", "pydicom", "pynetdicom")


class DicomPacsTransfer:
    """Transfers between this machine and one PACS.

    Each call is a job. The workers of the Redis that ``PACS_TASKS_REDIS_URL`` names do it, or else a private worker on
    this machine. The attributes have the names of the parameters and may be changed between calls.

    Parameters
    ----------
    pacs_ip
        Host name or address of the PACS.
    pacs_port
        Port of the PACS.
    ae_title
        AE title of this machine (calling AE title).
    pacs_ae_title
        AE title of the PACS (called AE title).
    timeout
        Longest silence of the PACS in seconds.
    tls
        Certificates for TLS with the PACS. Without it, the connection is not encrypted.
    """

    def __init__(
        self,
        pacs_ip: str = "127.0.0.1",
        pacs_port: int = 11112,
        ae_title: str = "PYNETDICOM",
        pacs_ae_title: str = "PACS",
        timeout: float = 30,
        *,
        tls: TLS | None = None,
    ) -> None:
        self.pacs_ip = pacs_ip
        self.pacs_port = pacs_port
        self.ae_title = ae_title
        self.pacs_ae_title = pacs_ae_title
        self.timeout = timeout
        self.tls = tls

    def send_dicom_file(self, path: str | os.PathLike[str]) -> bool:
        """Send one file, and return whether the PACS has stored it.

        It returns False and logs an error if the PACS refuses the file or cannot be reached, or if the file is not
        DICOM or cannot be read.

        Raises
        ------
        PacsTasksError
            If it is not known whether the file was sent, since the Redis or the workers were lost; or if an attribute
            is wrong.
        """
        from pacs_tasks.errors import AssociationError, UnreadableInputError
        from pacs_tasks.request import StoreRequest

        try:
            return bool(self._run(self._request(StoreRequest, path=_absolute(path))))
        except (AssociationError, UnreadableInputError) as error:
            # A traceback would show the path.
            logger.log(logging.ERROR, "The file was not sent. %s", error.message)
            return False

    def send_directory(self, path: str | os.PathLike[str]) -> TransferOutcome:
        """Send every DICOM file below a directory. The outcome is true only if the PACS has stored all of them.

        Raises
        ------
        PacsTasksError
            If there is no outcome, such as for a directory that cannot be read.
        """
        from pacs_tasks.request import StoreDirectoryRequest

        return cast("TransferOutcome", self._run(self._request(StoreDirectoryRequest, directory=_absolute(path))))

    def query_pacs(self, query: Mapping[str, Any] | Dataset) -> list[Dataset]:
        """Query the PACS, and return its matches.

        Parameters
        ----------
        query
            Keywords of the DICOM data dictionary with the values to match, or a data set. None or ``""`` requests the
            attribute. ``QueryRetrieveLevel`` is PATIENT, STUDY (the default), SERIES or IMAGE. The usual attributes of
            the level are always requested.

        Raises
        ------
        PacsTasksError
            If the PACS gives no answer or a failure, since an empty list would claim that there are no matches.
        """
        from pydicom.dataset import Dataset

        from pacs_tasks.cli.output.matches import COLUMNS
        from pacs_tasks.errors import JobFailedError
        from pacs_tasks.request import FindRequest, Level

        if isinstance(query, Dataset):
            query = {each.keyword or f"{each.tag:08X}": each.value for each in query}
        keys = {keyword: _text(value) for keyword, value in query.items()}
        level = (keys.pop("QueryRetrieveLevel", "") or Level.STUDY).upper()
        columns = COLUMNS[Level(level)] if level in set(Level) else ()
        request = self._request(FindRequest, level=level, keys={**dict.fromkeys(columns, ""), **keys})
        outcome = cast("FindOutcome", self._run(request))
        if outcome.category not in {"success", "warning"}:
            raise JobFailedError(
                f"{request.remote} answered the query with {outcome.status.code:04X}: {outcome.status.meaning}"
            )
        return [Dataset.from_json(match) for match in outcome.matches]

    def retrieve_study(self, study_uid: str, output_dir: str | os.PathLike[str]) -> TransferOutcome:
        """Retrieve a study to ``output_dir/<study>/<series>/<instance>.dcm``.

        The outcome is true only if everything has arrived that the PACS lists.

        Raises
        ------
        PacsTasksError
            If there is no outcome.
        """
        from pacs_tasks.request import RetrieveRequest

        request = self._request(RetrieveRequest, study_uid=study_uid, output_dir=_absolute(output_dir))
        return cast("TransferOutcome", self._run(request))

    def _request(self, request_type: type[R], **fields: Any) -> R:
        from pacs_tasks.request import build

        address = {
            "remote": {
                "host": self.pacs_ip,
                "port": self.pacs_port,
                "ae_title": self.pacs_ae_title,
                "tls": self.tls,
            },
            "local": {"ae_title": self.ae_title},
            "timeout": self.timeout,
        }
        return build(request_type, {**address, **fields})

    def _run(self, request: AnyRequest) -> Outcome:
        from pacs_tasks.cli.running import log_outcome
        from pacs_tasks.client import PacsClient
        from pacs_tasks.settings import load

        with PacsClient(config=load()) as client:
            job = client.enqueue(request)
            try:
                progress = job.wait()
            except KeyboardInterrupt:
                job.cancel()
                raise
            outcome = job.outcome()
        log_outcome(logger, progress, outcome)
        return outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; see ``pacs-tasks --help``."""
    from pacs_tasks.cli.invocation import Program
    from pacs_tasks.cli.program import main as run_command

    program = Program(
        "dicom_pacs_transfer.py", log_file="dicom_transfer.log", log_to_console=True, full_help=True, later_wins=True
    )
    return run_command(argv, program)


def _absolute(path: str | os.PathLike[str]) -> str:
    """Make a path absolute, since a worker has another current directory."""
    from pacs_tasks.cli.input.values import absolute

    return absolute(os.fspath(path))


def _text(value: Any) -> str:
    """Write a value as DICOM does: YYYYMMDD for a day, backslashes between values (PS3.5 sections 6.2 and 6.4)."""
    from pydicom.multival import MultiValue

    if value is None:
        return ""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.strftime("%Y%m%d")
    return "\\".join(map(_text, value)) if isinstance(value, list | tuple | MultiValue) else str(value)


def _what_to_install() -> str:
    """Return one English and one Chinese sentence about what is missing, or ""."""
    here = Path(__file__).resolve().parent
    package = f'"{here}[all]"' if (here / "pyproject.toml").is_file() else '"pacs-tasks[all]"'
    if sys.hexversion < 0x030B0000:
        return "This program needs Python 3.11 or newer: install it.\n本程序需要 Python 3.11 或更高版本，请先安装。\n"
    missing = ", ".join(name for name in _NEEDED if importlib.util.find_spec(name) is None)
    if not missing:
        return ""
    return (
        f"Packages that this program needs are missing ({missing}): run `python -m pip install {package}`.\n"
        f"缺少本程序所需的软件包（{missing}），请运行 `python -m pip install {package}`。\n"
    )


def _run_program() -> NoReturn:
    if advice := _what_to_install():
        sys.stderr.write(advice)
        sys.exit(2)
    from pacs_tasks.cli.interrupt import guarded, leave

    leave(guarded(main))


if __name__ == "__main__":
    _run_program()
