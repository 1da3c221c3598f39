"""Transfer DICOM files to and from a PACS: the commands and the class that existing users know.

As a program it is ``pacs-tasks``, which also logs to the console and to ``dicom_transfer.log``::

    python dicom_pacs_transfer.py send-dir --dir dicom_files --ip 192.168.1.100 --port 11112 --pacs-ae-title MY_PACS

From Python::

    from dicom_pacs_transfer import DicomPacsTransfer

    transfer = DicomPacsTransfer(pacs_ip="192.168.1.100", pacs_port=11112, ae_title="MY_APP", pacs_ae_title="PACS")
    transfer.send_dicom_file("image1.dcm")

It logs to the logger ``dicom_pacs_transfer`` (counts, statuses and job ids; no path and no patient's data).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from pacs_tasks import (
    TLS,
    AssociationError,
    FindOutcome,
    FindRequest,
    JobFailedError,
    PacsClient,
    RetrieveRequest,
    StoreDirectoryRequest,
    StoreRequest,
    TransferOutcome,
    UnreadableInputError,
)
from pacs_tasks.ae import DEFAULT_CALLED_AET, DEFAULT_CALLING_AET, DEFAULT_PORT
from pacs_tasks.cli.invocation import Program
from pacs_tasks.cli.output.matches import COLUMNS
from pacs_tasks.cli.program import main as run_command
from pacs_tasks.cli.running import log_outcome
from pacs_tasks.outcome import Category, Outcome
from pacs_tasks.request import AnyRequest, Level, Request, build
from pacs_tasks.settings import load

__all__ = ["DicomPacsTransfer", "main"]

logger = logging.getLogger("dicom_pacs_transfer")

R = TypeVar("R", bound=Request)


class DicomPacsTransfer:
    """Transfers between this machine and one PACS.

    Each call is a job that workers do: those of the Redis that ``PACS_TASKS_REDIS_URL`` names, else one of its own on
    this machine. The attributes of the same names may be changed between calls.

    Parameters
    ----------
    pacs_ip
        Host name or address of the PACS.
    pacs_port
        Its port.
    ae_title
        Our AE title: who calls.
    pacs_ae_title
        The AE title of the PACS: who is called.
    timeout
        Seconds that the PACS may stay silent.
    tls
        Certificates for TLS with the PACS; left out, the connection is not encrypted.
    """

    def __init__(
        self,
        pacs_ip: str = "127.0.0.1",
        pacs_port: int = DEFAULT_PORT,
        ae_title: str = DEFAULT_CALLING_AET,
        pacs_ae_title: str = DEFAULT_CALLED_AET,
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
        """Send one file, and say whether the PACS has taken it.

        False, with an error in the log, if the PACS refused it or could not be reached, or if the file is no DICOM or
        cannot be read.

        Raises
        ------
        PacsTasksError
            If nobody knows whether it was sent: the Redis or the workers were lost; and if an attribute is wrong.
        """
        try:
            return bool(self._transfer(self._request(StoreRequest, path=_absolute(path))))
        except (AssociationError, UnreadableInputError) as error:
            logger.error("nothing was sent: %s", error.message)  # noqa: TRY400 - a traceback would show the path
            return False

    def send_directory(self, path: str | os.PathLike[str]) -> TransferOutcome:
        """Send every DICOM file below a directory; the outcome is true only if the PACS has taken all of them.

        Raises
        ------
        PacsTasksError
            If there is no outcome, such as for a directory that cannot be read.
        """
        return self._transfer(self._request(StoreDirectoryRequest, directory=_absolute(path)))

    def query_pacs(self, query: Mapping[str, Any] | Dataset) -> list[Dataset]:
        """Query the PACS, and return its matches.

        Parameters
        ----------
        query
            Keywords of the DICOM data dictionary and the values to match; None or ``""`` asks for the attribute in
            return. ``QueryRetrieveLevel`` is PATIENT, STUDY (if left out), SERIES or IMAGE. What people usually need
            at that level is asked for too. A data set with these elements serves as well.

        Raises
        ------
        PacsTasksError
            If the PACS gave no answer or answered with a failure: an empty list would claim that it has no match.
        """
        if isinstance(query, Dataset):
            query = {each.keyword or f"{each.tag:08X}": each.value for each in query}
        keys = {keyword: _text(value) for keyword, value in query.items()}
        level = (keys.pop("QueryRetrieveLevel", "") or Level.STUDY).upper()
        columns = COLUMNS[Level(level)] if level in set(Level) else ()
        request = self._request(FindRequest, level=level, keys={**dict.fromkeys(columns, ""), **keys})
        outcome = self._run(request)
        assert isinstance(outcome, FindOutcome)  # noqa: S101 - a find job has no other
        if outcome.category is not Category.SUCCESS and outcome.category is not Category.WARNING:
            raise JobFailedError(
                f"{request.remote} answered the query with {outcome.status.code:04X}: {outcome.status.meaning}"
            )
        return [Dataset.from_json(match) for match in outcome.matches]

    def retrieve_study(self, study_uid: str, output_dir: str | os.PathLike[str]) -> TransferOutcome:
        """Bring a study to ``output_dir``; the outcome is true only if all that the PACS lists has arrived.

        Files lie at ``output_dir/<study>/<series>/<instance>.dcm``.

        Raises
        ------
        PacsTasksError
            If there is no outcome.
        """
        return self._transfer(self._request(RetrieveRequest, study_uid=study_uid, output_dir=_absolute(output_dir)))

    def _request(self, request_type: type[R], **fields: Any) -> R:
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

    def _transfer(self, request: AnyRequest) -> TransferOutcome:
        outcome = self._run(request)
        assert isinstance(outcome, TransferOutcome)  # noqa: S101 - these jobs have no other
        return outcome

    def _run(self, request: AnyRequest) -> Outcome:
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
    """Run one command line and return its exit code; see ``pacs-tasks --help``."""
    program = Program("dicom_pacs_transfer.py", log_file="dicom_transfer.log", log_to_console=True)
    return run_command(argv, program)


def _absolute(path: str | os.PathLike[str]) -> str:
    """A worker has another current directory."""
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - Path.absolute() leaves `..` in


def _text(value: Any) -> str:
    """Several values are separated by a backslash (PS3.5 section 6.4); a day is YYYYMMDD (VR DA, section 6.2)."""
    if value is None:
        return ""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.strftime("%Y%m%d")
    return "\\".join(map(_text, value)) if isinstance(value, list | tuple | MultiValue) else str(value)


if __name__ == "__main__":
    sys.exit(main())
