"""What importing a part of the package loads."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args, get_overloads, get_type_hints

import pytest

import pacs_tasks
from pacs_tasks import Job, PacsClient, api
from pacs_tasks.operations import OPERATIONS

ASKING_SIDE = "pacs_tasks.api, pacs_tasks.ledger.jobs, pacs_tasks.embedded, pacs_tasks.cli"
NETWORK_FLOOR = "pacs_tasks.dimse.c_store, pacs_tasks.dimse.find.c_find, pacs_tasks.dimse.scp.storage_scp"


@pytest.mark.parametrize(
    ("modules", "unloaded"),
    [
        (ASKING_SIDE, {"pynetdicom", "pydicom", "celery", "kombu"}),
        ("pacs_tasks.serve.application", {"pynetdicom", "pydicom", "celery", "kombu"}),
        ("dicom_pacs_transfer", {"pynetdicom", "pydicom", "celery", "kombu"}),
        (NETWORK_FLOOR, {"celery", "redis", "kombu"}),
        ("workers.dimse, workers.receiver.service", {"numpy", "pylibjpeg"}),
    ],
)
def test_a_side_loads_nothing_of_the_other(modules: str, unloaded: set[str]) -> None:
    """The asking side loads neither pynetdicom, pydicom nor Celery, the network floor neither Celery nor Redis.

    Workers load no decoders, which pydicom would load.
    """
    names = "{name.partition('.')[0] for name, module in sys.modules.items() if module is not None}"
    program = f"import sys, {modules}; print(*sorted({names}))"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert not unloaded & set(loaded.stdout.split())


def test_importing_the_names_builds_no_validator() -> None:
    """A model that is created at import, as a default for instance, would build its validator for every command."""
    program = """
import pydantic, pacs_tasks.api, pacs_tasks.cli.running
def below(model):
    return {model}.union(*map(below, model.__subclasses__()))
print(*sorted(each.__qualname__ for each in below(pydantic.BaseModel) if each.__pydantic_complete__))
"""
    built = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert built.stdout.split() == []


def test_every_name_is_there_and_typed() -> None:
    """Type checkers see the names of the same module; a wrong name is an error as anywhere."""
    assert dir(pacs_tasks) == sorted(api.__all__)
    for name in api.__all__:
        assert getattr(pacs_tasks, name).__name__ == name
    wrong = "Nonsense"
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        getattr(pacs_tasks, wrong)


def test_every_request_has_the_type_of_its_outcome() -> None:
    """The type of a job follows from its request, as the table of operations has it."""
    typed: dict[object, object] = {}
    for variant in get_overloads(PacsClient.enqueue):
        hints = get_type_hints(variant)
        for request in get_args(hints["request"]) or [hints["request"]]:
            typed.setdefault(request, hints["return"])
    assert typed == {each.request: Job[each.outcome] for each in OPERATIONS.values()}  # type: ignore[name-defined]


_ELSEWHERE = """
import builtins, importlib, os, signal, socket, subprocess, sys, types

real = builtins.__import__

def refuse(name, globals=None, *rest):
    importer = str((globals or {}).get("__name__", "")).partition(".")[0]
    ours = importer in {"pacs_tasks", "workers", "dicom_pacs_transfer"}
    if ours and name.partition(".")[0] in {"fcntl", "termios", "pwd", "grp", "resource"}:
        raise ModuleNotFoundError(f"no {name} here")
    return real(name, globals, *rest)

import celery.app.base, click, fakeredis, flower.views, importlib.metadata, multiprocessing.connection, platformdirs
import pydicom, redis.asyncio, rich.progress, sysconfig
sysconfig.get_config_vars()
for name in ("TCP_QUICKACK", "SO_REUSEPORT", "AF_UNIX"):
    if hasattr(socket, name):
        delattr(socket, name)
for name in ("fork", "setsid", "getuid", "geteuid", "killpg"):
    delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGSTOP", "pthread_sigmask"):
    delattr(signal, name)
sys.modules["msvcrt"] = types.ModuleType("msvcrt")
subprocess.CREATE_NEW_PROCESS_GROUP = subprocess.CREATE_NO_WINDOW = 1

builtins.__import__ = refuse
sys.platform = "win32"
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_the_client_side_imports_where_unix_is_missing() -> None:
    """No module of ours asks at import for what Windows lacks."""
    modules = ["pacs_tasks.cli", "pacs_tasks.client", "dicom_pacs_transfer", "pacs_tasks.dimse.c_store"]
    modules += ["pacs_tasks.dimse.scp.storage_scp", "pacs_tasks.cli.commands.transfer", "pacs_tasks.cli.commands.jobs"]
    modules += ["pacs_tasks.cli.commands.query", "pacs_tasks.cli.commands.processes", "pacs_tasks.embedded"]
    modules += ["pacs_tasks.embedded.supervisor", "pacs_tasks.embedded.fake_server", "pacs_tasks.cli.stack.services"]
    modules += ["pacs_tasks.tasks", "workers.receiver.service"]
    told = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, *modules], check=False, capture_output=True, text=True, timeout=60
    )
    assert told.returncode == 0, told.stderr
