"""A real browser: Debian's Chromium, without a window."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.peers import chromium_program


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser. Playwright runs an event loop meanwhile, so no test may have one of its own."""
    # As root, Chromium has no sandbox.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as running:
        program = running.chromium.launch(executable_path=chromium_program(), args=arguments)
        try:
            yield program
        finally:
            program.close()


@contextmanager
def page_of(program: Browser, **options: Any) -> Iterator[Page]:
    """Give a page of somebody new; ``options`` are those of its context. Afterwards, no script may have failed."""
    context = program.new_context(viewport={"width": 1280, "height": 800}, **options)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    try:
        yield page
    finally:
        context.close()
    assert not wrong
