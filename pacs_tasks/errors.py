"""The errors that pacs-tasks raises.

An answer is a value; no answer is an exception. A DIMSE status never raises: it is part of an outcome.

::

    PacsTasksError
    ├── ConfigurationError            a setting is wrong, or something that must be installed is missing
    │   ├── BrokerUnavailableError    the Redis that carries the jobs does not answer, or cannot be written
    │   │   └── BrokerSettingError    its address or its password is wrong, or it is a replica
    │   └── SealingError              a value in Redis was changed: it does not match its encryption
    │       ├── MissingKeyError       this process does not have the key
    │       └── PlainRecordError      it is not encrypted, and must be
    ├── InvalidRequestError           the request cannot be served; nothing was opened
    │   ├── UnreadableInputError      a file or directory of the request cannot be read on this machine
    │   │   └── NotDicomError         the file is not a DICOM instance, or it is a DICOMDIR
    │   └── MessageError              the message of a task cannot be served; it is kept as a dead letter
    ├── DamagedFileError              the data set of a file breaks off, or cannot be read as what it declares to be
    ├── AssociationError              the remote gave no answer
    │   ├── AssociationRejectedError  permanent: it rejects the association (AE titles, application context)
    │   ├── TLSError                  permanent: no secure connection (certificates, or one side without TLS)
    │   ├── ContextRejectedError      permanent: it rejects the SOP class or its transfer syntax
    │   │   └── NotSendingError       it offers C-GET, but sends none of the SOP classes
    │   └── PeerUnavailableError      unreachable, aborted or silent: the one class that is retried
    │       ├── PeerStalledError      it accepts the association, and then the instances do not pass
    │       │   └── AnswerCutOffError its answer exceeds a limit, as that of a broken or hostile remote does
    │       ├── PeerUnreachableError  there was no association at all
    │       └── PeerBusyError         it rejects the association for now; try again later
    │           └── NoLeaseError      it was not asked: the fleet has all associations that are worthwhile
    └── JobError
        ├── JobNotFoundError          no job has this id
        ├── JobNotReadyError          the job has not finished (in the time given)
        ├── JobFailedError            the job ended without an outcome
        ├── JobOutcomeError           the job ended with a worse outcome than its request allows
        └── JobCancelledError         the job was cancelled before there was an answer

Each is built from positional arguments, so that Celery's JSON result backend restores the class that was raised.
"""

from __future__ import annotations

import re

#: An Error Comment, (0000,0902), in a text, as ``outcome.Status`` words it. A text that was cut may lack its end.
_COMMENT = re.compile(r" ?\(comment of the remote: [^()]*\)?")


def without_comments(text: str) -> str:
    """Leave out of a text what remotes said: it may hold patient data."""
    return _COMMENT.sub("", text)


class PacsTasksError(Exception):
    """Base of all errors of this package.

    Parameters
    ----------
    message
        What happened, with the remote, and then what to do. It goes to logs, Flower and the broker, so it holds no
        path, no patient name and no patient id. :meth:`public` omits a comment of the remote in it.
    subject
        The path of the file or directory that the message is about. The user sees it and the ledger keeps it;
        :meth:`public` omits it.
    """

    def __init__(self, message: str = "", subject: str = "") -> None:
        super().__init__(*((message, subject) if subject else (message,)))
        self.message = message
        self.subject = subject

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}" if self.subject else self.message

    def public(self) -> PacsTasksError:
        """Return the error without its subject and what the remote said, for Celery's results, events and logs."""
        return type(self)(without_comments(self.message))


class ConfigurationError(PacsTasksError):
    """A setting is wrong, or something that must be installed is missing."""


class BrokerUnavailableError(ConfigurationError):
    """The Redis that carries the jobs does not answer, or cannot be written."""


class BrokerSettingError(BrokerUnavailableError):
    """The address of the Redis that carries the jobs is wrong, or the password in it, or it is a read-only replica."""


class SealingError(ConfigurationError):
    """A value in Redis was changed: it does not match its encryption."""


class MissingKeyError(SealingError):
    """A value in Redis is encrypted with a key that this process does not have. Other processes may have it."""


class PlainRecordError(SealingError):
    """A value in Redis is not encrypted, and this process has a key and accepts no such values."""


class InvalidRequestError(PacsTasksError):
    """The request cannot be served; nothing was opened."""


class UnreadableInputError(InvalidRequestError):
    """A file or directory of the request cannot be read on the machine that must read it."""


class NotDicomError(UnreadableInputError):
    """The file is not a DICOM instance (PS3.10 section 7), or it is a DICOMDIR: there is nothing to send."""


class MessageError(InvalidRequestError):
    """The message of a task cannot be served, whatever its request is; it is kept as a dead letter."""


class DamagedFileError(PacsTasksError):
    """The data set of a file is damaged, or is not in the transfer syntax that the file declares: it was not sent."""


class AssociationError(PacsTasksError):
    """The remote gave no answer (PS3.7 section D, PS3.8 section 9)."""


class AssociationRejectedError(AssociationError):
    """The remote rejects the association permanently (A-ASSOCIATE-RJ, PS3.8 section 9.3.4)."""


class TLSError(AssociationError):
    """There is no secure connection (PS3.15 annex B): a wrong or missing certificate, or one side without TLS."""


class ContextRejectedError(AssociationError):
    """The remote rejects the SOP class or its transfer syntax (PS3.8 section 9.3.3.2)."""


class NotSendingError(ContextRejectedError):
    """The remote offers C-GET, but sends none of the SOP classes."""


class PeerUnavailableError(AssociationError):
    """The remote is unreachable, busy, aborted or silent. That may change, so this one class is retried."""

    #: The connection ended without an A-ABORT, as it does where the line is at fault.
    broken = False


class PeerStalledError(PeerUnavailableError):
    """The remote accepts the association, but the instances do not come, or it ends the association at this one."""


class AnswerCutOffError(PeerStalledError):
    """The answer of the remote exceeds a limit, as that of a broken or hostile remote does; the rest was not read."""


class PeerUnreachableError(PeerUnavailableError):
    """There was no association: no connection, or no answer to the association request."""


class PeerBusyError(PeerUnavailableError):
    """The remote rejects the association for now: temporary congestion, local limit exceeded (PS3.8 section 9.3.4)."""


class NoLeaseError(PeerBusyError):
    """The remote was not asked for an association: the fleet has all that are worthwhile, and none became free."""


class JobError(PacsTasksError):
    """The job has no outcome."""


class JobNotFoundError(JobError):
    """No job has this id: it never existed, or its record has expired."""


class JobNotReadyError(JobError):
    """The job has not finished in the time given."""


class JobFailedError(JobError):
    """The job ended without an outcome."""


class JobOutcomeError(JobError):
    """The job ended with a worse outcome than its request allows (``raise_unless``); the ledger has that outcome."""


class JobCancelledError(JobError):
    """The job was cancelled before there was an answer."""


def _tree(root: type[PacsTasksError]) -> dict[str, type[PacsTasksError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


def from_record(name: str, message: str, subject: str = "") -> PacsTasksError:
    """Build the error that the record of a job names.

    Parameters
    ----------
    name
        The name of the class. A name that this version does not know becomes :class:`JobFailedError`.
    message, subject
        As for :class:`PacsTasksError`.
    """
    return _tree(PacsTasksError).get(name, JobFailedError)(message, subject)
