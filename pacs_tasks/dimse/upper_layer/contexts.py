"""Presentation contexts for the instances at hand (PS3.8 section 9.3.2.2): exact pairs, at most 128 a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.upper_layer.negotiation import MAX_CONTEXTS, Context


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


def contexts_to_receive(sop_class_uids: Collection[str]) -> list[Context]:
    """Contexts in which instances may come by C-GET, with the SCP role (PS3.7 section D.3.3.4).

    With few classes there is one context per class and transfer syntax, so that the peer sends each instance in the
    syntax that it has. With many, the uncompressed syntaxes of a class share a context, and so do the rarest ones.
    With more classes than there are contexts, the last ones go without.

    Parameters
    ----------
    sop_class_uids
        Empty: the common storage classes.
    """
    classes = sorted(set(sop_class_uids)) or list(COMMON_STORAGE_CLASSES)
    # One context asks.
    room = MAX_CONTEXTS - 1
    classes = classes[:room]
    groups = _syntax_groups(room // len(classes))
    return [Context(uid, group, scp_role=True) for uid in classes for group in groups]


def _syntax_groups(count: int) -> list[tuple[str, ...]]:
    """Split the transfer syntaxes into at most ``count`` groups, the commonest ones alone."""
    apart: list[tuple[str, ...]] = [(syntax,) for syntax in (*_UNCOMPRESSED, *_COMPRESSED)]
    if count >= len(apart):
        return apart
    if count == 1:
        return [_UNCOMPRESSED]
    alone = count - 2
    groups = [_UNCOMPRESSED, *((syntax,) for syntax in _COMPRESSED[:alone])]
    return [*groups, _COMPRESSED[alone:]]


# What the peer prefers of a shared context is often the first.
_UNCOMPRESSED = (
    "1.2.840.10008.1.2.1",  # Explicit VR Little Endian
    "1.2.840.10008.1.2",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.2",  # Explicit VR Big Endian
    "1.2.840.10008.1.2.1.99",  # Deflated Explicit VR Little Endian
)
#: The commonest first.
_COMPRESSED = (
    "1.2.840.10008.1.2.4.70",  # JPEG Lossless, first-order prediction
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.50",  # JPEG Baseline
    "1.2.840.10008.1.2.5",  # RLE
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.51",  # JPEG Extended
    "1.2.840.10008.1.2.4.57",  # JPEG Lossless
    "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.201",  # HTJ2K lossless
    "1.2.840.10008.1.2.4.202",  # HTJ2K lossless RPCL
    "1.2.840.10008.1.2.4.203",  # HTJ2K
    "1.2.840.10008.1.2.4.102",  # MPEG-4 high profile 4.1
    "1.2.840.10008.1.2.4.103",  # the same, BD-compatible
    "1.2.840.10008.1.2.4.104",  # MPEG-4 4.2 for 2D video
    "1.2.840.10008.1.2.4.105",  # MPEG-4 4.2 for 3D video
    "1.2.840.10008.1.2.4.106",  # MPEG-4 stereo
    "1.2.840.10008.1.2.4.100",  # MPEG-2 main profile, main level
    "1.2.840.10008.1.2.4.101",  # MPEG-2 main profile, high level
    "1.2.840.10008.1.2.4.107",  # HEVC main profile
    "1.2.840.10008.1.2.4.108",  # HEVC main 10 profile
    "1.2.840.10008.1.2.4.110",  # JPEG XL lossless
    "1.2.840.10008.1.2.4.112",  # JPEG XL
    "1.2.840.10008.1.2.8.1",  # Deflated Image Frame Compression
)

#: What PACS hold most; each has two contexts then.
COMMON_STORAGE_CLASSES = tuple(
    f"1.2.840.10008.5.1.4.1.1.{suffix}"
    for suffix in (
        *("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "2", "2.1", "2.2", "3.1", "4", "4.1", "4.2", "4.3", "4.4"),
        *("6.1", "6.2", "7", "7.1", "7.2", "7.3", "7.4", "9.1.1", "9.1.2", "9.1.3", "9.2.1", "9.3.1", "9.4.1"),
        *("11.1", "11.2", "11.4", "12.1", "12.1.1", "12.2", "12.2.1", "13.1.1", "13.1.2", "13.1.3", "14.1", "14.2"),
        *("20", "30", "66", "66.1", "66.2", "66.4", "66.5", "77.1.1", "77.1.1.1", "77.1.2", "77.1.4", "77.1.4.1"),
        *("77.1.5.1", "77.1.5.4", "77.1.6", "88.11", "88.22", "88.33", "88.59", "88.67", "88.50", "104.1"),
        "128",
    )
)
