"""List the instances of one study by their UIDs, or count them if the remote does not list them all.

The queries are hierarchical, which every remote must support (PS3.4 section C.4.1.2.1): the study, its series, then the
instances of each series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from pacs_tasks.errors import JobFailedError, PacsTasksError
from pacs_tasks.ledger.manifest import CountedLine, InstanceLine, RetrieveLine
from pacs_tasks.outcome import Category, FindOutcome, Proof
from pacs_tasks.outcome.single import is_round
from pacs_tasks.request import Level, ListedUID, Selection
from pacs_tasks.tasks.engine.session import QuerySession, UnansweredError, value

STUDY_UID, SERIES_UID, SOP_INSTANCE_UID, SOP_CLASS_UID = "0020000D", "0020000E", "00080018", "00080016"
_OF_STUDY, _OF_SERIES = "00201208", "00201209"
#: A larger count must be a mistake, since each instance becomes a line of the manifest.
_MOST = 1_000_000
#: UIDs that an error names.
_SHOWN = 10

_uid = TypeAdapter(ListedUID)


@dataclass
class Wanted:
    """What all selections of a request want of one study: all of it, some series, or some instances.

    ``selections`` are their places in the request, ``rows`` their rows of a batch file.
    """

    study_uid: str
    selections: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    whole: bool = False
    series: set[str] = field(default_factory=set)
    #: Series to SOP Instance UIDs; an unknown series is empty.
    instances: dict[str, set[str]] = field(default_factory=dict)
    #: How many instances the whole study has, if the remote has reported it.
    counted: int | None = None

    def add(self, place: int, selection: Selection) -> None:
        """Add a selection."""
        self.selections.append(place)
        if selection.row is not None and selection.row not in self.rows:
            self.rows.append(selection.row)
        if selection.sop_instance_uids:
            self.instances.setdefault(selection.series_uid or "", set()).update(selection.sop_instance_uids)
        elif selection.series_uid:
            self.series.add(selection.series_uid)
        else:
            self.whole = True

    @property
    def picked(self) -> bool:
        """Whether single instances are wanted, so that a series need not be whole."""
        return not self.whole and bool(self.instances)

    def wants_series(self, series_uid: str) -> bool:
        """Whether all of a series is wanted."""
        return self.whole or series_uid in self.series

    def picks_of(self, series_uid: str) -> set[str]:
        """The single instances that a series may hold: those of the series, and those of unknown series."""
        return self.instances.get(series_uid, set()) | self.instances.get("", set())

    @property
    def named_series(self) -> set[str]:
        """The series to query for; empty for all of the study."""
        unknown = self.whole or "" in self.instances
        return set() if unknown else self.series | self.instances.keys()


class Listed(NamedTuple):
    """The promise for one study.

    ``unlisted`` are wanted series and instances that the remote does not list. ``doubted``: there may be more.
    """

    lines: Sequence[RetrieveLine]
    proof: Proof
    reason: str = ""
    unlisted: tuple[str, ...] = ()
    doubted: bool = False


class _Series(NamedTuple):
    """One series: the SOP class of each listed instance, the count that the remote reports, why its query failed."""

    uid: str
    listed: dict[str, str]
    counted: int | None
    failure: str = ""

    @property
    def short(self) -> bool:
        """Whether the list is incomplete."""
        return bool(self.failure) or (self.counted is not None and self.counted > len(self.listed))

    @property
    def size(self) -> int:
        return (self.counted or 0) if self.short else len(self.listed)

    @property
    def unproven(self) -> bool:
        """Whether there is neither a complete list nor a count."""
        return bool(self.failure) and self.counted is None


def is_uid(text: str) -> bool:
    """Whether a text of the remote can be requested as a UID; it need not follow PS3.5 section 9.1."""
    try:
        return bool(_uid.validate_python(text))
    except ValidationError:
        return False


def count_of(match: dict[str, object], tag: str) -> int | None:
    """The number of instances that a match reports; None if it reports none, or an impossible one."""
    text = value(match, tag)
    return int(text) if text.isascii() and text.isdigit() and int(text) <= _MOST else None


def counted_in_study(match: dict[str, object]) -> int | None:
    """Number of Study Related Instances, (0020,1208)."""
    return count_of(match, _OF_STUDY)


def failure_of(outcome: FindOutcome) -> str:
    """Why the answer to a query is not a complete list; empty if it is one."""
    whole = outcome.category in {Category.SUCCESS, Category.WARNING} and not outcome.limit_hit
    return "" if whole else str(outcome.status)


class Listing:
    """Queries the remote for one study."""

    def __init__(self, session: QuerySession, wanted: Wanted, remote: str) -> None:
        self._session, self._wanted, self._remote = session, wanted, remote
        #: The error of a query without an answer.
        self._unanswered: UnansweredError | None = None

    def promise(self) -> Listed:
        """List the wanted instances.

        Raises
        ------
        JobFailedError
            If the remote lists none of them, or cannot list them.
        UnansweredError
            If it does not answer, and has not reported a count either.
        """
        wanted = self._wanted
        counted = self._counted() if wanted.whole else None
        series_uids, failure = self._series()
        if failure:
            return self._by_count_of_study(self._cannot_list("series", failure), counted, failure)
        series = [self._instances(uid, count) for uid, count in sorted(series_uids.items())]
        if wanted.picked:
            return self._picked(series)
        return self._whole(series, counted)

    def _whole(self, series: list[_Series], counted: int | None) -> Listed:
        """Promise whole series, or the whole study with the count that the remote reports of it."""
        unproven = next((each for each in series if each.unproven), None)
        if unproven is not None:
            return self._by_count_of_study(self._cannot_list("instances", unproven.failure), counted, unproven.failure)
        listed = sum(each.size for each in series)
        if counted is not None and counted > listed:
            fewer = f"it lists {listed} of the {counted} instances that it counts in the study"
            return self._by_count_of_study(self._nothing("study"), counted, fewer)
        return self._of_series(series, doubted=counted is None)

    def _counted(self) -> int | None:
        """How many instances the whole study has, if the remote reports it."""
        if self._wanted.counted is not None:
            return self._wanted.counted
        keys = {"StudyInstanceUID": self._wanted.study_uid, "NumberOfStudyRelatedInstances": ""}
        outcome, _ = self._find(Level.STUDY, keys)
        counts = [counted_in_study(match) for match in outcome.matches] if outcome else []
        return counts[0] if len(counts) == 1 else None

    def _series(self) -> tuple[dict[str, int | None], str]:
        """The wanted series with their counts, and why the list may be incomplete."""
        named = self._wanted.named_series
        # A remote need not support lists of UIDs, so for several series the query names none.
        series_uid = next(iter(named)) if len(named) == 1 else ""
        keys = {
            "StudyInstanceUID": self._wanted.study_uid,
            "SeriesInstanceUID": series_uid,
            "NumberOfSeriesRelatedInstances": "",
        }
        outcome, failure = self._find(Level.SERIES, keys)
        matches = outcome.matches if outcome else ()
        found = {value(match, SERIES_UID): count_of(match, _OF_SERIES) for match in matches}
        return {uid: count for uid, count in found.items() if uid and (not named or uid in named)}, failure

    def _instances(self, series_uid: str, counted: int | None) -> _Series:
        """List the instances of a series."""
        outcome, failure = self._find_instances(series_uid, "")
        return _Series(series_uid, _classes(outcome) if outcome else {}, counted, failure)

    def _find_instances(self, series_uid: str, sop_instance_uid: str) -> tuple[FindOutcome | None, str]:
        keys = {
            "StudyInstanceUID": self._wanted.study_uid,
            "SeriesInstanceUID": series_uid,
            "SOPInstanceUID": sop_instance_uid,
            "SOPClassUID": "",
        }
        return self._find(Level.IMAGE, keys)

    def _find(self, level: Level, keys: dict[str, str]) -> tuple[FindOutcome | None, str]:
        """The answer, and why it is not a complete list."""
        try:
            outcome = self._session.find(level, keys)
        except UnansweredError as error:
            self._unanswered = error
            return None, error.message
        return outcome, failure_of(outcome)

    def _of_series(self, series: list[_Series], *, doubted: bool) -> Listed:
        """Promise each series by its list, or by its count if the list is incomplete."""
        lines: list[RetrieveLine] = []
        for each in series:
            lines += self._lines_of_all(each)
        if not lines:
            raise self._nothing("study" if self._wanted.whole else "series of this study")
        short = [each for each in series if each.short]
        if short:
            return Listed(lines, Proof.COUNTS, self._why_short(short[0]), self._unlisted_series(series))
        why = self._at_limit(series) if doubted else ""
        return Listed(lines, Proof.INSTANCES, why, self._unlisted_series(series), doubted=bool(why))

    def _at_limit(self, series: list[_Series]) -> str:
        """Why there may be more than is listed. Without a count, a round number may be a limit of the remote."""
        lists = [(each.size, "instances of a series") for each in series if each.counted is None]
        lists += [(len(series), "series")] if self._wanted.whole else []
        size, what = next(((size, what) for size, what in lists if is_round(size)), (0, ""))
        if not size:
            return ""
        return (
            f"{self._remote} lists exactly {size} {what} and reports no count: if it limits its answers, there are more"
        )

    def _unlisted_series(self, series: list[_Series]) -> tuple[str, ...]:
        return tuple(sorted(self._wanted.series - {each.uid for each in series})) if not self._wanted.whole else ()

    def _by_count_of_study(self, error: PacsTasksError, counted: int | None, why: str) -> Listed:
        """Promise the number of instances in the study; raise ``error`` if not even that is known."""
        if not counted:
            raise error
        reason = f"{self._remote} does not list all instances ({why}); received instances are compared with the count"
        return Listed(self._placeholders("", counted), Proof.COUNTS, reason)

    def _why_short(self, series: _Series) -> str:
        if series.failure:
            why = f"{self._remote} cannot list the instances ({series.failure})"
        else:
            why = (
                f"{self._remote} lists {len(series.listed)} of the {series.counted} instances that it counts "
                "in a series"
            )
        return f"{why}; received instances are compared with the count"

    def _picked(self, series: list[_Series]) -> Listed:
        """Promise single instances, and whole series beside them."""
        lines: list[RetrieveLine] = []
        unlisted = set().union(*self._wanted.instances.values(), self._unlisted_series(series))
        for each in series:
            known = self._with_picks(each)
            lines += self._wanted_lines(known)
            unlisted -= known.listed.keys()
        proof, why = self._proof_of_whole(series)
        failure = next((each.failure for each in series if each.failure), "")
        if unlisted and failure and proof is Proof.INSTANCES:
            return self._unproven(lines, unlisted, series, failure)
        if not lines:
            raise self._none_of_the_named(unlisted)
        return Listed(lines, proof, why, tuple(sorted(unlisted)))

    def _with_picks(self, series: _Series) -> _Series:
        """A series with the single instances that an incomplete list leaves out.

        Raises
        ------
        PacsTasksError
            If all of the series is wanted, and the remote can neither list nor count it.
        """
        if not self._wanted.wants_series(series.uid):
            return self._find_singly(series, self._wanted.picks_of(series.uid)) if series.short else series
        if series.unproven:
            raise self._cannot_list("instances", series.failure)
        return series

    def _wanted_lines(self, series: _Series) -> Sequence[RetrieveLine]:
        if self._wanted.wants_series(series.uid):
            return self._lines_of_all(series)
        return self._lines(series, self._wanted.picks_of(series.uid) & series.listed.keys())

    def _proof_of_whole(self, series: list[_Series]) -> tuple[Proof, str]:
        """What proves the series of which all is wanted, and why it is only a count."""
        short = [each for each in series if each.short and self._wanted.wants_series(each.uid)]
        return (Proof.COUNTS, self._why_short(short[0])) if short else (Proof.INSTANCES, "")

    def _find_singly(self, series: _Series, wanted: set[str]) -> _Series:
        """Query by UID for the instances that an incomplete list leaves out."""
        listed = dict(series.listed)
        for uid in sorted(wanted - listed.keys()):
            outcome, failure = self._find_instances(series.uid, uid)
            if failure or outcome is None:
                break
            listed.update((found, name) for found, name in _classes(outcome).items() if found == uid)
        return series._replace(listed=listed)

    def _unproven(self, listed: list[RetrieveLine], unlisted: set[str], series: list[_Series], failure: str) -> Listed:
        """Promise named instances that the remote cannot list: they can be requested, and may come."""
        if len(series) > 1 and self._wanted.instances.get(""):
            raise JobFailedError(
                f"{self._remote} cannot list the instances of the study ({failure}), so their series is unknown. "
                "Name the series with the instances.",
                self._wanted.study_uid,
            )
        of_series = {uid: each.uid for each in series for uid in self._wanted.picks_of(each.uid) & unlisted}
        study_uid = self._wanted.study_uid
        named = [InstanceLine(uid, series_uid, "", study_uid) for uid, series_uid in of_series.items()]
        lines = sorted([*listed, *named], key=lambda line: (line.series_uid, line.subject))
        why = f"{self._remote} cannot list the instances ({failure}); they were requested by their UIDs alone"
        return Listed(lines, Proof.NONE, why, tuple(sorted(unlisted - of_series.keys())))

    def _lines_of_all(self, series: _Series) -> Sequence[RetrieveLine]:
        """The lines of a whole series: its list, or its count if the list is incomplete."""
        if series.short:
            return self._placeholders(series.uid, series.size)
        return self._lines(series, set(series.listed))

    def _lines(self, series: _Series, uids: set[str]) -> list[InstanceLine]:
        study_uid = self._wanted.study_uid
        return [InstanceLine(uid, series.uid, series.listed[uid], study_uid) for uid in sorted(uids)]

    def _placeholders(self, series_uid: str, count: int) -> list[CountedLine]:
        """Lines for instances that the remote has only counted."""
        study_uid = self._wanted.study_uid
        return [CountedLine(number, count, series_uid, study_uid) for number in range(1, count + 1)]

    def _nothing(self, what: str) -> PacsTasksError:
        return JobFailedError(
            f"{self._remote} lists no instance of this {what}. "
            "Check the Study Instance UID, for example with `pacs-tasks query`.",
            next(iter(self._wanted.named_series), "") or self._wanted.study_uid,
        )

    def _none_of_the_named(self, unlisted: set[str]) -> PacsTasksError:
        return JobFailedError(
            f"{self._remote} lists none of the named instances. Check the UIDs, for example with `pacs-tasks query`.",
            "\\".join(sorted(unlisted)[:_SHOWN]),
        )

    def _cannot_list(self, what: str, failure: str) -> PacsTasksError:
        return self._unanswered or JobFailedError(
            f"{self._remote} cannot list the {what} of the study ({failure}). "
            "Check its answer with `pacs-tasks query`, since no retrieve can be verified without that list.",
            self._wanted.study_uid,
        )


def _classes(outcome: FindOutcome) -> dict[str, str]:
    """SOP Instance UID to SOP Class UID, which not every remote returns."""
    found = {value(match, SOP_INSTANCE_UID): value(match, SOP_CLASS_UID) for match in outcome.matches}
    return {uid: sop_class for uid, sop_class in found.items() if uid}
