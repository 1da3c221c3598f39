"""When instances arrive at a TestPACS, or leave it."""

from __future__ import annotations

import time


class Times(list[str]):
    """A record of a TestPACS that notes when each entry comes, for example ``pacs.stores = Times()``."""

    def __init__(self) -> None:
        super().__init__()
        #: By :func:`time.monotonic`.
        self.at: list[float] = []

    def append(self, entry: str) -> None:
        self.at.append(time.monotonic())
        super().append(entry)
