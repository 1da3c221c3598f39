"""C-FIND: query a remote (PS3.4 sections C.4.1 and K.4.1, PS3.7 section 9.1.2)."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress

from pacs_tasks.ae import AnswerLimits, RemoteAE
from pacs_tasks.dimse import status
from pacs_tasks.dimse.cancellation import Cancellation
from pacs_tasks.dimse.files.elements import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    PATIENT_ID,
    SOP_INSTANCE_UID,
    Encoding,
    MalformedError,
    read_uids,
    walk,
)
from pacs_tasks.dimse.find import identifier, models
from pacs_tasks.dimse.find.answer import CountedAnswer, KeyCheck
from pacs_tasks.dimse.find.identifier import Path
from pacs_tasks.dimse.find.match import Identity, Keep, Matches, decode_match, is_decoded
from pacs_tasks.dimse.find.splitting import Answer, Splitting
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import AnswerCutOffError, ContextRejectedError, JobCancelledError, PeerUnavailableError
from pacs_tasks.outcome import Doubt, FindOutcome, Status, StatusCategory
from pacs_tasks.outcome.single import is_round
from pacs_tasks.request import FindRequest, Level, Query, QueryModel

#: Called with each match, encoded, and the status of its response.
OnMatch = Callable[[bytes, int], None]

#: Matches that a query for one study by its UID may have: a remote may hold it for several patients.
_MOST_PATIENTS = 100
#: No such attribute, invalid attribute value, processing failure: remotes refuse a key with one of these.
_ABOUT_KEYS = frozenset({0x0105, 0x0106, 0x0110})


#: Only Explicit VR shows the VR of a private attribute.
_SYNTAXES = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)


def contexts_of(request: Query) -> list[Context]:
    """Return the presentation contexts of a query."""
    return models.contexts_of(models.FIND, _models_of(request), _SYNTAXES)


def instances_contexts(query_model: QueryModel | None) -> list[Context]:
    """Return the presentation contexts for :func:`list_instances`."""
    return models.contexts_of(models.FIND, models.models_of(query_model))


def _models_of(request: Query) -> tuple[QueryModel, ...]:
    # Without a name, only Patient Root has a PATIENT level.
    return models.models_of(request.query_model or (request.model if request.level is Level.PATIENT else None))


class FindOperation:
    """One query, over an association that the caller opens with :func:`contexts_of` and may keep for further ones.

    Parameters
    ----------
    limits
        How much the remote may answer.
    keep
        Where to keep the matches; the outcome has only their number.

    Attributes
    ----------
    queries
        The number of C-FIND requests that have been answered.

    Raises
    ------
    InvalidRequestError
        If a key is unknown or cannot be encoded in the character set of the remote, before any association.
    """

    def __init__(self, request: FindRequest, limits: AnswerLimits, keep: Keep) -> None:
        self._request, self._limits, self._keep = request, limits, keep
        self._keys = identifier.keys_of(request)
        self._left_out: tuple[str, ...] = ()
        for syntax in _SYNTAXES:
            identifier.encode_find(request, syntax, self._keys)
        self._dates = identifier.dates_of(request.model)
        self._splitting = Splitting(self._keys, self._dates) if request.split_dates else None
        self._begin()
        self.queries = 0

    def run(self, assoc: Association) -> FindOutcome:
        """Query until the final status, or until there are ``limit`` matches.

        If the association is lost while the query is being split, another call continues over another association.
        After a failure status, the association can carry another query; it cannot after an exception, or if the remote
        ignored C-CANCEL.

        Raises
        ------
        PeerUnavailableError
            If the association is lost before the final status.
        ContextRejectedError
            If the remote does not offer the query model.
        JobCancelledError
            If ``assoc.stop`` returned True and the remote ignored C-CANCEL. If it heeded C-CANCEL, the outcome holds
            the matches so far.
        """
        started = time.monotonic()
        splitting = self._splitting
        if splitting is None:
            # What came over an association that was lost comes again.
            self._keep.clear()
            self._begin()
            final = self._query(assoc, {}).status
            doubts = self._doubts(final)
        else:
            final = splitting.run(lambda keys: self._query(assoc, keys), self._found)
            doubts = splitting.doubts
        found = self._found
        return FindOutcome(
            status=final,
            kept=found.number,
            limit_hit=found.limit_hit,
            seconds=time.monotonic() - started,
            doubts=(Doubt.LIMIT,) if found.limit_hit else (Doubt.CUT_OFF,) if found.cut_off else doubts,
            remarks=(*self._remarks(), *(() if splitting is None else splitting.remarks)),
            queries=self.queries,
            split=() if splitting is None else splitting.split,
            keys_left_out=self._left_out,
            keys_unmatched=self._check.unmatched,
        )

    def _begin(self) -> None:
        """Begin to count and to judge the answer."""
        request = self._request
        self._found = Matches(identifier.unique_keys(request), request.limit, self._keep, self._dates[0])
        # One match more shows that a limit of the request is reached.
        least = None if request.limit is None else request.limit + 1
        self._counted = CountedAnswer(request.remote, self._limits, least)
        self._check = KeyCheck(self._keys, identifier.required_keys(request))
        #: Matches with text that does not fit their character set.
        self._undecoded = 0

    def _remarks(self) -> Iterator[str]:
        yield from self._check.remarks()
        if self._undecoded:
            yield (
                f"the text of {self._undecoded} matches does not fit its character set: name the right one with "
                "--charset, or set the charset of this remote in pacs-tasks.toml"
            )
        if self._found.cut_off:
            yield self._found.cut_off

    def _doubts(self, final: Status) -> tuple[Doubt, ...]:
        """Why the answer to a single request may be incomplete."""
        count = self._found.number
        if status.is_failure(final):
            # A remote that cuts its answer off has more, however little it sends.
            return (Doubt.STATUS,) if count or status.is_cut_off(final) else ()
        return (Doubt.ROUND,) if final.category is not StatusCategory.CANCEL and is_round(count) else ()

    def _query(self, assoc: Association, changed: Mapping[Path, str]) -> Answer:
        """Query with some keys changed; query again without the optional keys if the remote refuses them.

        ``dcmqrscp --check-find`` of DCMTK refuses keys of other levels, for example.
        """
        if self._is_cancelled(assoc):
            return Answer(status.find_status(status.CANCELLED), [])
        answer = self._query_once(assoc, {**self._keys, **changed})
        if answer.identities or self._left_out or not _may_be_about_keys(answer.status):
            return answer
        fewer = identifier.required_of(self._request, self._keys)
        refused = [path for path in self._keys if path not in fewer]
        again = self._query_once(assoc, {**fewer, **changed}) if refused else answer
        if not again.identities and _may_be_about_keys(again.status):
            return answer
        self._keys, self._left_out = fewer, tuple(map(identifier.name_of, refused))
        return again

    def _is_cancelled(self, assoc: Association) -> bool:
        """Whether to stop before a further request: a fast remote answers before a request itself checks for it."""
        return self.queries > 0 and assoc.stop is not None and assoc.stop()

    def _query_once(self, assoc: Association, keys: Mapping[Path, str]) -> Answer:
        identities: list[Identity] = []
        try:
            final = self._send(assoc, keys, identities)
        except (PeerUnavailableError, JobCancelledError) as error:
            if self._found.limit_hit:
                # The remote ignores C-CANCEL or ends the association at it, but all wanted matches are here.
                final = status.find_status(status.CANCELLED)
            elif isinstance(error, AnswerCutOffError):
                self._found.cut_off, final = error.message, status.cut_off(error.message)
            else:
                raise
        self.queries += 1
        return Answer(final, identities)

    def _send(self, assoc: Association, keys: Mapping[Path, str], identities: list[Identity]) -> Status:
        _, context_id, syntax = _accepted(assoc, _models_of(self._request))
        encoded = identifier.encode_find(self._request, syntax, keys)
        charset = identifier.charset_of(self._request)

        def collect(content: bytes, code: int) -> None:
            if self._found.limit_hit:
                return
            self._counted.check_kept(self._found.number)
            match = decode_match(content, syntax, charset)
            self._undecoded += not content.isascii() and not is_decoded(match)
            if not self._check.holds(match, code) and self._request.strict:
                identities.append(self._found.identity(match))
                return
            identity = self._found.add(match, once=self._splitting is not None)
            if identity is None:
                cancellation.cancel()
            else:
                identities.append(identity)

        priority = command.PRIORITIES[self._request.priority]
        with (
            assoc.exchange(command.C_FIND_RQ) as message_id,
            Cancellation(assoc, context_id, message_id) as cancellation,
        ):
            final = _exchange(
                assoc, context_id, message_id, encoded, self._counted, on_match=collect, priority=priority
            )
            return final if cancellation.cancelled else status.ended_early(final)


def _may_be_about_keys(final: Status) -> bool:
    return final.code in _ABOUT_KEYS or final.code & 0xFF00 == 0xA900 or final.code & 0xF000 == 0xC000


def patient_of(assoc: Association, study_uid: str) -> bytes:
    """Query the Patient ID of a study in the Patient Root model; empty if the remote does not report it.

    Raises
    ------
    PeerUnavailableError
        If the association is lost before the final status.
    AnswerCutOffError
        If the remote lists far more than one study.
    """
    found = models.accepted(assoc, models.FIND, (QueryModel.PATIENT_ROOT,))
    if found is None:
        return b""
    _, context_id, syntax = found
    patients: set[bytes] = set()

    def collect(content: bytes, _: int) -> None:
        with suppress(MalformedError):
            for each in walk(content, Encoding.of(syntax)):
                if each.tag == PATIENT_ID and each.length:
                    patients.add(content[each.position : each.position + each.length].strip(b"\0 "))

    keys = models.encode_keys(Level.STUDY, study_uid, patient_id=b"")
    _query_keys(assoc, context_id, keys, AnswerLimits(matches=_MOST_PATIENTS), collect)
    return patients.pop() if len(patients) == 1 else b""


def _accepted(assoc: Association, proposed: tuple[QueryModel, ...]) -> tuple[QueryModel, int, str]:
    """Return the query model to use, with id and transfer syntax of its context."""
    found = models.accepted(assoc, models.FIND, proposed)
    if found is None:
        raise _not_offered(assoc.remote, proposed)
    return found


def _not_offered(remote: RemoteAE, proposed: tuple[QueryModel, ...]) -> ContextRejectedError:
    if len(proposed) > 1:
        return ContextRejectedError(
            f"{remote} does not offer C-FIND, in neither the Study Root nor the Patient Root model. Ask its "
            "administrator to allow queries, or name the system that answers them."
        )
    (model,) = proposed
    if model is QueryModel.PATIENT_ROOT:
        return ContextRejectedError(
            f"{remote} does not offer C-FIND in the Patient Root model. Query at STUDY level in the Study Root model, "
            "or ask its administrator to allow Patient Root."
        )
    if model is QueryModel.WORKLIST:
        return ContextRejectedError(
            f"{remote} does not offer a modality worklist. Query the system that keeps the worklist, often the RIS, or "
            "ask its administrator to allow it."
        )
    return ContextRejectedError(
        f"{remote} does not offer C-FIND in the Study Root model. Leave out --root (query_model), or ask its "
        "administrator to allow Study Root."
    )


def _exchange(
    assoc: Association,
    context_id: int,
    message_id: int,
    encoded: bytes,
    counted: CountedAnswer,
    *,
    on_match: OnMatch,
    priority: int = command.MEDIUM,
) -> Status:
    """Send one C-FIND request, pass on each match with its status, and return the final status."""
    _, syntax = assoc.contexts_by_id[context_id]
    counted.begin_request()
    assoc.request(context_id, command.C_FIND_RQ, message_id, {command.PRIORITY: priority}, encoded)
    while True:
        response, code = assoc.receive_response(context_id, message_id, command.C_FIND_RQ)
        found = status.find_status(code, response.text(command.ERROR_COMMENT))
        if found.category is not StatusCategory.PENDING:
            if response.has_data_set:
                # Nothing depends on it, so it is read only if it is here.
                assoc.receive_final_data(context_id, 0)
            return found
        fragments = assoc.stream.receive_data(context_id, "the rest of a match") if response.has_data_set else ()
        on_match(counted.receive(fragments, syntax), code)


def _query_keys(assoc: Association, context_id: int, keys: bytes, limits: AnswerLimits, on_match: OnMatch) -> Status:
    """Query these keys alone."""
    with assoc.exchange(command.C_FIND_RQ) as message_id:
        counted = CountedAnswer(assoc.remote, limits)
        return _exchange(assoc, context_id, message_id, keys, counted, on_match=on_match)


def _uid_of(content: bytes) -> str:
    """Return the SOP Instance UID of a match; empty if it has none or is malformed."""
    with suppress(MalformedError):
        return read_uids(content, IMPLICIT_VR_LITTLE_ENDIAN, (SOP_INSTANCE_UID,)).get(SOP_INSTANCE_UID, "")
    return ""


def list_instances(
    assoc: Association,
    study_uid: str,
    series_uid: str,
    wanted: Collection[str],
    *,
    by_uid: bool,
    query_model: QueryModel | None,
    limits: AnswerLimits,
) -> tuple[Status, set[str]]:
    """Query which of the ``wanted`` SOP Instance UIDs the remote lists in a series.

    The UIDs are the only keys: a remote answers these from its index, but may read each file for other keys.

    Parameters
    ----------
    study_uid, series_uid
        Hierarchical search needs both (PS3.4 section C.4.1.2.1). Some remotes also accept empty ones.
    by_uid
        Query a list of the wanted UIDs (PS3.4 section C.2.2.2.2) instead of the whole series.

    Returns
    -------
    The final status, and the wanted UIDs that the remote listed. A success is a complete list.

    Raises
    ------
    PeerUnavailableError
        If the association is lost before the final status.
    AnswerCutOffError
        If the answer exceeds a limit.
    ContextRejectedError
        If the remote does not offer the query.
    """
    model, context_id, _ = _accepted(assoc, models.models_of(query_model))
    found: set[str] = set()

    def collect(content: bytes, _: int) -> None:
        uid = _uid_of(content)
        if not uid or uid in wanted:
            # A remote may list more than the wanted instances.
            found.add(uid)

    uids = "\\".join(sorted(wanted)) if by_uid else ""
    # The ledger does not hold the Patient ID, but dcmqrscp, for one, insists on the key alone.
    patient_id = b"" if model is QueryModel.PATIENT_ROOT else None
    keys = models.encode_keys(Level.IMAGE, study_uid, series_uid, uids, patient_id=patient_id)
    final = _query_keys(assoc, context_id, keys, limits, collect)
    return _unproven(final) if "" in found else final, found - {""}


def _unproven(final: Status) -> Status:
    if final.category is not StatusCategory.SUCCESS:
        return final
    meaning = "Matches came without their SOP Instance UID, so they prove nothing."
    return final.model_copy(update={"category": StatusCategory.WARNING, "meaning": meaning})
