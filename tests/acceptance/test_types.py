"""A user's type checker understands the package as it is installed, from a wheel and from a checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.documents import README, blocks
from tests.support.processes import ROOT, environment

_SOURCES = ("pacs_tasks", "workers", "dicom_pacs_transfer.py", "pyproject.toml", "README.md", "LICENSE")
_MORE = """
from pacs_tasks import EchoRequest, FindRequest, Job

def ended(job: Job) -> str:
    return job.outcome().category

with PacsClient() as client:
    print(client.enqueue(EchoRequest(remote=remote)).outcome().status)
    print(client.enqueue(FindRequest(remote=remote)).outcome().matches, ended(client.job("1")))
"""


def _run(*command: str | Path) -> str:
    done = subprocess.run(
        command,
        cwd=Path(command[-1]).parent,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("options", [(), ("--editable",)], ids=["wheel", "editable"])
def test_the_readme_passes_a_strict_type_checker(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Also the outcome of each request, and a job that is annotated without its outcome."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in _SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, checkout)
    _run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env")
    python = tmp_path / "env/bin/python"
    packages = next((tmp_path / "env").glob("lib/python*/site-packages"))
    # It finds what this environment has, but not our own installation: a .pth file beside it is not read.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    _run(*pip, "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", *options, checkout)
    snippet = tmp_path / "snippet.py"
    text = next(each.text for each in blocks(README, "python") if "PacsClient" in each.text)
    snippet.write_text(text + _MORE, "utf-8")
    where = _run(python, "-c", "import pacs_tasks; print(pacs_tasks.__file__)", snippet)
    assert Path(where.strip()).is_relative_to(checkout if options else packages)
    _run(sys.executable, "-m", "mypy", "--strict", "--config-file=", "--python-executable", python, snippet)
