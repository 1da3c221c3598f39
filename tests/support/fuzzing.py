"""What the tests that make thousands of conversations go wrong share: which cases there are, and how one is told.

Each case is made from the seed and its number alone. ``PACS_TASKS_TESTS_FUZZ_CASES`` says how many of each kind,
``PACS_TASKS_TESTS_FUZZ_FIRST`` the number of the first, ``PACS_TASKS_TESTS_FUZZ_SEED`` makes others; a failure names
its case. A plain generator does here: a case is a whole conversation, and to shrink one, which is what a library for
such tests does best, would take thousands more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Final

from pynetdicom.sop_class import StorageCommitmentPushModel

from pacs_tasks.dimse.upper_layer import command
from tests.support import messages
from tests.support.messages import COMMAND, DATA

SEED: Final = os.environ.get("PACS_TASKS_TESTS_FUZZ_SEED", "1")
CASES: Final = int(os.environ.get("PACS_TASKS_TESTS_FUZZ_CASES", "1500"))
FIRST: Final = int(os.environ.get("PACS_TASKS_TESTS_FUZZ_FIRST", "0"))
NUMBERS: Final = range(FIRST, FIRST + CASES)
#: Seconds for all of them.
LIMIT: Final = max(180, CASES // 20)
#: After this one everything has been loaded that will be.
WARM: Final = FIRST + min(500, CASES // 2)
#: Bytes that a process may have grown by then, whatever the number of cases.
GROWTH: Final = 12 << 20
#: Seconds in which every case ends, on a busy machine too.
IN_TIME: Final = 15.0


@contextmanager
def case(kind: str, number: int, stream: bytes, directory: Path) -> Iterator[None]:
    """Whatever goes wrong within names the case, and keeps its bytes."""
    begun = time.monotonic()
    try:
        yield
        assert time.monotonic() - begun < IN_TIME, "it took too long"
    except BaseException as error:
        kept = directory / f"case-{kind}-{number}"
        kept.write_bytes(stream)
        raise AssertionError(f"case {number} of {kind}, seed {SEED!r} (bytes in {kept}): {error!r}") from error


def chance(kind: str, number: int) -> Random:
    """What decides one case."""
    return Random(f"{SEED}/{kind}/{number}")


def resident(pid: int | str) -> int:
    """Bytes of memory that a process has; 0 where the system does not say."""
    path = Path(f"/proc/{pid}/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0


# Parts of honest conversations


def fragmented(command_set: bytes, data_set: bytes, context_id: int, size: int) -> list[bytes]:
    """A message in PDUs of one PDV of ``size`` bytes each."""
    pdvs = messages.fragments(command_set, size, COMMAND, context_id)
    pdvs += messages.fragments(data_set, size, DATA, context_id)
    return [messages.p_data(pdv) for pdv in pdvs]


def report(message_id: int) -> bytes:
    """An N-EVENT-REPORT request about storage commitment."""
    elements: dict[int, int | str] = {
        command.AFFECTED_SOP_CLASS_UID: StorageCommitmentPushModel,
        command.COMMAND_FIELD: command.N_EVENT_REPORT_RQ,
        command.MESSAGE_ID: message_id,
        command.AFFECTED_SOP_INSTANCE_UID: "1.2.840.10008.1.20.1.1",
        command.EVENT_TYPE_ID: 2,
    }
    item = messages.element(0x0008, 0x1150, b"1.2\0") + messages.element(0x0008, 0x1155, b"1.3\0")
    sequence = messages.element(0xFFFE, 0xE000, item)
    content = (
        messages.element(0x0008, 0x1195, b"1.2.3\0")
        + messages.element(0x0008, 0x1198, sequence)
        + messages.element(0x0008, 0x1199, sequence * 2)
    )
    return messages.message(command.encode(elements, data_set=True), content)
