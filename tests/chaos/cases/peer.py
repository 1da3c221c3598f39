"""The PACS dies, goes away, aborts, is busy, refuses, or says nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pydicom.uid import ImplicitVRLittleEndian

from pacs_tasks.request import Transcode
from pacs_tasks.testing import EVERY_INSTANCE, Silence
from tests.chaos.cases.case import WORKERS, Case, sent, written
from tests.chaos.closing import Expected, Found, check_sent
from tests.chaos.files import joined, write
from tests.chaos.orthanc import Orthanc
from tests.chaos.stage import Stage

#: Seconds for which it is away, and for which it is out of resources or silent.
_AWAY: Final = 60.0
_WHILE: Final = 10.0
#: Seconds that a silent PACS is given.
_PATIENCE: Final = 3.0


def _killed(stage: Stage) -> Found:
    """Once or twice; it comes back with what it has answered for."""
    pacs, files = stage.pacs(delay=stage.pace), written(stage)
    stage.start_workers(WORKERS)
    job = sent(stage, pacs.remote, files)
    shares = sorted(stage.random.uniform(0.05, 0.7) for _ in range(stage.random.randint(1, 2)))
    twice = 0
    for share in shares:
        known = stage.after(job, share, share)
        twice += pacs.freeze()
        stage.strike(f"kill -9 of the PACS after {known} outcomes")
        pacs.kill()
        pacs.start()
        stage.note("the PACS is back")
    expected = Expected(most_twice=twice, told=True)
    return check_sent(stage, pacs, files, job, expected=expected)


def _orthanc_killed(stage: Stage) -> Found:
    orthanc, files = Orthanc(stage.stack, stage.directory / "orthanc"), written(stage)
    orthanc.start()
    stage.start_workers(WORKERS)
    job = sent(stage, orthanc.remote, files)
    known = stage.after(job, 0.05, 0.5)
    stage.strike(f"kill -9 of Orthanc after {known} outcomes")
    orthanc.kill()
    orthanc.start()
    stage.note("Orthanc is back")
    return check_sent(stage, orthanc, files, job)


def _gone(stage: Stage) -> Found:
    pacs, files = stage.pacs(delay=stage.pace), written(stage)
    stage.start_workers(WORKERS)
    job = sent(stage, pacs.remote, files)
    known = stage.after(job)
    twice = pacs.freeze()
    stage.strike(f"the PACS is killed after {known} outcomes and stays away for {_AWAY:.0f} s")
    pacs.kill()
    stage.wait(lambda: job.progress().waiting_for, "the job to say that it waits for the PACS", _AWAY)
    stage.note("the job says that it waits")
    stage.pass_time(_AWAY)
    pacs.start()
    stage.note("the PACS is back")
    expected = Expected(most_twice=twice, told=True)
    return check_sent(stage, pacs, files, job, expected=expected)


def _aborts(stage: Stage) -> Found:
    """Three to six times, in the middle of a data set, which comes in several PDUs."""
    pacs, files = stage.pacs(delay=stage.pace, max_pdu_size=4096), written(stage)
    stage.start_workers(WORKERS)
    job = sent(stage, pacs.remote, files)
    for share in sorted(stage.random.uniform(0.02, 0.7) for _ in range(stage.random.randint(3, 6))):
        known = stage.after(job, share, share)
        stage.strike(f"the PACS aborts within a data set, after {known} outcomes")
        pacs.faults(delay=stage.pace, max_pdu_size=4096, abort_within_store=pacs.requests() + 3)
    return check_sent(stage, pacs, files, job, expected=Expected(most_twice=0, told=True))


def _busy(stage: Stage) -> Found:
    """It takes fewer associations than we may open: from the start, or from a moment on."""
    limit = stage.random.randint(1, 2)
    pacs, files = stage.pacs(delay=stage.pace), written(stage)
    stage.start_workers(WORKERS)
    job = sent(stage, pacs.remote, files)
    known = stage.after(job, 0.0, 0.5)
    stage.strike(f"the PACS takes {limit} associations at once from now on, after {known} outcomes")
    pacs.faults(delay=stage.pace, association_limit=limit)
    return check_sent(stage, pacs, files, job, expected=Expected(most_twice=0, told=True))


def _for_a_while(words: str, **faults: object) -> Callable[[Stage], Found]:
    """What it does for ten seconds costs time, and no file."""

    def play(stage: Stage) -> Found:
        pacs, files = stage.pacs(delay=stage.pace), written(stage)
        stage.start_workers(WORKERS)
        job = sent(stage, pacs.remote, files, timeout=_PATIENCE)
        known = stage.after(job)
        stage.strike(f"{words} after {known} outcomes, for {_WHILE:.0f} s")
        pacs.faults(delay=stage.pace, **faults)
        stage.pass_time(_WHILE)
        pacs.faults(delay=stage.pace)
        stage.note("it answers again")
        return check_sent(stage, pacs, files, job, expected=Expected(told=True))

    return play


def _for_some(status: int, *, held: bool) -> Callable[[Stage], Found]:
    """What it answers for some instances is the outcome of these, at once, and of no other."""

    def play(stage: Stage) -> Found:
        files = written(stage)
        chosen = stage.random.sample(sorted(files.uids.values()), max(1, files.count // 10))
        pacs = stage.pacs(delay=stage.pace, store_status=dict.fromkeys(chosen, status))
        stage.start_workers(WORKERS)
        job = sent(stage, pacs.remote, files)
        stage.strike(f"{status:04X} for {len(chosen)} instances")
        failed = {} if held else dict.fromkeys(chosen, f"{status:04X}")
        expected = Expected(failed=failed, warned=chosen if held else (), most_twice=0, told=True)
        return check_sent(stage, pacs, files, job, expected=expected)

    return play


def _refused_syntax(stage: Stage) -> Found:
    """The files in that syntax fail, each with that reason; the others are sent."""
    few = stage.random.randint(1, stage.count // 3)
    taken = write(stage.directory / "files", stage.count - few)
    refused = write(stage.directory / "files", few, series=2, transfer_syntax_uid=ImplicitVRLittleEndian)
    files = joined(stage.directory / "files", taken, refused)
    pacs = stage.pacs(delay=stage.pace, refused_transfer_syntaxes=[ImplicitVRLittleEndian])
    stage.start_workers(WORKERS)
    # They are not compressed, so they would be sent in another syntax.
    job = sent(stage, pacs.remote, files, transcode=Transcode.NEVER)
    stage.strike(f"the PACS refuses the transfer syntax of {few} files")
    failed = dict.fromkeys(refused.uids.values(), "ContextRejectedError")
    return check_sent(stage, pacs, files, job, expected=Expected(failed=failed, most_twice=0, told=True))


CASES: Final = (
    Case("pacs", "kill -9 of the PACS, which starts again", _killed),
    Case("orthanc", "kill -9 of Orthanc, which starts again", _orthanc_killed, needs_orthanc=True),
    Case("pacs-gone", "the PACS gone for 60 s", _gone),
    Case("abort", "the PACS aborts in the middle of a data set", _aborts),
    Case("limit", "the PACS at its association limit", _busy),
    Case("a700", "the PACS answers A700 for 10 s", _for_a_while("A700", store_status={EVERY_INSTANCE: 0xA700})),
    Case("a900", "A900 for some instances", _for_some(0xA900, held=False)),
    Case("c000", "C000 for some instances", _for_some(0xC000, held=False)),
    Case("b000", "B000 for some instances", _for_some(0xB000, held=True)),
    Case("silent", "the PACS accepts, then is silent for 10 s", _for_a_while("silence", silence=Silence.ASSOCIATED)),
    Case("syntax", "the PACS refuses a transfer syntax", _refused_syntax),
)
