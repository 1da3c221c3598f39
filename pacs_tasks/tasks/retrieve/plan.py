"""The promise of a retrieve: the instances that the remote lists of the selections, before any of them is requested.

A selection that is not found does not stop the others. It becomes a line at the end of the manifest, the tail, and is
recorded as failed. A retry queries the remote for it again; the instances that it finds replace the line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from pacs_tasks.errors import InvalidRequestError, JobFailedError, PacsTasksError
from pacs_tasks.ledger.manifest import CountedLine, InstanceLine, RetrieveLine, SelectionLine, Study
from pacs_tasks.outcome import Proof
from pacs_tasks.request import Level, RetrieveRequest, Selection
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.base import ledger
from pacs_tasks.tasks.engine.claim import Claim
from pacs_tasks.tasks.engine.job import Promise
from pacs_tasks.tasks.retrieve.queries import QuerySession, UnansweredError, value
from pacs_tasks.tasks.retrieve.study_listing import STUDY_UID, Listed, Listing, Wanted, counted_in_study, failure_of
from pacs_tasks.tasks.verify.inventory import is_uid

_ACCESSION_NUMBER, _PATIENT_ID = "00080050", "00100020"


@dataclass
class _Found:
    """The answer of the remote about one study, or about a selection that led to none."""

    study: Study
    lines: list[RetrieveLine] = field(default_factory=list)
    #: Lines of the tail, and the reason for each.
    unfound: list[tuple[RetrieveLine, PacsTasksError]] = field(default_factory=list)


def promise(request: RetrieveRequest, claim: Claim) -> Promise:
    """Query the remote for all selections.

    Raises
    ------
    PacsTasksError
        If the only selection is not found, or the remote cannot be queried.
    """
    selections = request.wanted()
    with QuerySession(request, claim) as session:
        found = _Search(request, session).find(dict(enumerate(selections)))
    if not request.selections and len(found) == 1 and not found[0].lines:
        raise found[0].unfound[0][1]
    return _written([], found, 0)


def promise_again(request: RetrieveRequest, claim: Claim) -> Promise | None:
    """Query the remote again for the selections that were not found; None if there are none to look for.

    The promise holds the lines that replace the tail of the manifest, and all studies.
    """
    job_id, manifest = claim.job_id, ledger().manifest
    start, total = manifest.resolved(job_id), manifest.total(job_id)
    if start == total or len(ledger().recorded(job_id, start, total)) == total - start:
        return None
    studies, selections = ledger().studies.planned(job_id), request.wanted()
    places = _places_not_found(studies)
    with QuerySession(request, claim) as session:
        found = _Search(request, session).find({place: selections[place] for place in places})
    before = {study.study_uid: study for study in studies if study.lines}
    added = [_beside(before.get(each.study.study_uid), each, job_id) for each in found]
    kept = [study.model_copy(update={"tail": ()}) for study in before.values()]
    return _written(kept, added, start)


def _places_not_found(studies: Iterable[Study]) -> list[int]:
    """The places of the selections that were not found, or not all of them."""
    return sorted({place for study in studies if study.tail for place in study.selections})


def _beside(before: Study | None, found: _Found, job_id: str) -> _Found:
    """The new instances of a study of which some were found before; lines of the manifest stay."""
    if before is None:
        return found
    manifest = ledger().manifest
    lines = [cast(RetrieveLine, line) for start, stop in before.lines for line in manifest.lines(job_id, start, stop)]
    known, series = {(line.series_uid, line.subject) for line in lines}, {line.series_uid for line in lines}
    # Lines that were only counted take any instance that comes.
    counted = {line.series_uid for line in lines if isinstance(line, CountedLine)}

    def is_new(line: RetrieveLine) -> bool:
        if counted & {"", line.series_uid} or (isinstance(line, CountedLine) and series & {"", line.series_uid}):
            return False
        return (line.series_uid, line.subject) not in known

    return _Found(found.study, list(filter(is_new, found.lines)), found.unfound if before.tail else [])


def _written(kept: Sequence[Study], found: Iterable[_Found], start: int) -> Promise:
    """The lines from ``start`` on, and all studies: those with earlier lines, and those that were found."""
    found = list(found)
    studies = {study.field: study for study in kept}
    written: list[RetrieveLine] = []
    for each in found:
        begin = start + len(written)
        written += each.lines
        lines = ((begin, start + len(written)),) if each.lines else ()
        studies[each.study.field] = _joined(studies.get(each.study.field), each.study, lines)
    errors: list[tuple[int, PacsTasksError]] = []
    for each in found:
        begin = start + len(written)
        for line, error in each.unfound:
            errors.append((start + len(written), error))
            written.append(line)
        if each.unfound:
            study = studies[each.study.field]
            studies[study.field] = study.model_copy(update={"tail": ((begin, start + len(written)),)})
    return Promise(written, list(studies.values()), errors)


def _joined(before: Study | None, study: Study, lines: tuple[tuple[int, int], ...]) -> Study:
    if before is None:
        return study.model_copy(update={"lines": lines})
    return before.model_copy(
        update={
            "lines": (*before.lines, *lines),
            "picked": before.picked or study.picked,
            "rows": tuple(dict.fromkeys((*before.rows, *study.rows))),
            "selections": tuple(dict.fromkeys((*before.selections, *study.selections))),
            "reason": study.reason or before.reason,
            "doubted": study.doubted or before.doubted,
        }
    )


class _Name(NamedTuple):
    """What names studies other than their UIDs: an accession number, a Patient ID, or both; else they are empty."""

    number: str
    patient: str

    @property
    def text(self) -> str:
        return " of ".join(filter(None, self))

    @property
    def words(self) -> str:
        names = ("accession number" if self.number else "", "Patient ID" if self.patient else "")
        return " and ".join(filter(None, names))

    def fits(self, match: Mapping[str, Any]) -> bool:
        """Whether a match has this name. Another case would be another patient."""
        number, patient = (value(match, tag).strip() for tag in (_ACCESSION_NUMBER, _PATIENT_ID))
        same_number = not self.number or number.casefold() == self.number.casefold()
        return same_number and self.patient in {"", patient}


class _Search:
    """Queries one remote for selections."""

    def __init__(self, request: RetrieveRequest, session: QuerySession) -> None:
        self._session, self._remote = session, str(request.remote)
        self._most = settings().answer_limits(request.remote).matches
        self._selections = request.wanted()
        #: By Study Instance UID, in the order of the selections.
        self._wanted: dict[str, Wanted] = {}
        #: Names that led to no study: the places of their selections, and the reason.
        self._nowhere: dict[str, tuple[list[int], PacsTasksError]] = {}

    def find(self, selections: dict[int, Selection]) -> list[_Found]:
        """Find selections; one answer for each study, and one for each name that led to none."""
        known: dict[_Name, list[Wanted]] = {}
        for place, selection in selections.items():
            name = _Name(selection.accession_number or "", selection.patient_id or "")
            if any(name):
                self._resolve(place, selection, name, known)
            else:
                self._want(selection.study_uid or "", None).add(place, selection)
        found = [self._list(wanted) for wanted in self._wanted.values()]
        return found + [self._unfound(places, error) for places, error in self._nowhere.values()]

    def _want(self, study_uid: str, counted: int | None) -> Wanted:
        wanted = self._wanted.setdefault(study_uid, Wanted(study_uid))
        wanted.counted = counted if wanted.counted is None else wanted.counted
        return wanted

    def _resolve(self, place: int, selection: Selection, name: _Name, known: dict[_Name, list[Wanted]]) -> None:
        """Add the studies that have an accession number, belong to a patient, or both."""
        key = f"{name.number}\\{name.patient}\\{selection.study_uid or ''}"
        if key in self._nowhere:
            self._nowhere[key][0].append(place)
            return
        try:
            if name not in known:
                known[name] = self._studies_of(name)
        except (JobFailedError, InvalidRequestError, UnansweredError) as error:
            self._nowhere[key] = [place], _public(error)
            return
        chosen = [each for each in known[name] if selection.study_uid in {None, each.study_uid}]
        for each in chosen:
            self._want(each.study_uid, each.counted).add(place, selection)
        if not chosen:
            elsewhere = JobFailedError(
                f"{self._remote} lists this {name.words} for other studies only. Check both.", name.text
            )
            self._nowhere[key] = [place], elsewhere

    def _studies_of(self, name: _Name) -> list[Wanted]:
        """The studies with this name; some remotes also list studies with another one."""
        named = {"AccessionNumber": name.number, "PatientID": name.patient}
        keys = {
            **{keyword: text for keyword, text in named.items() if text},
            "StudyInstanceUID": "",
            "NumberOfStudyRelatedInstances": "",
        }
        outcome, rows = self._session.find(
            Level.STUDY, keys, lambda match: (value(match, STUDY_UID), counted_in_study(match), name.fits(match))
        )
        failure = failure_of(outcome)
        if failure:
            raise JobFailedError(
                f"{self._remote} cannot list the studies with this {name.words} ({failure}). Retry later, or name "
                "the studies by their Study Instance UIDs.",
                name.text,
            )
        usable = {uid: Wanted(uid, counted=counted) for uid, counted, fits in rows if fits and is_uid(uid)}
        if not usable:
            raise JobFailedError(
                f"{self._remote} lists no study with this {name.words}. Check it, for example with `pacs-tasks query`.",
                name.text,
            )
        return list(usable.values())

    def _list(self, wanted: Wanted) -> _Found:
        """Query the remote for one study."""
        study = Study(
            study_uid=wanted.study_uid,
            name=name_of(self._selections, wanted.selections),
            picked=wanted.picked,
            rows=tuple(wanted.rows),
            selections=tuple(wanted.selections),
        )
        try:
            listed = Listing(self._session, wanted, self._remote, self._most).promise()
        except (JobFailedError, UnansweredError) as error:
            return _Found(study, unfound=[(SelectionLine(study.name, wanted.study_uid), _public(error))])
        return _Found(_proven(study, listed), list(listed.lines), self._unlisted(wanted.study_uid, listed.unlisted))

    def _unlisted(self, study_uid: str, uids: Iterable[str]) -> list[tuple[RetrieveLine, PacsTasksError]]:
        error = JobFailedError(f"{self._remote} does not list this UID. Check it, for example with `pacs-tasks query`.")
        return [(InstanceLine(uid, "", "", study_uid), error) for uid in uids]

    def _unfound(self, places: list[int], error: PacsTasksError) -> _Found:
        rows = [row for row in (self._selections[place].row for place in places) if row is not None]
        name = name_of(self._selections, places)
        study = Study(name=name, rows=tuple(dict.fromkeys(rows)), selections=tuple(places), proof=Proof.NONE)
        return _Found(study, unfound=[(SelectionLine(name, ""), error)])


def name_of(selections: Sequence[Selection], places: Iterable[int]) -> str:
    """The name of a selection that was not found: its row, or its place."""
    place = min(places)
    row = selections[place].row
    return f"selection {place + 1}" if row is None else f"row {row}"


def _public(error: PacsTasksError) -> PacsTasksError:
    """The error as it is recorded, in a public class."""
    return error.as_unavailable() if isinstance(error, UnansweredError) else error


def _proven(study: Study, listed: Listed) -> Study:
    return study.model_copy(update={"proof": listed.proof, "reason": listed.reason, "doubted": listed.doubted})
