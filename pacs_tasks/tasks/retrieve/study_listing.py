"""List the instances of one study by their UIDs, or count them if the remote does not list them all.

The queries are hierarchical, which every remote must support (PS3.4 section C.4.1.2.1): the study, its series, then the
instances of each series.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from pacs_tasks.errors import JobFailedError, PacsTasksError
from pacs_tasks.ledger.manifest import CountedLine, InstanceLine, RetrieveLine
from pacs_tasks.outcome import Category, FindOutcome, Proof
from pacs_tasks.outcome.single import is_round
from pacs_tasks.request import Level, Selection
from pacs_tasks.tasks.retrieve.queries import QuerySession, UnansweredError, value
from pacs_tasks.tasks.verify.inventory import is_uid

STUDY_UID, SERIES_UID, SOP_INSTANCE_UID, SOP_CLASS_UID = "0020000D", "0020000E", "00080018", "00080016"
_OF_STUDY, _OF_SERIES = "00201208", "00201209"
_TRANSFER_SYNTAX_UIDS = "00083002"
#: The keyword of that tag. Few remotes know this key (PS3.4 table C.6-5).
_SYNTAXES_KEY = "AvailableTransferSyntaxUID"
#: Transfer syntaxes of one instance that are noted.
_MOST_SYNTAXES = 8
#: UIDs that an error names.
_SHOWN = 10

#: Characters of an Integer String, and of a UID that is kept (PS3.5 section 6.2; some are longer than it allows).
_LONGEST_IS, _LONGEST_UID = 12, 128

T = TypeVar("T")


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


class _Instance(NamedTuple):
    """What the remote lists of an instance beside its UID; empty where it does not say."""

    sop_class_uid: str
    transfer_syntax_uids: str


class _Series(NamedTuple):
    """One series: its listed instances by UID, the count that the remote reports, why its query failed."""

    uid: str
    listed: dict[str, _Instance]
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


def count_of(match: Mapping[str, Any], tag: str) -> int | None:
    """The number of instances that a match reports; None if it reports none, or one that no IS can hold."""
    text = value(match, tag)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _LONGEST_IS else None


def counted_in_study(match: Mapping[str, Any]) -> int | None:
    """Number of Study Related Instances, (0020,1208)."""
    return count_of(match, _OF_STUDY)


def failure_of(outcome: FindOutcome) -> str:
    """Why the answer to a query is not a complete list; empty if it is one."""
    whole = outcome.category in {Category.SUCCESS, Category.WARNING} and not outcome.limit_hit
    return "" if whole else str(outcome.status)


class Listing:
    """Queries the remote for one study.

    Parameters
    ----------
    most
        Instances that a study may have: each becomes a line of the manifest. A larger count is a mistake.
    """

    def __init__(self, session: QuerySession, wanted: Wanted, remote: str, most: int) -> None:
        self._session, self._wanted, self._remote, self._most = session, wanted, remote, most
        #: Why a count of the remote is ignored, if one is.
        self._miscounted = ""
        self._asks_syntaxes = True
        #: The remote refused that key in the last query.
        self._left_out = False
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
        series = list(self._listed_series(series_uids))
        if wanted.picked:
            return self._picked(series)
        return self._whole(series, counted)

    def _listed_series(self, counts: Mapping[str, int | None]) -> Iterator[_Series]:
        number = 0
        for uid, count in sorted(counts.items()):
            listed, failure = self._find_instances(uid, "")
            series = _Series(uid, listed, count, failure)
            number += series.size
            if number > self._most:
                raise JobFailedError(
                    f"{self._remote} lists or counts more than {self._most} instances in this study. Retrieve its "
                    "series one by one, or raise PACS_TASKS_MAX_MATCHES if it holds so many.",
                    self._wanted.study_uid,
                )
            yield series

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
            return self._possible(self._wanted.counted)
        keys = {"StudyInstanceUID": self._wanted.study_uid, "NumberOfStudyRelatedInstances": ""}
        counts, _ = self._find(Level.STUDY, keys, counted_in_study)
        return self._possible(counts[0]) if len(counts) == 1 else None

    def _possible(self, count: int | None) -> int | None:
        """Give a count that is not a mistake."""
        if count is None or count <= self._most:
            return count
        self._miscounted = (
            f"{self._remote} counts {count} instances, which is ignored: more than {self._most} must be a mistake. If "
            "it is none, raise PACS_TASKS_MAX_MATCHES"
        )
        return None

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
        found, failure = self._find(
            Level.SERIES, keys, lambda match: (_short(match, SERIES_UID), count_of(match, _OF_SERIES))
        )
        wanted = {uid: count for uid, count in found if uid and (not named or uid in named)}
        return {uid: self._possible(count) for uid, count in wanted.items()}, failure

    def _find_instances(self, series_uid: str, sop_instance_uid: str) -> tuple[dict[str, _Instance], str]:
        """List instances by their UIDs, and why the list may be incomplete.

        Some remotes refuse the key for transfer syntaxes, or hang up at it: they are queried without it then.
        """
        found, failure = self._find_with(series_uid, sop_instance_uid, syntaxes=self._asks_syntaxes)
        if self._asks_syntaxes and ((failure and not found) or self._left_out):
            self._asks_syntaxes, self._unanswered = False, None
            found, failure = self._find_with(series_uid, sop_instance_uid, syntaxes=False)
        return {uid: instance for uid, instance in found if uid}, failure

    def _find_with(
        self, series_uid: str, sop_instance_uid: str, *, syntaxes: bool
    ) -> tuple[list[tuple[str, _Instance]], str]:
        keys = {
            "StudyInstanceUID": self._wanted.study_uid,
            "SeriesInstanceUID": series_uid,
            "SOPInstanceUID": sop_instance_uid,
            "SOPClassUID": "",
        }
        return self._find(Level.IMAGE, keys | ({_SYNTAXES_KEY: ""} if syntaxes else {}), _instance)

    def _find(self, level: Level, keys: dict[str, str], read: Callable[[Mapping[str, Any]], T]) -> tuple[list[T], str]:
        """What is read of the answer, and why it is not a complete list."""
        self._left_out = False
        try:
            outcome, found = self._session.find(level, keys, read)
        except UnansweredError as error:
            self._unanswered = error
            return [], error.message
        self._left_out = _SYNTAXES_KEY in outcome.keys_left_out
        return found, failure_of(outcome)

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
        why = self._miscounted or (self._at_limit(series) if doubted else "")
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
            found, failure = self._find_instances(series.uid, uid)
            if failure:
                break
            listed.update((each, instance) for each, instance in found.items() if each == uid)
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
        return [
            InstanceLine(uid, series.uid, listed.sop_class_uid, study_uid, listed.transfer_syntax_uids)
            for uid, listed in sorted(series.listed.items())
            if uid in uids
        ]

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


def _short(match: Mapping[str, Any], tag: str) -> str:
    """The UID in a match; empty if there is none, or one that is far too long."""
    text = value(match, tag)
    return text if len(text) <= _LONGEST_UID else ""


def _instance(match: Mapping[str, Any]) -> tuple[str, _Instance]:
    """What a match says of an instance: its UID, and what not every remote returns."""
    values = match.get(_TRANSFER_SYNTAX_UIDS, {}).get("Value") or ()
    syntaxes = "\\".join(str(each) for each in values[:_MOST_SYNTAXES] if is_uid(str(each)))
    # Instances of a series share these: each text is in memory once.
    instance = _Instance(sys.intern(_short(match, SOP_CLASS_UID)), sys.intern(syntaxes))
    return _short(match, SOP_INSTANCE_UID), instance
