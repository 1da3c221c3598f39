"""DICOM transfers as Celery tasks over Redis.

``from pacs_tasks import PacsClient`` and the like find the public names in :mod:`pacs_tasks.api`. It is imported when
the first of them is used, so that ``pacs_tasks.dimse`` loads no Redis and ``--help`` loads none either.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pacs_tasks.api import *  # noqa: F403 - type checkers see the same names
    from pacs_tasks.api import __all__ as __all__
else:

    def __getattr__(name: str) -> Any:
        # Public names begin with a capital. The names of modules come here too, before they are imported.
        if name == "__all__" or name[:1].isupper():
            from pacs_tasks import api

            if name == "__all__" or name in api.__all__:
                return getattr(api, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted(__getattr__("__all__"))
