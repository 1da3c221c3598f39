"""How a query went, in sentences: how much came, and why there may be more."""

from __future__ import annotations

from collections.abc import Iterator

from pacs_tasks.cli.output.progress import duration
from pacs_tasks.cli.output.terminal import plain
from pacs_tasks.outcome import Category, Doubt, FindOutcome, StatusCategory

_NO_MATCHES = (
    "check the query for typing errors, and try wider criteria: fewer of them, a longer range, NAME* for a name"
)
_REFUSED = (
    "check the level and the keys: a query at SERIES or IMAGE level usually needs --study-uid, and some PACS refuse "
    "keys that they do not know"
)
_SPLIT = "ask again with --split-dates, or narrow the query"
_NEXT = {
    Doubt.LIMIT: "there are more matches than the --limit; raise it or narrow the query",
    Doubt.STATUS: f"the PACS did not give all matches; {_SPLIT}",
    Doubt.ROUND: f"so many matches look like a limit of the PACS, and there may be more; {_SPLIT}",
    Doubt.UNSPLIT: "narrow the query by another key, such as --modality or --patient-id",
    Doubt.UNDATED: "ask for what has no date or time by another key, such as --patient-id",
    Doubt.QUERIES: "narrow the query, or ask for a shorter range of dates at a time",
}


def about(outcome: FindOutcome) -> Iterator[str]:
    """What there is to say beside the matches themselves."""
    if outcome.category is Category.FAILED:
        yield f"The PACS answered {plain(str(outcome.status))}"
    else:
        count = len(outcome.matches)
        found = "No match" if not count else "1 match" if count == 1 else f"{count} matches"
        more = ", and there are more: the limit was reached" if outcome.limit_hit else ""
        yield f"{found} in {duration(outcome.seconds)}{more}."
    if outcome.keys_left_out:
        yield f"The PACS refused some keys, and was asked without {', '.join(outcome.keys_left_out)}."
    if outcome.split:
        halved = len(outcome.split)
        yield (
            f"{outcome.queries} queries were asked; {halved} {'range was' if halved == 1 else 'ranges were'} split: "
            f"{_named(outcome)}."
        )
    if Doubt.STATUS in outcome.doubts:
        yield f"The PACS ended with {plain(str(outcome.status))}."
    for remark in outcome.remarks:
        yield f"{remark[0].upper()}{remark[1:]}."


def advice(outcome: FindOutcome) -> str:
    """What to do next; empty where the answer is whole."""
    if outcome.category is Category.FAILED:
        if outcome.status.category is StatusCategory.TRANSIENT and not outcome.split:
            return f"some PACS refuse in this way what has too many matches; {_SPLIT}"
        return _REFUSED
    if not outcome.matches:
        return _NO_MATCHES
    return _NEXT[outcome.doubts[0]] if outcome.doubts else ""


def _named(outcome: FindOutcome, most: int = 3) -> str:
    ranges = [f"{each.date or 'all days'}{' ' if each.time else ''}{each.time}" for each in outcome.split[:most]]
    more = len(outcome.split) - most
    return ", ".join(ranges) + (f" and {more} more" if more > 0 else "")
