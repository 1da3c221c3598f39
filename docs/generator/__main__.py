"""Write every generated page."""

from __future__ import annotations

import sys

from docs.generator import translations
from docs.generator.pages import FOLDER, ROOT, pages


def main() -> int:
    """Write the pages that differ and the catalogue of translations, and name what changed on stdout."""
    for name, text in pages().items():
        path = FOLDER / name
        if not path.is_file() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            sys.stdout.write(f"Wrote docs/reference/{name}\n")
    try:
        for text in translations.renew(ROOT):
            sys.stdout.write(f"Translate in {translations.CATALOGUE}, then run this again: {text!r}\n")
    except ModuleNotFoundError as error:
        sys.stdout.write(f"{error}: the catalogue of translations was not renewed. Install it: pip install Babel\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
