"""Faults of a :class:`~pacs_tasks.testing.TestPACS`, on demand."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from pynetdicom.status import code_to_category

if TYPE_CHECKING:
    from pacs_tasks.testing.instances import StoredBytes

#: Any SOP Instance UID, in :attr:`Faults.store_status` and :attr:`Faults.uncommitted`.
EVERY_INSTANCE: Final = "*"


@dataclass(frozen=True)
class Rejection:
    """The three numbers of an A-ASSOCIATE-RJ (PS3.8 section 9.3.4, table 9-21)."""

    #: 1 is permanent, 2 is transient.
    result: int
    #: 1 is the service user, 2 the ACSE provider, 3 the presentation provider.
    source: int
    reason: int


#: A user identity (PS3.7 section D.3.3.7): its type, and its primary and secondary field.
Identity = tuple[int, bytes, bytes]

#: "No reason given" by the service user, for good.
NO_REASON: Final = Rejection(1, 1, 1)
APPLICATION_CONTEXT_NOT_SUPPORTED: Final = Rejection(1, 1, 2)
CALLING_AET_NOT_RECOGNISED: Final = Rejection(1, 1, 3)
CALLED_AET_NOT_RECOGNISED: Final = Rejection(1, 1, 7)
TEMPORARY_CONGESTION: Final = Rejection(2, 3, 1)
LOCAL_LIMIT_EXCEEDED: Final = Rejection(2, 3, 2)


def is_warning(status: int) -> bool:
    """Whether an instance with this status is kept, with a remark."""
    return code_to_category(status) == "Warning"


class Silence(StrEnum):
    """The point from which the PACS keeps the connection open and stays silent."""

    #: It accepts the TCP connection, but does not answer the association request.
    CONNECTED = "connected"
    #: It accepts the association, but does not respond to any request on it.
    ASSOCIATED = "associated"
    #: It responds to everything but C-STORE.
    STORE = "store"


class Report(StrEnum):
    """Where the PACS reports about storage commitment."""

    #: On an association that it opens to the caller, if the caller is one of its destinations; otherwise it does not.
    ELSEWHERE = "elsewhere"
    #: On the association of the request.
    SAME_ASSOCIATION = "same association"
    #: Elsewhere, but only after the faults have been replaced.
    HELD_BACK = "held back"
    NEVER = "never"


@dataclass(frozen=True)
class Faults:
    """What goes wrong; each fault is off by default. :attr:`TestPACS.faults` may be replaced at any time."""

    #: Reject every association with this.
    rejection: Rejection | None = None
    #: Reject the first so many associations as "local limit exceeded", which is transient.
    busy_associations: int = 0
    #: Reject an association as "local limit exceeded" while so many are open.
    association_limit: int | None = None
    #: Accept only these calling AE titles; empty accepts all.
    calling_aets: Collection[str] = ()
    #: Accept only callers that use the AE title of this PACS.
    require_called_aet: bool = False
    #: Accept only these user identities (PS3.7 section D.3.3.7): type, primary and secondary field; empty accepts all.
    identities: Collection[Identity] = ()
    #: Do not confirm a user identity, though a positive response is requested.
    unconfirmed_identity: bool = False
    #: Refuse presentation contexts for these.
    refused_sop_classes: Collection[str] = ()
    refused_transfer_syntaxes: Collection[str] = ()
    #: The point from which it stays silent.
    silence: Silence | None = None
    #: Abort the association at the n-th C-STORE request since the start, counted from 1.
    abort_at_store: int | None = None
    #: Abort the association, or stay silent, at each C-STORE request for these SOP Instance UIDs.
    abort_at_instances: Collection[str] = ()
    silent_at_instances: Collection[str] = ()
    #: Abort the association once, in the middle of the data set that would be the n-th complete one. The data set must
    #: be longer than a PDU: see ``max_pdu_size``.
    abort_within_store: int | None = None
    #: Respond to C-STORE for this SOP Instance UID (or :data:`EVERY_INSTANCE`) with this status. An instance is kept if
    #: the status is success or a warning.
    store_status: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    #: Respond so to an instance at most so many times, then with success; None means always.
    store_status_times: int | None = None
    #: Respond to each C-FIND, or to each C-MOVE and C-GET, with this final status at once.
    find_status: int | None = None
    retrieve_status: int | None = None
    #: Respond to a C-MOVE to an unknown destination with this status; Orthanc uses C000.
    unknown_destination_status: int = 0xA801
    #: Respond to a C-FIND for this Patient ID with this final status at once.
    find_statuses: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    #: Abort each association after the final status of its first C-FIND.
    abort_after_find: bool = False
    #: Abort the association at each C-FIND that has one of these keywords.
    abort_at_keys: Collection[str] = ()
    #: Return at most so many matches to each C-FIND, and end with success all the same, as some PACS do.
    most_matches: int | None = None
    #: End a truncated answer with this status.
    most_matches_status: int = 0x0000
    #: Return only that status, without a match.
    all_or_nothing: bool = False
    #: Return the matches of each C-FIND again and again, each time with other UIDs, without end.
    matches_without_end: bool = False
    #: Add to each match so many elements, so many sequences within each other, and a value of so many bytes.
    match_elements: int = 0
    match_depth: int = 0
    match_bytes: int = 0
    #: Report this as the number of related instances.
    related_instances: int | None = None
    #: Return Available Transfer Syntax UID, (0008,3002), which few PACS do.
    lists_syntaxes: bool = False
    #: Respond to each C-FIND that has one of these keywords with A900.
    unknown_keys: Collection[str] = ()
    #: Match as if these keywords had no value.
    ignored_keys: Collection[str] = ()
    #: Omit these keywords from matches.
    omitted_keys: Collection[str] = ()
    #: The status of each match: FF01 if it does not support some optional keys.
    pending_status: int = 0xFF00
    #: Return no matches if a key is a list of UIDs (PS3.4 section C.2.2.2.2).
    refused_uid_lists: bool = False
    #: Abort the association at each C-FIND with a list of UIDs.
    abort_at_uid_lists: bool = False
    #: Respond to each C-FIND at IMAGE level with this status at once.
    no_image_level: int | None = None
    #: Omit the numbers of related studies, series and instances from matches (PS3.4 section C.3.4).
    no_counts: bool = False
    #: In C-MOVE and C-GET, do not send these SOP Instance UIDs, but count them as completed.
    lost: Collection[str] = ()
    #: In C-MOVE and C-GET, do not send these SOP Instance UIDs, and report them as failed.
    unsent: Collection[str] = ()
    #: In C-MOVE and C-GET, do not send every n-th instance when it is first requested, but count it as completed.
    #: Instances are counted in the order of their first request, over all requests.
    drop_every: int | None = None
    #: Respond to the first so many C-MOVE and C-GET with success at once: 0 of 0 sub-operations, nothing sent.
    zero_suboperations: int = 0
    #: In C-MOVE and C-GET, use only the first of a list of SOP Instance UIDs.
    first_uid_only: bool = False
    #: In C-MOVE and C-GET, send nothing but pending responses, ten a second, without end.
    pending_for_ever: bool = False
    #: With ``pending_for_ever``, report one remaining sub-operation more in every other response.
    changing_counts: bool = False
    #: In C-MOVE and C-GET, send the last instance again and again, without end.
    repeats_for_ever: bool = False
    #: In C-MOVE and C-GET, send an instance whose own context is not accepted in another one: of its class, or else of
    #: any class.
    any_context: bool = False
    #: In C-MOVE and C-GET, send every instance but never the final response.
    never_finish: bool = False
    #: In each C-MOVE and C-GET, first send these instances, though nobody requested them.
    also_sent: Collection[StoredBytes] = ()
    #: In C-MOVE, call the destination with this AE title, or from this IP address, as the node of a cluster may.
    delivers_as: str = ""
    delivers_from: str = ""
    #: In C-MOVE, name this Move Originator Application Entity Title instead of the caller; empty names none.
    originator: str | None = None
    #: Ignore C-CANCEL.
    ignore_cancel: bool = False
    #: Respond to so many C-STORE since the start, and send so many instances of each C-MOVE and C-GET; hold the next
    #: ones back until the faults are replaced.
    hold_instances_after: int | None = None
    #: Respond to each request for storage commitment (N-ACTION) with this status, and report nothing.
    action_status: int | None = None
    #: Where it reports about storage commitment.
    report: Report = Report.ELSEWHERE
    #: How many times it sends the same report.
    report_times: int = 1
    #: Report about this transaction instead of the requested one.
    report_transaction_uid: str = ""
    #: Report this Failure Reason for this SOP Instance UID (or :data:`EVERY_INSTANCE`). An instance that is not held
    #: fails anyway.
    uncommitted: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    #: Omit these SOP Instance UIDs from reports.
    unreported: Collection[str] = ()
    #: Omit Specific Character Set, (0008,0005), from matches, however their text is encoded.
    omit_charset: bool = False
    #: Seconds to wait before each response.
    delay: float = 0.0
    #: So many open associations double the delay of each response but those of C-MOVE and C-GET; n of them make it 1 +
    #: (n / ``overload``)² times as long, as in an archive whose disk is too busy. With so many it is fastest.
    overload: int | None = None
    #: Serve so many requests since the start, not counting the sub-operations of C-MOVE and C-GET; hold the later ones
    #: until the faults are replaced.
    hold_requests_after: int | None = None
    #: Add this Error Comment, (0000,0902), to each status but success and pending (PS3.7 section C.5).
    comment: str = ""
    #: The largest PDU to receive, in bytes; 0 is unlimited (PS3.8 section D.1).
    max_pdu_size: int = 16_382
    #: How many requests a caller may have outstanding at once, if it asks for it (PS3.7 section D.3.3.3). With 1, as in
    #: most PACS, the proposal is not answered.
    operations: int = 1

    def rejects(self, number: int, open_now: int, calling_aet: str, called_aet: str, ae_title: str) -> Rejection | None:
        """Return how to reject the ``number``-th association request, counted from 1; None accepts it."""
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

    def delay_with(self, open_now: int) -> float:
        """Return the seconds to wait before a response while so many associations are open."""
        return self.delay if self.overload is None else self.delay * (1 + (open_now / self.overload) ** 2)

    def holds_instance(self, done: int) -> bool:
        """Whether to hold the next instance back after so many."""
        return self.hold_instances_after is not None and done >= self.hold_instances_after

    def holds_request(self, number: int) -> bool:
        """Whether to hold the ``number``-th request back, counted from 1."""
        return self.hold_requests_after is not None and number > self.hold_requests_after

    def answer_to_store(self, sop_instance_uid: str, times: int) -> int:
        """Return the status for an instance that was received ``times`` times before (PS3.4 section B.2.3)."""
        if self.store_status_times is not None and times >= self.store_status_times:
            return 0x0000
        return self.store_status.get(sop_instance_uid, self.store_status.get(EVERY_INSTANCE, 0x0000))
