"""What ``config check`` checks: the settings, the Redis, and each remote, which a worker calls."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pacs_tasks.cli.language import translated
from pacs_tasks.cli.output.exit_codes import ExitCode, of_error
from pacs_tasks.client import Job, PacsClient
from pacs_tasks.errors import PacsTasksError
from pacs_tasks.fleet.receivers import Receiver, running
from pacs_tasks.outcome import Category, EchoOutcome
from pacs_tasks.request import EchoRequest, MoveRequest
from pacs_tasks.sealing import IN_CLEAR
from pacs_tasks.settings import Settings, config_file, remark_on_variables

if TYPE_CHECKING:
    from pacs_tasks.ae import RemoteAE

#: Seconds that a worker has for each question, beyond the time-out of the remote.
_PATIENCE = 30.0
#: Seconds on the queue after which a job is taken to have no worker.
_NO_WORKER = 5.0
#: "Refused: Move Destination unknown" (PS3.4 table C.4-2).
_UNKNOWN_DESTINATION = 0xA801
_ADDRESS = {"ip", "port", "pacs_ae_title"}


class Result(StrEnum):
    """What came of a check. A remark needs no repair."""

    OK = "ok"
    REMARK = "remark"
    FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """One row. ``facts`` are for programs, ``code`` is the exit code of a failure."""

    name: str
    result: Result
    detail: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    code: ExitCode = ExitCode.FAILED

    @classmethod
    def of_error(cls, name: str, error: PacsTasksError) -> Check:
        return cls(name, Result.FAILED, error.message, code=of_error(error))


def run_checks(settings: Settings, only: str | None) -> Iterator[Check]:
    """Yield the checks in their order, each as soon as it is known. A Redis that fails is the last one.

    Parameters
    ----------
    only
        The name of the only remote to check.

    Raises
    ------
    ConfigurationError
        If no remote has this name.
    """
    remotes = _remotes(settings, only)
    yield from _check_settings(settings)
    try:
        client = PacsClient(config=settings)
    except PacsTasksError as error:
        yield Check.of_error("Redis", error)
        return
    with client:
        yield _check_redis(client, private=settings.redis_url is None)
        if not remotes:
            detail = "No remote is named. Name one by a table [remotes.NAME] in pacs-tasks.toml."
            yield Check("Remotes", Result.REMARK, translated(detail))
            return
        receivers = running(client.ledger.client)
        yield _check_receivers(receivers)
        # All at once: one that is silent holds up no other.
        jobs = {name: _enqueue_echo(client, settings, remote) for name, remote in remotes.items()}
        for name, job in jobs.items():
            yield _check_remote(client, settings, name, job, receivers)


def exit_code(checks: list[Check]) -> ExitCode:
    """Return 0 if nothing failed, 3 if only some remotes did, or else the code of the first failure."""
    failed = [each for each in checks if each.result is Result.FAILED]
    if not failed:
        return ExitCode.DONE
    remotes = [each for each in checks if "remote" in each.facts]
    if all(each in remotes for each in failed) and len(failed) < len(remotes):
        return ExitCode.PARTIAL
    return failed[0].code


def _remotes(settings: Settings, only: str | None) -> dict[str, RemoteAE]:
    """Return the remotes of the settings by their names, and the one of PACS_TASKS_IP if it is set."""
    if only is not None:
        return {only: settings.remote(only)}
    found = {name: settings.remote(name) for name in settings.remotes}
    if settings.model_fields_set & _ADDRESS:
        found.setdefault(settings.pacs_ae_title, settings.default_remote)
    return found


def _check_settings(settings: Settings) -> Iterator[Check]:
    file = config_file()
    detail = translated("No settings file is used.") if file is None else str(file.absolute())
    yield Check("Settings", Result.OK, detail)
    if remark := remark_on_variables():
        yield Check("Variables", Result.REMARK, translated(remark))
    if settings.keys:
        yield Check("Encryption", Result.OK, translated("Redis holds private values encrypted."))
    else:
        yield Check("Encryption", Result.REMARK, translated(IN_CLEAR))


def _check_redis(client: PacsClient, *, private: bool) -> Check:
    """Check the version and whether the Redis keeps jobs: it must evict nothing, and should write to disk."""
    from redis.exceptions import RedisError

    info: dict[str, Any] = {}
    with suppress(RedisError, PacsTasksError):
        info = dict(client.ledger.client.info())
    version = str(info.get("valkey_version") or info.get("redis_version") or "")
    policy, on_disk = str(info.get("maxmemory_policy", "noeviction")), bool(int(info.get("aof_enabled", 1)))
    facts = {"version": version, "maxmemory_policy": policy, "append_only": on_disk, "private": private}
    if policy != "noeviction":
        detail = f"It evicts keys ({policy}), and so loses jobs. Set maxmemory-policy noeviction."
        return Check("Redis", Result.FAILED, translated(detail), facts, ExitCode.USAGE)
    if not on_disk:
        detail = "It does not write to disk (appendonly no): a restart of it loses all jobs. Set appendonly yes."
        return Check("Redis", Result.REMARK, translated(detail), facts)
    place = translated("the private server of this machine") if private else translated("it answers")
    return Check("Redis", Result.OK, f"{version or 'Redis'}: {place}", facts)


def _check_receivers(receivers: list[Receiver]) -> Check:
    if not receivers:
        detail = "None runs, so C-MOVE can deliver nothing. Start one with `pacs-tasks receiver`, or use C-GET."
        return Check("Receivers", Result.REMARK, translated(detail))
    return Check("Receivers", Result.OK, ", ".join(map(str, receivers)))


def _enqueue_echo(client: PacsClient, settings: Settings, remote: RemoteAE) -> Job[EchoOutcome]:
    return client.enqueue(EchoRequest(remote=remote, local=settings.local, timeout=settings.timeout, services=True))


def _check_remote(
    client: PacsClient, settings: Settings, name: str, job: Job[EchoOutcome], receivers: list[Receiver]
) -> Check:
    remote = job.request().remote
    facts: dict[str, Any] = {"remote": str(remote), "job_id": job.id}
    try:
        job.wait(settings.timeout + _PATIENCE, check_after=_NO_WORKER)
        outcome = job.outcome()
    except PacsTasksError as error:
        return Check(name, Result.FAILED, error.message, facts, of_error(error))
    accepted = [each.name for each in outcome.services if each.accepted]
    refused = [each.name for each in outcome.services if not each.accepted]
    facts |= {
        "status": f"{outcome.status.code:04X}",
        "seconds": outcome.seconds,
        "max_pdu": outcome.max_pdu,
        "services": {each.name: each.accepted for each in outcome.services},
    }
    if outcome.category not in {Category.SUCCESS, Category.WARNING}:
        return Check(name, Result.FAILED, str(outcome.status), facts)
    parts = [translated(f"{remote} answers in {outcome.seconds * 1000:.0f} ms.")]
    if outcome.max_pdu is not None:
        parts.append(translated(f"Maximum PDU: {outcome.max_pdu} bytes."))
    if accepted:
        parts.append(translated(f"Accepted: {', '.join(accepted)}."))
    if refused:
        parts.append(translated(f"Refused: {', '.join(refused)}."))
    known = {}
    if "C-MOVE" in accepted:
        known = {each.ae_title: _knows(client, settings, remote, each) for each in receivers}
        parts += [translated(_SENTENCES[answer](aet)) for aet, answer in known.items()]
    result = Result.REMARK if refused == list(facts["services"]) or "unknown" in known.values() else Result.OK
    return Check(name, result, " ".join(parts), {**facts, "receivers": known})


def _knows(client: PacsClient, settings: Settings, remote: RemoteAE, receiver: Receiver) -> str:
    """Report whether a remote knows a receiver as a move destination: it is asked to move a study that nobody has."""
    nowhere = f"2.25.{uuid.uuid4().int}"
    job = client.enqueue(
        MoveRequest(
            remote=remote,
            local=settings.local,
            timeout=settings.timeout,
            study_uid=nowhere,
            move_aet=receiver.ae_title,
        )
    )
    with suppress(PacsTasksError):
        job.wait(settings.timeout + _PATIENCE)
        code = job.outcome().status.code
        if code == _UNKNOWN_DESTINATION:
            return "unknown"
        if code == 0:
            return "known"
    return "undecided"


_SENTENCES: Mapping[str, Callable[[str], str]] = {
    "known": lambda aet: f"It accepts {aet} as a move destination.",
    "unknown": lambda aet: f"It does not know {aet}: add it there as a move destination.",
    "undecided": lambda aet: f"It does not say whether it knows {aet}.",
}
