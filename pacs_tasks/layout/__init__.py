"""Where retrieved instances go below the output directory.

The values of a template come from data sets that anybody may have written. So each value becomes a harmless name
(:mod:`pacs_tasks.layout.names`), links that lead out of the output directory are not followed, and an existing file is
replaced only by the same SOP instance. Other rooms import :class:`Layout`.
"""

from __future__ import annotations

from pacs_tasks.layout.place import Layout

__all__ = ["Layout"]
