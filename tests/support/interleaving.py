"""What another process does between two commands of a client of Redis."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import redis


def interrupt(client: redis.Redis, before: int, step: Callable[[], object]) -> Iterator[int]:
    """Run ``step`` before the command of this number, from 0 on; return what counts the commands."""
    execute: Callable[..., Any] = client.execute_command
    commands = itertools.count()

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if next(commands) == before:
            step()
        return execute(*arguments, **options)

    client.execute_command = interrupted  # type: ignore[method-assign]
    return commands
