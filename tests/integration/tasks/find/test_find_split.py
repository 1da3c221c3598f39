"""A PACS that limits the number of matches: the limit is noticed, and halves of the dates yield all matches."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset

from pacs_tasks.ae import LocalAE
from pacs_tasks.client import PacsClient
from pacs_tasks.dimse.upper_layer.association import Timeouts
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.outcome import Category, Doubt, FindOutcome
from pacs_tasks.request import FindRequest
from pacs_tasks.testing import Faults, TestPACS
from tests.support import dicom_files, peers
from tests.support.queries import find

LOCAL = LocalAE(ae_title="CALLER")
PATIENT = Timeouts.of(20)
FIRST = datetime.date(2010, 1, 1)


def _study(number: int, date: str, time: str = "120000") -> Dataset:
    """A study of one instance without pixels."""
    ds = dicom_files.instance(study=number, patient_id=f"P{number}", patient_name="A^B", charset="", rows=1)
    ds.StudyDate, ds.StudyTime = date, time
    del ds.PixelData, ds.SpecificCharacterSet, ds.StudyDescription
    return ds


def _day(number: int) -> str:
    """One day a month: halves of all time that a query has soon tell them apart."""
    return f"{FIRST + datetime.timedelta(days=30 * number):%Y%m%d}"


def _uids(outcome: FindOutcome) -> list[str]:
    return [match["0020000D"]["Value"][0] for match in outcome.matches]


@pytest.fixture(scope="module")
def capped() -> Iterator[TestPACS]:
    """160 studies, three a day, in a PACS that returns at most 100 of them and reports success."""
    with TestPACS(instances=[_study(n, _day(n // 3)) for n in range(160)], faults=Faults(most_matches=100)) as pacs:
        yield pacs


def test_a_round_number_of_matches_is_doubted(capped: TestPACS) -> None:
    """100 matches with success are a success with the doubt that there may be more."""
    outcome = find(FindRequest(remote=capped.remote), LOCAL, PATIENT)
    assert (len(outcome.matches), outcome.category, outcome.limit_hit) == (100, Category.SUCCESS, False)
    assert outcome.doubts == (Doubt.ROUND,)
    assert (outcome.queries, outcome.split) == (1, ())


def test_split_dates_finds_what_is_behind_a_cap(capped: TestPACS) -> None:
    """All studies come once, over one association, and the outcome shows the ranges."""
    before = capped.associations
    outcome = find(FindRequest(remote=capped.remote, split_dates=True), LOCAL, PATIENT)
    assert capped.associations == before + 1
    assert sorted(_uids(outcome)) == sorted(dicom_files.study_uid(number) for number in range(160))
    assert (outcome.category, outcome.doubts) == (Category.SUCCESS, ())
    assert {each.matches for each in outcome.split} == {100}
    assert len(outcome.split) < outcome.queries < 60


@pytest.mark.parametrize("date", ["20100101-20231231", "20100101-", "-20231231"])
def test_split_dates_takes_every_range(date: str) -> None:
    """Every study comes once, whichever end of the range is open."""
    with TestPACS(instances=[_study(n, _day(n)) for n in range(120)], faults=Faults(most_matches=100)) as pacs:
        outcome = find(FindRequest(remote=pacs.remote, keys={"StudyDate": date}, split_dates=True), LOCAL, PATIENT)
    assert sorted(_uids(outcome)) == sorted(dicom_files.study_uid(number) for number in range(120))
    assert (outcome.category, outcome.doubts) == (Category.SUCCESS, ())
    assert outcome.split[0].date == date


def test_a_limit_is_one_for_all_queries(capped: TestPACS) -> None:
    """Exactly as many matches as requested come, each once, even if they exceed the limit of the PACS."""
    outcome = find(FindRequest(remote=capped.remote, limit=130, split_dates=True), LOCAL, PATIENT)
    assert len(set(_uids(outcome))) == len(outcome.matches) == 130
    assert (outcome.limit_hit, outcome.doubts, outcome.category) == (True, (Doubt.LIMIT,), Category.SUCCESS)


def test_a_cancel_ends_the_splitting(capped: TestPACS) -> None:
    """A query that is cancelled after its first answer ends as cancelled and keeps its matches."""
    seen = len(capped.identifiers)
    request = FindRequest(remote=capped.remote, split_dates=True)
    outcome = find(request, LOCAL, PATIENT, lambda: len(capped.identifiers) > seen + 1)
    assert outcome.category is Category.CANCELLED
    assert len(outcome.matches) >= 100
    assert outcome.queries < 5


def test_a_single_day_is_split_by_time() -> None:
    """Times of any precision tell the studies of one day apart; none is lost."""
    times = ["", "07", "0730", "120000.5"] + [f"{8 + n // 60:02}{n % 60:02}{n % 7:02}" for n in range(116)]
    studies = [_study(number, "20240115", time) for number, time in enumerate(times)]
    with TestPACS(instances=studies, faults=Faults(most_matches=100)) as pacs:
        request = FindRequest(remote=pacs.remote, keys={"StudyDate": "20240115"}, split_dates=True)
        outcome = find(request, LOCAL, PATIENT)
    assert len(set(_uids(outcome))) == 120
    assert any(each.time for each in outcome.split)
    # The PACS lists the study without a time in no range of times; it came before the answer was cut off.
    assert (outcome.category, outcome.doubts) == (Category.PARTIAL, (Doubt.UNDATED,))


def test_what_cannot_be_split_is_partial_and_said() -> None:
    """One second with too many studies makes the outcome partial and names the range."""
    studies = [_study(number, "20240115", "120000") for number in range(130)]
    # A narrow range leads to the second soon.
    keys = {"StudyDate": "20240115-20240116", "StudyTime": "115959-120001"}
    with TestPACS(instances=studies, faults=Faults(most_matches=128)) as pacs:
        outcome = find(FindRequest(remote=pacs.remote, keys=keys, split_dates=True), LOCAL, PATIENT)
    assert (outcome.category, outcome.doubts, len(outcome.matches)) == (Category.PARTIAL, (Doubt.UNSPLIT,), 128)
    assert "20240115 12-120000.999999" in outcome.remarks[0]
    assert "cannot be split further" in outcome.remarks[0]


def test_studies_without_a_date_are_not_forgotten() -> None:
    """Studies that come without a range count; if there may be more of them, the outcome is partial."""
    undated = [_study(number, "") for number in range(5)]
    dated = [_study(number, _day(number)) for number in range(5, 165)]
    with TestPACS(instances=[*undated, *dated], faults=Faults(most_matches=150)) as pacs:
        outcome = find(FindRequest(remote=pacs.remote, split_dates=True), LOCAL, PATIENT)
        assert len(set(_uids(outcome))) == 165
        assert (outcome.category, outcome.doubts) == (Category.PARTIAL, (Doubt.UNDATED,))
        within = find(
            FindRequest(remote=pacs.remote, keys={"StudyDate": "20100101-"}, split_dates=True), LOCAL, PATIENT
        )
    assert (len(within.matches), within.category) == (160, Category.SUCCESS)


def test_a_small_answer_is_asked_for_once(pacs: TestPACS) -> None:
    """An answer too small to have been cut off is not split."""
    with TestPACS(instances=[_study(number, _day(number)) for number in range(99)]) as small:
        outcome = find(FindRequest(remote=small.remote, split_dates=True), LOCAL, PATIENT)
    assert (outcome.queries, len(outcome.matches), outcome.category) == (1, 99, Category.SUCCESS)


def test_a_limit_that_is_no_round_number_is_found_out() -> None:
    """The first answer is always split: its halves together exceed a limit of 133."""
    with TestPACS(instances=[_study(n, _day(n)) for n in range(150)], faults=Faults(most_matches=133)) as pacs:
        outcome = find(FindRequest(remote=pacs.remote, split_dates=True), LOCAL, PATIENT)
    assert (len(set(_uids(outcome))), outcome.category) == (150, Category.SUCCESS)


def test_a_pacs_that_ignores_the_dates_is_not_asked_for_ever() -> None:
    """Equal matches for both halves end the splitting after a few queries with a partial outcome."""
    with TestPACS(
        instances=[_study(n, _day(n)) for n in range(110)],
        faults=Faults(most_matches=100, ignored_keys=("StudyDate", "StudyTime")),
    ) as pacs:
        outcome = find(FindRequest(remote=pacs.remote, split_dates=True), LOCAL, PATIENT)
    assert (outcome.category, outcome.doubts, len(outcome.matches)) == (Category.PARTIAL, (Doubt.UNSPLIT,), 100)
    assert outcome.queries < 8


@pytest.mark.parametrize("date", ["2023*", "2023", "20230101-20230201-20230301", "20230231"])
def test_a_date_that_is_no_range_cannot_be_split(pacs: TestPACS, date: str) -> None:
    """The job fails with one sentence and without an association."""
    with pytest.raises(InvalidRequestError, match="Only a day or a range"):
        find(FindRequest(remote=pacs.remote, keys={"StudyDate": date}, split_dates=True), LOCAL, PATIENT)
    assert not pacs.associations


@pytest.mark.parametrize(("code", "refused"), [(0xA700, True), (0xA700, False), (0xFE00, False), (0xFE00, True)])
def test_out_of_resources_is_a_cap_too(code: int, refused: bool) -> None:
    """A700 after matches is partial, before any match a failure; both can be split. So can FE00 without C-CANCEL.

    FE00 says that there is more, so it is partial without a match, too.
    """
    faults = Faults(most_matches=60, most_matches_status=code, all_or_nothing=refused)
    with TestPACS(instances=[_study(n, _day(n)) for n in range(130)], faults=faults) as pacs:
        plain = find(FindRequest(remote=pacs.remote), LOCAL, PATIENT)
        split = find(FindRequest(remote=pacs.remote, split_dates=True), LOCAL, PATIENT)
    failed = refused and code != 0xFE00
    assert plain.category is (Category.FAILED if failed else Category.PARTIAL)
    assert len(plain.matches) == (0 if refused else 60)
    assert plain.doubts == (() if failed else (Doubt.STATUS,))
    assert (len(set(_uids(split))), split.category, split.doubts) == (130, Category.SUCCESS, ())


@pytest.mark.orthanc
def test_the_limit_of_orthanc_is_a_cap(tmp_path: Path) -> None:
    """Orthanc 1.10 ends its answer with FE00 at its LimitFindResults: partial. 1.13 reports success: a doubt. Split."""
    with peers.orthanc(tmp_path, LimitFindResults=100) as orthanc:
        for number in range(145):
            path = tmp_path / "study.dcm"
            orthanc.add(dicom_files.write(_study(number, _day(number // 3)), path))
            path.unlink()
        plain = find(FindRequest(remote=orthanc.remote), LOCAL, PATIENT)
        split = find(FindRequest(remote=orthanc.remote, split_dates=True), LOCAL, PATIENT)
    says_so = plain.status.code == 0xFE00
    assert (len(plain.matches), plain.category) == (100, Category.PARTIAL if says_so else Category.SUCCESS)
    assert plain.doubts == (Doubt.STATUS if says_so else Doubt.ROUND,)
    assert (len(set(_uids(split))), split.category, split.doubts) == (145, Category.SUCCESS, ())


def test_a_pacs_that_ends_the_association_after_each_query_is_asked_on(client: PacsClient) -> None:
    """The job goes on over the next association and has every match once."""
    faults = Faults(most_matches=100, abort_after_find=True)
    with TestPACS(instances=[_study(n, _day(n)) for n in range(110)], faults=faults) as pacs:
        job = client.enqueue(FindRequest(remote=pacs.remote, split_dates=True))
        job.wait(60)
        outcome = job.outcome()
        assert isinstance(outcome, FindOutcome)
        assert pacs.associations == outcome.queries > 2
    assert len(set(_uids(outcome))) == len(outcome.matches) == 110
    assert (outcome.category, outcome.doubts) == (Category.SUCCESS, ())


def test_a_pacs_that_refuses_everything_is_not_asked_for_ever() -> None:
    """It fails after a bounded number of queries."""
    with TestPACS(faults=Faults(find_status=0xA700)) as pacs:
        outcome = find(FindRequest(remote=pacs.remote, split_dates=True), LOCAL, PATIENT)
    assert (outcome.category, outcome.status.code, outcome.doubts) == (Category.FAILED, 0xA700, ())
    assert outcome.queries <= 80
