"""Jobs take turns in a queue: the messages of one job do not all come before those of the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pacs_tasks.ledger.keys import RUNNING, Scripts

if TYPE_CHECKING:
    import redis

#: Messages that are moved at once.
_MOST = 256


def let_others(client: redis.Redis, key: str, root_id: str) -> bool:
    """Move behind others what follows in a list of jobs that had their turn; false if only one job runs.

    Parameters
    ----------
    key
        The list.
    root_id
        The root of the message that was taken, in Celery's sense: the planner of a job is the root of its parts.
    """
    keys = [key, RUNNING, f"pacs_tasks:turns:{key}"]
    return bool(Scripts(client, "messages").run("let_others", keys, [root_id, _MOST]))
