"""How a retrieve is cut into parts: by series, in slices that remotes accept, or whole if nothing has a UID."""

from __future__ import annotations

from pacs_tasks.ledger.manifest import CountedLine, InstanceLine, RetrieveLine
from pacs_tasks.request import Selection
from pacs_tasks.tasks.retrieve.plan import name_of
from pacs_tasks.tasks.retrieve.study_listing import Wanted
from pacs_tasks.tasks.retrieve.tasks import PART_INSTANCES, cut

LARGE = 2 * PART_INSTANCES + 1


def named(study: str, series: str, count: int) -> list[RetrieveLine]:
    return [InstanceLine(f"{series}.{number}", series, "", study) for number in range(count)]


def counted(study: str, series: str, count: int) -> list[RetrieveLine]:
    return [CountedLine(number, count, series, study) for number in range(1, count + 1)]


def test_a_part_is_a_series() -> None:
    """Two studies may, by mistake, have a series with the same UID."""
    assert cut([*named("1.1", "1.5", 2), *named("1.1", "1.6", 1), *named("1.2", "1.6", 3)]) == [(0, 2), (2, 3), (3, 6)]
    assert cut([]) == []


def test_a_large_series_is_fetched_in_slices_where_its_instances_have_names() -> None:
    """Instances without UIDs can only be requested as a whole."""
    assert cut(named("1.1", "1.5", LARGE)) == [(0, 500), (500, 1_000), (1_000, 1_001)]
    assert cut([*counted("1.1", "1.5", LARGE), *counted("1.2", "", LARGE)]) == [(0, LARGE), (LARGE, 2 * LARGE)]


def test_what_several_rows_want_of_a_study_is_one_thing() -> None:
    """A whole study includes its series, a whole series its instances."""
    wanted = Wanted("1.1")
    wanted.add(0, Selection(study_uid="1.1", series_uid="1.5", sop_instance_uids=("1.5.1",), row=2))
    wanted.add(1, Selection(study_uid="1.1", sop_instance_uids=("1.6.1",), row=3))
    assert (wanted.picked, wanted.named_series) == (True, set())
    assert (wanted.picks_of("1.5"), wanted.picks_of("1.6")) == ({"1.5.1", "1.6.1"}, {"1.6.1"})
    wanted.add(2, Selection(study_uid="1.1", series_uid="1.5", row=3))
    assert (wanted.wants_series("1.5"), wanted.wants_series("1.6"), wanted.rows) == (True, False, [2, 3])
    wanted.add(3, Selection(study_uid="1.1"))
    assert (wanted.picked, wanted.wants_series("1.6")) == (False, True)


def test_what_was_not_found_is_called_by_its_row() -> None:
    """A selection without a row is named by its place."""
    selections = (Selection(study_uid="1.1"), Selection(study_uid="1.2", row=7))
    assert (name_of(selections, [0]), name_of(selections, [1])) == ("selection 1", "row 7")
