"""Presentation contexts for the instances at hand (PS3.8 section 9.3.2.2): exact pairs, at most 128 a time."""

from __future__ import annotations

from collections.abc import Iterable

from pacs_tasks.dimse.association import MAX_CONTEXTS, Context
from pacs_tasks.dimse.part10 import StoredInstance


def contexts_for(instances: Iterable[StoredInstance]) -> list[tuple[list[Context], list[StoredInstance]]]:
    """Split instances so that one association carries each batch.

    One context stands for one exact (SOP class, transfer syntax) pair: a context with several transfer syntaxes would
    let the peer choose one that the files do not have.

    Returns
    -------
    Batches of at most 128 contexts with their instances, pairs in the order of their first instance. Instances of
    one pair stay in one batch, in their order.
    """
    by_pair: dict[tuple[str, str], list[StoredInstance]] = {}
    for instance in instances:
        by_pair.setdefault((instance.sop_class_uid, instance.transfer_syntax_uid), []).append(instance)
    pairs = list(by_pair)
    batches = []
    for start in range(0, len(pairs), MAX_CONTEXTS):
        chosen = pairs[start : start + MAX_CONTEXTS]
        contexts = [Context(sop_class, (syntax,)) for sop_class, syntax in chosen]
        batches.append((contexts, [instance for pair in chosen for instance in by_pair[pair]]))
    return batches
