"""What a :class:`~pacs_tasks.testing.TestPACS` does wrong, on demand."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

#: Stands for any SOP Instance UID in :attr:`Faults.store_status`.
EVERY_INSTANCE: Final = "*"


@dataclass(frozen=True)
class Rejection:
    """The three numbers of an A-ASSOCIATE-RJ (PS3.8 section 9.3.4, table 9-21)."""

    #: 1 is permanent, 2 is transient.
    result: int
    #: 1 is the service user, 2 the ACSE provider, 3 the presentation provider.
    source: int
    reason: int


#: "No reason given" by the service user, for good.
NO_REASON: Final = Rejection(1, 1, 1)
APPLICATION_CONTEXT_NOT_SUPPORTED: Final = Rejection(1, 1, 2)
CALLING_AET_NOT_RECOGNISED: Final = Rejection(1, 1, 3)
CALLED_AET_NOT_RECOGNISED: Final = Rejection(1, 1, 7)
TEMPORARY_CONGESTION: Final = Rejection(2, 3, 1)
LOCAL_LIMIT_EXCEEDED: Final = Rejection(2, 3, 2)


class Silence(StrEnum):
    """From when on the PACS keeps the connection open and says nothing more."""

    #: The TCP connection is accepted, the association request gets no answer.
    CONNECTED = "connected"
    #: The association is accepted, no request on it gets an answer.
    ASSOCIATED = "associated"
    #: Everything is answered but C-STORE.
    STORE = "store"


class Report(StrEnum):
    """Where the PACS reports about storage commitment."""

    #: On an association that it opens to the caller, if that is one of its destinations; else not at all.
    ELSEWHERE = "elsewhere"
    #: On the association that asked.
    SAME_ASSOCIATION = "same association"
    #: Elsewhere too, but not before the faults are replaced by others.
    HELD_BACK = "held back"
    NEVER = "never"


@dataclass(frozen=True)
class Faults:
    """What goes wrong; each is off by default. Assign another to :attr:`TestPACS.faults` at any time.

    Parameters
    ----------
    rejection
        Refuse every association so.
    busy_associations
        Refuse the first so many associations as "local limit exceeded", which is transient.
    association_limit
        Refuse an association as "local limit exceeded" while so many are open.
    calling_aets
        Accept only these calling AE titles; empty accepts all.
    require_called_aet
        Accept only callers that use the right AE title for this PACS.
    refused_sop_classes, refused_transfer_syntaxes
        Refuse presentation contexts for these.
    silence
        From when on nothing is answered.
    abort_at_store
        Abort the association at the n-th C-STORE request since the start, counted from 1.
    abort_within_store
        Abort the association in the middle of the data set that would be the n-th to come whole, once. The data set
        must be longer than a PDU: see ``max_pdu_size``.
    store_status
        Answer C-STORE for this SOP Instance UID (or :data:`EVERY_INSTANCE`) with this status. An instance is kept when
        the status is success or a warning (Bxxx).
    store_status_times
        Answer an instance so at most so many times, then succeed; None means always.
    find_status, retrieve_status
        Answer each C-FIND, or each C-MOVE and C-GET, with this final status at once.
    find_statuses
        Answer a C-FIND for this Patient ID with this final status at once.
    abort_after_find
        Abort each association after the final status of its first C-FIND.
    abort_at_keys
        Abort the association at each C-FIND that has one of these keywords.
    most_matches
        Answer each C-FIND with so many matches at most, and with success all the same, as some PACS do.
    most_matches_status, all_or_nothing
        End an answer that was cut off so with this status; give nothing of it but that.
    unknown_keys
        Answer each C-FIND that has one of these keywords with A900.
    ignored_keys
        Match as if these keywords had no value.
    refused_uid_lists
        Find nothing where a key is a list of UIDs (PS3.4 section C.2.2.2.2).
    no_image_level
        Answer each C-FIND at IMAGE level with this status at once.
    no_counts
        Leave the numbers of related studies, series and instances out of matches (PS3.4 section C.3.4).
    lost
        In C-MOVE and C-GET do not send these SOP Instance UIDs, and count them as completed all the same.
    unsent
        In C-MOVE and C-GET do not send these SOP Instance UIDs, and report them as failed.
    drop_every
        In C-MOVE and C-GET do not send every n-th instance when it is first asked for, and count it as completed all
        the same. Instances are counted as they are first asked for, over all requests.
    zero_suboperations
        Answer the first so many C-MOVE and C-GET with success at once: 0 of 0 sub-operations, nothing sent.
    first_uid_only
        In C-MOVE and C-GET take a list of SOP Instance UIDs for its first.
    pending_for_ever
        In C-MOVE and C-GET send nothing but pending responses, ten a second, without an end.
    never_finish
        In C-MOVE and C-GET send every instance, then nothing: the final response never comes.
    ignore_cancel
        Go on in spite of C-CANCEL.
    hold_instances_after
        Answer so many C-STORE since the start, and send so many instances of each C-MOVE and C-GET; hold the next ones
        back until the faults are replaced by others.
    action_status
        Answer each request for storage commitment (N-ACTION) with this status, and report nothing.
    report
        Where it reports about storage commitment.
    report_times
        How often it reports the same.
    report_transaction_uid
        Report about this transaction instead of the one that was asked for.
    uncommitted
        Report for this SOP Instance UID (or :data:`EVERY_INSTANCE`) this Failure Reason; what is not held fails anyway.
    unreported
        Leave these SOP Instance UIDs out of reports.
    omit_charset
        Leave Specific Character Set, (0008,0005), out of matches, whatever their text is encoded in.
    delay
        Seconds to wait before each response.
    hold_requests_after
        Serve so many requests since the start, the sub-operations of C-MOVE and C-GET not counted; hold the later ones
        until the faults are replaced by others.
    max_pdu_size
        Bytes of the largest PDU to be received; 0 is unlimited (PS3.8 section D.1).
    operations
        How many requests a caller that asks for it may have under way at once (PS3.7 section D.3.3.3); 1, as with most
        PACS, does not answer the question.
    """

    rejection: Rejection | None = None
    busy_associations: int = 0
    association_limit: int | None = None
    calling_aets: Collection[str] = ()
    require_called_aet: bool = False
    refused_sop_classes: Collection[str] = ()
    refused_transfer_syntaxes: Collection[str] = ()
    silence: Silence | None = None
    abort_at_store: int | None = None
    abort_within_store: int | None = None
    store_status: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    store_status_times: int | None = None
    find_status: int | None = None
    find_statuses: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    retrieve_status: int | None = None
    abort_after_find: bool = False
    abort_at_keys: Collection[str] = ()
    most_matches: int | None = None
    most_matches_status: int = 0x0000
    all_or_nothing: bool = False
    unknown_keys: Collection[str] = ()
    ignored_keys: Collection[str] = ()
    refused_uid_lists: bool = False
    no_image_level: int | None = None
    no_counts: bool = False
    lost: Collection[str] = ()
    unsent: Collection[str] = ()
    drop_every: int | None = None
    zero_suboperations: int = 0
    first_uid_only: bool = False
    pending_for_ever: bool = False
    never_finish: bool = False
    ignore_cancel: bool = False
    hold_instances_after: int | None = None
    action_status: int | None = None
    report: Report = Report.ELSEWHERE
    report_times: int = 1
    report_transaction_uid: str = ""
    uncommitted: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    unreported: Collection[str] = ()
    omit_charset: bool = False
    delay: float = 0.0
    hold_requests_after: int | None = None
    max_pdu_size: int = 16_382
    operations: int = 1

    def rejects(self, number: int, open_now: int, calling_aet: str, called_aet: str, ae_title: str) -> Rejection | None:
        """How the ``number``-th association request, counted from 1, is refused, if it is."""
        if self.rejection is not None:
            return self.rejection
        if number <= self.busy_associations or (
            self.association_limit is not None and open_now >= self.association_limit
        ):
            return LOCAL_LIMIT_EXCEEDED
        if self.calling_aets and calling_aet not in self.calling_aets:
            return CALLING_AET_NOT_RECOGNISED
        if self.require_called_aet and called_aet != ae_title:
            return CALLED_AET_NOT_RECOGNISED
        return None

    def holds_instance(self, done: int) -> bool:
        """Whether to hold the next instance back after so many."""
        return self.hold_instances_after is not None and done >= self.hold_instances_after

    def holds_request(self, number: int) -> bool:
        """Whether to hold the ``number``-th request back, counted from 1."""
        return self.hold_requests_after is not None and number > self.hold_requests_after

    def answer_to_store(self, sop_instance_uid: str, times: int) -> int:
        """The status for an instance that has been offered ``times`` times before (PS3.4 section B.2.3)."""
        if self.store_status_times is not None and times >= self.store_status_times:
            return 0x0000
        return self.store_status.get(sop_instance_uid, self.store_status.get(EVERY_INSTANCE, 0x0000))
