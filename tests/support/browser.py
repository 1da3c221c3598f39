"""A real browser: Debian's Chromium, without a window."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

from tests.support.peers import chromium_program


@contextmanager
def browser(**options: str) -> Iterator[Page]:
    """Give a page of a new browser; ``options`` are those of its context. Afterwards, no script may have failed."""
    # As root, Chromium has no sandbox.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as running:
        program = running.chromium.launch(executable_path=chromium_program(), args=arguments)
        context = program.new_context(viewport={"width": 1280, "height": 800}, **options)  # type: ignore[arg-type]
        page = context.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
        try:
            yield page
        finally:
            context.close()
            program.close()
        assert not wrong
