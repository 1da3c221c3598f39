"""What a retrieve wants of each study, by all selections that name it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pacs_tasks.request import Selection


@dataclass
class Wanted:
    """What is wanted of one study: all of it, some series, or some instances.

    ``selections`` are the places, in the request, of those that name it, ``rows`` their rows of a batch file.
    """

    study_uid: str
    selections: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    whole: bool = False
    series: set[str] = field(default_factory=set)
    #: Series to SOP Instance UIDs; the series may be unknown, which is empty.
    instances: dict[str, set[str]] = field(default_factory=dict)
    #: How many instances the peer says that the whole study has.
    counted: int | None = None

    def add(self, place: int, selection: Selection) -> None:
        """Want what this selection names as well."""
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
        """Whether some of it is wanted by name, so that a series need not be whole."""
        return not self.whole and bool(self.instances)

    def wants_series(self, series_uid: str) -> bool:
        """Whether all of a series is wanted."""
        return self.whole or series_uid in self.series

    def picks_of(self, series_uid: str) -> set[str]:
        """What of a series is wanted by name; what has no series may be in any."""
        return self.instances.get(series_uid, set()) | self.instances.get("", set())

    @property
    def named_series(self) -> set[str]:
        """The series that are looked at; empty for all of the study."""
        unknown = self.whole or "" in self.instances
        return set() if unknown else self.series | self.instances.keys()


def name_of(selections: Sequence[Selection], places: Iterable[int]) -> str:
    """What to call a selection of which nothing was found: its row, else its place."""
    place = min(places)
    row = selections[place].row
    return f"selection {place + 1}" if row is None else f"row {row}"
