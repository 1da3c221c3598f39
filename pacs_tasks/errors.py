"""Every error that pacs-tasks raises.

An answer is a value, no answer is an exception: a DIMSE status never raises, it is part of an outcome.

::

    PacsTasksError
    ├── ConfigurationError            a setting is wrong, or something that must be installed is missing
    │   └── BrokerUnavailableError    the Redis that carries the jobs does not answer
    ├── InvalidRequestError           what was asked cannot be done as asked; nothing was opened
    │   └── UnreadableInputError      a file or directory that the request names cannot be read here
    │       └── NotDicomError         a file that is no DICOM instance, or a DICOMDIR: nothing to send
    ├── AssociationError              the peer gave no answer
    │   ├── AssociationRejectedError  permanent: it refuses us (AE titles, application context)
    │   ├── TLSError                  permanent: no secure connection with it (certificates, no TLS on one side)
    │   ├── ContextRejectedError      permanent: it refuses the SOP class or its transfer syntax
    │   │   └── NotSendingError       it offers C-GET, and will not send any of the SOP classes
    │   └── PeerUnavailableError      unreachable, aborted, silent: the one class that is retried
    │       ├── PeerStalledError      it is not silent, and what it was asked for does not come
    │       ├── PeerUnreachableError  there was no association at all
    │       └── PeerBusyError         it rejects us for now: wait, then ask again
    └── JobError
        ├── JobNotFoundError          no job has this id
        ├── JobNotReadyError          it has not finished (in the time given)
        ├── JobFailedError            it ended without an outcome
        └── JobCancelledError         it was cancelled while it waited for an answer

All are built from positional arguments, so that Celery's JSON result backend gives back the class that was raised.
"""

from __future__ import annotations


class PacsTasksError(Exception):
    """Base of every error here.

    Parameters
    ----------
    message
        One sentence: what happened, to which peer, and what to do next. It must be fit for logs, Flower and the
        broker: no path, no patient name, no patient id.
    subject
        What the sentence is about when that is private: the path of a file or a directory. It is shown to the person
        who asked and is stored in the ledger; :meth:`public` leaves it out.
    """

    def __init__(self, message: str = "", subject: str = "") -> None:
        super().__init__(*((message, subject) if subject else (message,)))
        self.message = message
        self.subject = subject

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}" if self.subject else self.message

    def public(self) -> PacsTasksError:
        """The same error without its subject: fit for Celery's results, for events and for logs."""
        return type(self)(self.message)


class ConfigurationError(PacsTasksError):
    """A setting is wrong, or something that must be installed is missing."""


class BrokerUnavailableError(ConfigurationError):
    """The Redis that carries the jobs does not answer."""


class InvalidRequestError(PacsTasksError):
    """What was asked cannot be done as asked; nothing was opened."""


class UnreadableInputError(InvalidRequestError):
    """A file or directory that the request names cannot be read on the machine that should read it."""


class NotDicomError(UnreadableInputError):
    """The file is no DICOM instance (PS3.10 section 7), or it is a DICOMDIR: there is nothing to send."""


class AssociationError(PacsTasksError):
    """The peer gave no answer (PS3.7 section D, PS3.8 section 9)."""


class AssociationRejectedError(AssociationError):
    """The peer refuses an association with us for good (A-ASSOCIATE-RJ, PS3.8 section 9.3.4)."""


class TLSError(AssociationError):
    """No secure connection (PS3.15 annex B): a certificate is wrong or missing, or one side speaks no TLS."""


class ContextRejectedError(AssociationError):
    """The peer refuses the SOP class or its transfer syntax (PS3.8 section 9.3.3.2)."""


class NotSendingError(ContextRejectedError):
    """The peer offers C-GET, and will not send any of the SOP classes to us."""


class PeerUnavailableError(AssociationError):
    """Unreachable, busy, aborted or silent: it may be different later, so this one class is retried."""


class PeerStalledError(PeerUnavailableError):
    """It is not silent, and what it was asked for does not come."""


class PeerUnreachableError(PeerUnavailableError):
    """No association could be had: no connection, or no answer to the association request."""


class PeerBusyError(PeerUnavailableError):
    """The peer rejects the association for now: temporary congestion, local limit exceeded (PS3.8 section 9.3.4)."""


class JobError(PacsTasksError):
    """There is no outcome of a job."""


class JobNotFoundError(JobError):
    """No job has this id: it never existed, or its record has expired."""


class JobNotReadyError(JobError):
    """The job has not finished in the time given."""


class JobFailedError(JobError):
    """The job ended without an outcome."""


class JobCancelledError(JobError):
    """The job was cancelled while it waited for an answer."""


def _tree(root: type[PacsTasksError]) -> dict[str, type[PacsTasksError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


def from_record(name: str, message: str, subject: str = "") -> PacsTasksError:
    """Build the error that a job's record names.

    Parameters
    ----------
    name
        The class's name, as :func:`type` gives it; a name that this version does not know becomes
        :class:`JobFailedError`.
    message, subject
        As for :class:`PacsTasksError`.
    """
    return _tree(PacsTasksError).get(name, JobFailedError)(message, subject)
