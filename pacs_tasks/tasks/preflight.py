"""``pacs_tasks.echo`` (C-ECHO) and ``pacs_tasks.preflight``: what a remote would do, before anything is sent."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from celery import Task
from pydicom.config import IGNORE
from pydicom.uid import UID

from pacs_tasks.dimse import c_echo, c_store
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.sources.archive import Unpacked
from pacs_tasks.dimse.upper_layer import contexts
from pacs_tasks.outcome import EchoOutcome, InstanceCategory, InstanceOutcome, PreflightOutcome, ProposedPair
from pacs_tasks.request import EchoRequest, PreflightRequest, Transcode
from pacs_tasks.tasks.engine.associations import leased, new_association
from pacs_tasks.tasks.engine.base import JobTask, local_ae, register, timeouts
from pacs_tasks.tasks.engine.claim import Claim
from pacs_tasks.tasks.engine.job import answer
from pacs_tasks.tasks.files import Kind, listed, read_header


def _preflight(request: PreflightRequest, claim: Claim) -> PreflightOutcome:
    started = time.monotonic()
    instances: list[StoredInstance] = []
    skipped: list[InstanceOutcome] = []
    unreadable: list[InstanceOutcome] = []
    total = 0
    named = (request.directory,) if request.directory is not None else request.paths
    for line in dict.fromkeys(listed(named, claim, Kind.DIRECTORY if request.directory is not None else Kind.ANY)):
        total += 1
        with Unpacked() as unpacked:
            read = read_header(line, unpacked, request)
        if isinstance(read, StoredInstance):
            instances.append(read)
        else:
            (skipped if read.category is InstanceCategory.SKIPPED else unreadable).append(read)
    batches = contexts.contexts_for(instances, request.transcode)
    accepted: set[tuple[str, str]] = set()
    refused: list[StoredInstance] = []
    for proposed, batch in batches:
        with new_association(request, claim.job_id, proposed, claim) as assoc:
            accepted |= set(assoc.accepted_contexts)
            refused += [each for each in batch if c_store.may_be_converted(assoc, each, None, request.transcode)]
    for more in contexts.alternatives_for(refused, request.transcode):
        batches.append(more)
        with new_association(request, claim.job_id, more[0], claim) as assoc:
            accepted |= set(assoc.accepted_contexts)
    return PreflightOutcome(
        total=total,
        bytes=sum(instance.size for instance in instances),
        pairs=_pairs(instances, accepted, request.transcode),
        skipped=tuple(skipped),
        unreadable=tuple(unreadable),
        contexts=sum(len(proposed) for proposed, _ in batches),
        associations=len(batches),
        seconds=time.monotonic() - started,
    )


def _pairs(
    instances: list[StoredInstance], accepted: set[tuple[str, str]], transcode: Transcode
) -> tuple[ProposedPair, ...]:
    count: Counter[tuple[str, str]] = Counter()
    size: Counter[tuple[str, str]] = Counter()
    sent_as: dict[tuple[str, str], str] = {}
    for instance in instances:
        pair = instance.sop_class_uid, instance.transfer_syntax_uid
        count[pair] += 1
        size[pair] += instance.size
        if pair not in accepted:
            sent_as[pair] = c_store.sent_as(*pair, accepted, transcode) or ""
    return tuple(
        ProposedPair(
            sop_class_uid=pair[0],
            sop_class_name=UID(pair[0], IGNORE).name,
            transfer_syntax_uid=pair[1],
            transfer_syntax_name=UID(pair[1], IGNORE).name,
            count=count[pair],
            bytes=size[pair],
            accepted=pair in accepted,
            sent_as=sent_as.get(pair, ""),
        )
        for pair in sorted(count)
    )


@register(PreflightRequest.task, base=JobTask)
def preflight(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Predict the result of sending a directory."""
    return answer(self, request, PreflightRequest, _preflight)


def _echo(request: EchoRequest, claim: Claim) -> EchoOutcome:
    with leased(request, claim.job_id, claim) as lease:
        return c_echo.echo(
            local_ae(request), request.remote, timeouts(request), lease.stop, services=bool(request.services)
        )


@register(EchoRequest.task, base=JobTask)
def echo(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Verify the connection with a remote."""
    return answer(self, request, EchoRequest, _echo)
