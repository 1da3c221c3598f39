"""Where a retrieved instance goes below its output directory, and how it gets there without harm to another file.

The values of a template come from data sets that anybody may have written, so each becomes a name that is harmless
(:mod:`pacs_tasks.layout.names`); no link inside the output directory is followed; and a file that is there already is
replaced only by the same SOP instance.
"""

from __future__ import annotations

from pacs_tasks.layout.place import Layout

__all__ = ["Layout"]
