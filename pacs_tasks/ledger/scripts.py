"""The Lua scripts, each of which changes Redis in one step, so that no two processes can disagree.

A script is the file ``<room>/lua/<name>.lua``; its first comment describes keys, arguments and result. The line
``-- include <room>/<name>`` stands for the text of another file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import redis


#: importlib.resources would add 10 ms to the start of each command.
_PACKAGE = Path(__file__).parents[1]
_INCLUDE = re.compile(r"^-- include (\w+)/([\w/]+)$", re.MULTILINE)


@cache
def source(room: str, name: str) -> str:
    """Read a script, with the files that it includes."""
    text = (_PACKAGE / room / "lua" / f"{name}.lua").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda included: source(included[1], included[2]), text)


class Scripts:
    """Runs the scripts of one room in one Redis, which receives the text of each only once."""

    def __init__(self, client: redis.Redis, room: str = "ledger") -> None:
        self._redis, self._room = client, room
        self._registered: dict[str, Any] = {}

    def run(self, name: str, keys: Sequence[str], arguments: Sequence[Any] = ()) -> Any:
        """Run a script and return its result."""
        script = self._registered.get(name)
        if script is None:
            script = self._registered[name] = self._redis.register_script(source(self._room, name))
        return script(keys=list(keys), args=list(arguments))
