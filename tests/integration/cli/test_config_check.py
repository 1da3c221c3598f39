"""`pacs-tasks config check`: what it reports of the settings, the Redis and each remote, and its exit codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import redis

from pacs_tasks.sealing import new_key
from pacs_tasks.testing import Faults, TestPACS
from tests.support import workers
from tests.support.command import PACS_TASKS, Result, Terminal
from tests.support.ports import free_port


def _terminal(terminal: Terminal, **remotes: tuple[str, int]) -> Terminal:
    """A terminal whose settings file names these remotes by their AE titles and ports."""
    table = '[remotes.{}]\nae_title = "{}"\nhost = "127.0.0.1"\nport = {}\n'
    tables = [table.format(name, *address) for name, address in remotes.items()]
    path = terminal.directory / "pacs-tasks.toml"
    path.write_text("\n".join(tables))
    return replace(terminal, entry=PACS_TASKS, settings=(("PACS_TASKS_CONFIG", str(path)),))


def _rows(result: Result) -> dict[str, Any]:
    return {each["check"]: each for each in result.json["checks"]}


def test_each_remote_is_called_by_a_worker(redis_url: str, worker: object, tmp_path: Path) -> None:
    """Its services and its PDU size are shown, and whether it knows the receiver as a move destination."""
    port = free_port()
    with (
        workers.receiver(redis_url, tmp_path, port, "KNOWN"),
        TestPACS("KNOWS", destinations={"KNOWN": ("127.0.0.1", port)}) as knows,
        TestPACS("DOES_NOT") as does_not,
    ):
        here = _terminal(Terminal(tmp_path, redis_url), one=("KNOWS", knows.port), two=("DOES_NOT", does_not.port))
        result = here.run("config", "check", "--json")
        assert result.code == 0, result
        rows = _rows(result)
        assert rows["Settings"]["detail"] == str(tmp_path / "pacs-tasks.toml")
        assert rows["Encryption"]["result"] == "remark"
        assert rows["Redis"]["maxmemory_policy"] == "noeviction"
        assert "KNOWN at" in rows["Receivers"]["detail"]
        assert rows["one"]["services"].items() >= {"C-STORE": True, "C-FIND": True, "C-MOVE": True}.items()
        assert rows["one"]["max_pdu"] > 0
        assert (rows["one"]["result"], rows["one"]["receivers"]) == ("ok", {"KNOWN": "known"})
        assert (rows["two"]["result"], rows["two"]["receivers"]) == ("remark", {"KNOWN": "unknown"})
        shown = " ".join(here.run("config", "check").stdout.split())
        assert "add it there as a move destination" in shown
    assert knows.stores == does_not.stores == []


def test_the_exit_code_tells_what_failed(terminal: Terminal, pacs: TestPACS) -> None:
    """0 all is well, 3 some remotes fail, 4 no remote can be reached, 2 a wrong name, 1 no Redis."""
    gone = free_port()
    some = _terminal(terminal, here=("TESTPACS", pacs.port), gone=("GONE", gone))
    result = some.run("config", "check", "--json")
    assert result.code == result.json["exit_code"] == 3, result
    assert "Cannot connect" in _rows(result)["gone"]["detail"]
    assert some.run("config", "check", "--remote", "here").code == 0
    assert some.run("config", "check", "--remote", "gone").code == 4
    assert some.run("config", "check", "--remote", "nobody").code == 2
    pacs.faults = Faults(refused_sop_classes=["1.2.840.10008.5.1.4.1.1.2"])
    refusing = some.run("config", "check", "--remote", "here", "--json")
    assert _rows(refusing)["here"]["services"]["C-STORE"] is False
    nowhere = replace(some, redis_url=f"redis://127.0.0.1:{gone}/0")
    away = nowhere.run("config", "check", "--json")
    assert (away.code, _rows(away)["Redis"]["result"]) == (1, "failed")
    wrong = replace(some, settings=(*some.settings, ("PACS_TASKS_PORT", "none")))
    assert wrong.run("config", "check").code == 2
    assert some.run("config", "new-key", "--remote", "here").code == 2


def test_a_redis_that_evicts_loses_jobs(terminal: Terminal, redis_url: str) -> None:
    """It is a failure; one without an append-only file gets a remark. Encryption is seen."""
    here = replace(_terminal(terminal), redis_url=redis_url)
    here = replace(here, settings=(*here.settings, ("PACS_TASKS_ENCRYPTION_KEYS", new_key())))
    result = here.run("config", "check", "--json")
    rows = _rows(result)
    assert result.code == 0, result
    assert (rows["Redis"]["result"], rows["Redis"]["append_only"]) == ("remark", False)
    assert (rows["Encryption"]["result"], rows["Remotes"]["result"]) == ("ok", "remark")
    assert redis.Redis.from_url(redis_url) is not None
