"""The description of the HTTP API in OpenAPI."""

from __future__ import annotations

import json
from pathlib import Path

from pacs_tasks.serve.application import bare_app


def page(_root: Path) -> str:
    """The document that ``pacs-tasks serve`` gives at ``/openapi.json``."""
    return json.dumps(bare_app().openapi(), indent=1, ensure_ascii=False)
