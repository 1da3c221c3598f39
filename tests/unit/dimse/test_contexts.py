"""Choice of presentation contexts."""

from __future__ import annotations

import pytest
from pydicom.uid import (
    MPEG2MPML,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
)
from pynetdicom.presentation import AllStoragePresentationContexts

from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.upper_layer.contexts import alternatives_for, contexts_for, contexts_to_receive, guesses
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.request import Transcode


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


def test_unlisted_classes_are_guessed_over_several_associations() -> None:
    """The known classes and the common ones come first; every storage class has its turn, within the limit."""
    assert guesses({"", "1.2.3"}, "CT")[0][:2] == ["1.2.3", CTImageStorage]
    assert guesses({"", "1.2.3"}, "CT")[1:] == guesses({"", "1.2.3"}) == guesses({"", "1.2.3"}, "?")
    turns = guesses({"", "1.2.3"})
    assert turns[0][0] == "1.2.3"
    assert all(len(contexts_to_receive(classes)) <= 127 for classes in turns)
    proposed = [cx.abstract_syntax for classes in turns for cx in contexts_to_receive(classes)]
    assert set(proposed) >= {str(cx.abstract_syntax) for cx in AllStoragePresentationContexts}
    assert guesses({f"1.{number}" for number in range(198)}) == [
        each[start:stop]
        for each in [sorted(f"1.{number}" for number in range(198))]
        for start, stop in ((0, 127), (127, 198))
    ]


def test_rare_syntaxes_are_proposed_only_for_what_did_not_come() -> None:
    """Remotes that choose any accepted context choose these too."""
    rare = {ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, "1.2.840.10008.1.2.8.1"}
    for classes in (["1.1"], [f"1.{number}" for number in range(60)]):
        usual = {syntax for cx in contexts_to_receive(classes) for syntax in cx.transfer_syntaxes}
        assert not usual & rare
        assert {
            syntax for cx in contexts_to_receive(classes, rare=True) for syntax in cx.transfer_syntaxes
        } == usual | rare


def test_listed_syntaxes_are_proposed_alone() -> None:
    """Of a class of which the remote lists the syntaxes, these and the usual uncompressed ones have a context each."""
    listed: dict[str, set[str]] = {"1.1": {"1.2.840.10008.1.2.4.70", "1.2.3.4"}, "1.3": {ExplicitVRLittleEndian}}
    contexts = contexts_to_receive(["1.1", "1.2", "1.3"], listed=listed)
    proposed = {
        uid: [cx.transfer_syntaxes for cx in contexts if cx.abstract_syntax == uid] for uid in ("1.1", "1.2", "1.3")
    }
    usual = [(ExplicitVRLittleEndian,), (ImplicitVRLittleEndian,)]
    assert proposed["1.1"] == [*usual, ("1.2.3.4",), ("1.2.840.10008.1.2.4.70",)]
    assert proposed["1.3"] == usual
    assert len(proposed["1.2"]) > 20
    many = [f"1.{number}" for number in range(60)]
    crowded = contexts_to_receive(many, listed={"1.1": listed["1.1"], "1.3": {"1.2.840.10008.1.2.4.70"}})
    assert [cx.transfer_syntaxes for cx in crowded if cx.abstract_syntax == "1.3"] == [
        (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        ("1.2.840.10008.1.2.4.70",),
    ]
    assert [cx for cx in crowded if cx.abstract_syntax == "1.1"] == [
        cx for cx in contexts_to_receive(many) if cx.abstract_syntax == "1.1"
    ]


def test_the_other_uncompressed_syntaxes_are_offered_behind_the_own_one() -> None:
    """Implicit VR is offered for each class unless all of it is lossy (PS3.5 section 10.1), or nothing may change."""
    syntaxes = {"1.1": ExplicitVRLittleEndian, "1.2": ImplicitVRLittleEndian, "1.3": JPEGLosslessSV1, "1.4": MPEG2MPML}
    instances = [_instance(number, each, syntax) for number, (each, syntax) in enumerate(syntaxes.items())]
    [(contexts, _)] = contexts_for(instances)
    assert [(cx.abstract_syntax, cx.transfer_syntaxes) for cx in contexts[:4]] == [
        (each, (syntax,)) for each, syntax in syntaxes.items()
    ]
    offered = {cx.abstract_syntax: cx.transfer_syntaxes for cx in contexts[4:]}
    assert set(offered) == {"1.1", "1.2", "1.3"}
    for sop_class, syntax in syntaxes.items():
        if sop_class in offered:
            assert syntax not in offered[sop_class]
            assert ImplicitVRLittleEndian in (*offered[sop_class], syntax)
    [(never, _)] = contexts_for(instances, Transcode.NEVER)
    assert never == contexts[:4]


@pytest.mark.parametrize(("classes", "batches"), [(64, 1), (65, 1), (128, 1), (129, 2)])
def test_alternatives_take_the_room_that_is_left(classes: int, batches: int) -> None:
    """Each batch stays within 128 contexts and has all own ones; what finds no room has an association of its own."""
    instances = [_instance(number, f"1.{number}", ExplicitVRLittleEndian) for number in range(classes)]
    found = contexts_for(instances)
    assert len(found) == batches
    for contexts, batch in found:
        assert len(contexts) == min(2 * len(batch), 128)
        assert contexts[: len(batch)] == [Context(each.sop_class_uid, (ExplicitVRLittleEndian,)) for each in batch]
    later = alternatives_for(instances, Transcode.UNCOMPRESSED)
    assert len(later) == batches
    assert [each for _, batch in later for each in batch] == instances
    assert all(ImplicitVRLittleEndian in cx.transfer_syntaxes for contexts, _ in later for cx in contexts)
