"""What the receiver says at its start about who may call."""

from __future__ import annotations

from pacs_tasks.settings import Settings
from workers.receiver.callers import describe


def _named(**remote: object) -> str:
    """The part of the line that names the callers."""
    said = describe(
        Settings.model_validate({"remotes": {"archive": {"ae_title": "ARCHIVE", "host": "pacs", **remote}}})
    )
    return said.partition(": this machine; ")[2].partition("; and each PACS")[0]


def test_the_addresses_and_titles_from_which_a_remote_may_deliver_are_named() -> None:
    """Whoever reads the line to see what is open would otherwise miss a whole network."""
    assert _named() == "ARCHIVE at pacs"
    assert _named(receive_from=["10.1.0.0/16", "10.2.0.1"]) == "ARCHIVE at pacs, 10.1.0.0/16, 10.2.0.1"
    assert (
        _named(receive_from=["10.1.0.0/16"], receive_from_ae_titles=["MOVER", "ARCHIVE"])
        == "ARCHIVE, MOVER at pacs, 10.1.0.0/16"
    )


def test_the_line_stays_short_where_many_are_named() -> None:
    many = _named(receive_from=[f"10.0.0.{last}" for last in range(1, 100)])
    assert many == "ARCHIVE at pacs, 10.0.0.1, 10.0.0.2, 10.0.0.3 and 96 more"
