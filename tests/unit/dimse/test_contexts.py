"""Choice of presentation contexts."""

from __future__ import annotations

import pytest

from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.upper_layer.contexts import contexts_for, contexts_to_receive


def _instance(number: int, sop_class: str, syntax: str) -> StoredInstance:
    return StoredInstance(f"/{number}", 100, 50, sop_class, f"1.2.{number}", syntax)


def test_each_pair_has_one_context_of_its_own() -> None:
    """Instances of one pair share a context; a class in two syntaxes has two contexts with one syntax each."""
    instances = [_instance(1, "1.1", "9.1"), _instance(2, "1.1", "9.2"), _instance(3, "1.1", "9.1")]
    [(contexts, batch)] = contexts_for(instances)
    assert [(cx.abstract_syntax, cx.transfer_syntaxes) for cx in contexts] == [("1.1", ("9.1",)), ("1.1", ("9.2",))]
    assert sorted(instance.path for instance in batch) == ["/1", "/2", "/3"]


@pytest.mark.parametrize(("pairs", "batches"), [(0, 0), (1, 1), (128, 1), (129, 2), (300, 3)])
def test_more_than_128_pairs_take_several_associations(pairs: int, batches: int) -> None:
    """No batch has more than 128 contexts, and each instance is in exactly one batch with its context."""
    instances = [_instance(number, f"1.{number % pairs}", "9.1") for number in range(2 * pairs)]
    found = contexts_for(instances)
    assert len(found) == batches
    assert sorted(instance.path for _, batch in found for instance in batch) == sorted(i.path for i in instances)
    for contexts, batch in found:
        assert len(contexts) <= 128
        assert {cx.abstract_syntax for cx in contexts} == {instance.sop_class_uid for instance in batch}


@pytest.mark.parametrize("classes", [0, 1, 3, 5, 20, 64, 127, 200])
def test_contexts_to_receive_leave_room_for_the_one_that_asks(classes: int) -> None:
    """At most 127 contexts with the SCP role are proposed, however many classes there are."""
    contexts = contexts_to_receive([f"1.{number}" for number in range(classes)])
    assert len(contexts) <= 127
    assert all(cx.scp_role for cx in contexts)
    if classes:
        assert len({cx.abstract_syntax for cx in contexts}) == min(classes, 127)


def test_few_classes_come_in_the_syntax_that_they_have() -> None:
    """With few classes each context has one transfer syntax, so that the remote decompresses nothing."""
    contexts = contexts_to_receive(["1.1", "1.2"])
    assert all(len(cx.transfer_syntaxes) == 1 for cx in contexts)
    assert len(set(contexts)) == len(contexts)


def test_no_syntax_is_lost_when_contexts_are_shared() -> None:
    """Each class has every syntax once, however syntaxes are grouped."""
    everything = {cx.transfer_syntaxes[0] for cx in contexts_to_receive(["1.1"])}
    for classes in range(2, 64):
        contexts = contexts_to_receive([f"1.{number}" for number in range(classes)])
        listed = [syntax for cx in contexts if cx.abstract_syntax == "1.0" for syntax in cx.transfer_syntaxes]
        assert sorted(listed) == sorted(everything)
