"""Where a run takes place, and what it needs there."""

from __future__ import annotations

import os
import platform
import re
import shutil
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.results import Machine
from tests.support.peers import dcmtk_missing, orthanc_program, version_of


def missing() -> str:
    """One sentence about what is not installed; empty where all is there."""
    absent = [f"DCMTK ({', '.join(dcmtk_missing())})"] if dcmtk_missing() else []
    absent += [] if orthanc_program() else ["Orthanc"]
    absent += [] if shutil.which("redis-server") else ["Redis"]
    if not absent:
        return ""
    return (
        f"the benchmark needs {', '.join(absent)}; install what is missing "
        "(Debian, Ubuntu: apt-get install --no-install-recommends orthanc dcmtk redis-server)"
    )


def machine() -> Machine:
    """This machine, and the versions of all contestants and peers."""
    packages = ("pacs-tasks", "celery", "kombu", "redis", "pydicom", "pynetdicom")
    programs = {"DCMTK": "storescp", "Orthanc": orthanc_program() or "Orthanc", "Redis": "redis-server"}
    return Machine(
        system=platform.platform(),
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        python=platform.python_version(),
        versions={
            **{name: _number(version_of(program)) for name, program in programs.items()},
            **{name: version(name) for name in packages},
        },
    )


def _number(said: str) -> str:
    found = re.search(r"\d+(\.\d+)+", said)
    return found[0] if found else said


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", known.read_text(), re.MULTILINE) if known.exists() else None
    return found[1] if found else platform.processor() or platform.machine()
