"""Every target."""

from __future__ import annotations

import traceback
from typing import Final

from tests.fuzz import encoded, messages, options, requests
from tests.fuzz.target import Target, changed, made, run

TARGETS: Final = (
    Target("requests", 10, made(requests.REQUESTS, requests.check)),
    Target("options", 5, made(options.LINES, options.check)),
    Target("pdus", 25, changed("pdus", encoded.check_pdu)),
    Target("commands", 10, changed("commands", encoded.check_command)),
    Target("messages", 15, changed("messages", messages.check)),
    Target("identifiers", 15, changed("identifiers", encoded.check_identifier)),
    Target("files", 25, changed("files", encoded.check_file)),
)


def share(target: Target, cases: int) -> int:
    """Give the part of all cases that a target plays."""
    return cases * target.weight // sum(each.weight for each in TARGETS)


def played(name: str, chosen: str, cases: int) -> str:
    """Play the target of this name; gives what went wrong, or nothing."""
    try:
        run(next(each for each in TARGETS if each.name == name), chosen, cases)
    except BaseException:  # noqa: BLE001 - whatever it is, it is the finding
        return traceback.format_exc()
    return ""
