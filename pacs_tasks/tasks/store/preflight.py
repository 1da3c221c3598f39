"""``pacs_tasks.preflight``: predict the result of sending a directory. It sends no instance."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from celery import Task
from pydicom.uid import UID

from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.upper_layer import contexts
from pacs_tasks.errors import JobCancelledError
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, PreflightOutcome, ProposedPair
from pacs_tasks.request import PreflightRequest
from pacs_tasks.tasks.engine.associations import new_association
from pacs_tasks.tasks.engine.base import JobTask, register
from pacs_tasks.tasks.engine.claim import Claim
from pacs_tasks.tasks.engine.job import answer
from pacs_tasks.tasks.engine.paths import files_below, readable_directory
from pacs_tasks.tasks.store.tasks import read_header


def _work(request: PreflightRequest, claim: Claim) -> PreflightOutcome:
    started = time.monotonic()
    readable_directory(request.directory)
    instances: list[StoredInstance] = []
    skipped: list[InstanceOutcome] = []
    unreadable: list[InstanceOutcome] = []
    total = 0
    for path, _ in files_below(request.directory):
        if claim():
            raise JobCancelledError("The job was cancelled before it opened an association.")
        total += 1
        read = read_header(path)
        if isinstance(read, StoredInstance):
            instances.append(read)
        else:
            (skipped if read.category is InstanceCategory.SKIPPED else unreadable).append(read)
    batches = contexts.contexts_for(instances)
    accepted: set[tuple[str, str]] = set()
    for proposed, _ in batches:
        with new_association(request, proposed, claim) as assoc:
            accepted |= set(assoc.accepted_contexts)
    return PreflightOutcome(
        total=total,
        bytes=sum(instance.size for instance in instances),
        pairs=_pairs(instances, accepted),
        skipped=tuple(skipped),
        unreadable=tuple(unreadable),
        contexts=sum(len(proposed) for proposed, _ in batches),
        associations=len(batches),
        seconds=time.monotonic() - started,
    )


def _pairs(instances: list[StoredInstance], accepted: set[tuple[str, str]]) -> tuple[ProposedPair, ...]:
    count: Counter[tuple[str, str]] = Counter()
    size: Counter[tuple[str, str]] = Counter()
    for instance in instances:
        pair = instance.sop_class_uid, instance.transfer_syntax_uid
        count[pair] += 1
        size[pair] += instance.size
    return tuple(
        ProposedPair(
            sop_class_uid=pair[0],
            sop_class_name=UID(pair[0]).name,
            transfer_syntax_uid=pair[1],
            transfer_syntax_name=UID(pair[1]).name,
            count=count[pair],
            bytes=size[pair],
            accepted=pair in accepted,
        )
        for pair in sorted(count)
    )


@register(PreflightRequest.task, base=JobTask)
def preflight(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Predict the result of sending a directory."""
    return answer(self, request, PreflightRequest, _work)
