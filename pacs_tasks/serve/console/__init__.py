"""The console: pages for people who look after jobs."""

from fastapi import FastAPI


def mount(app: FastAPI) -> None:
    """Add the pages to an application whose ``app.state.services`` is set."""
