"""Write every generated page."""

from __future__ import annotations

import sys

from docs.generator.pages import FOLDER, pages


def main() -> int:
    """Write the pages that differ, and name them on stdout."""
    for name, text in pages().items():
        path = FOLDER / name
        if not path.is_file() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            sys.stdout.write(f"Wrote docs/reference/{name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
