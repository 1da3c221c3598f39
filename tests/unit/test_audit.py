"""``make audit`` claims nothing that was not compared: pip-audit alone ends with 0 where a list knows no package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

_SAFE = {"name": "celery", "version": "5.7.0", "vulns": []}
_VULNERABLE = {"name": "redis", "version": "5.2.0", "vulns": [{"id": "PYSEC-2030-1"}]}
_UNKNOWN = {"name": "ours", "skip_reason": "Dependency not found on PyPI and could not be audited: ours (1)"}


@pytest.mark.parametrize(
    ("lists", "code", "said"),
    [
        ({"pypi": [_SAFE]}, 0, "1 packages compared, 0 with known vulnerabilities"),
        ({"pypi": [_SAFE, _VULNERABLE]}, 1, "redis 5.2.0 has known vulnerabilities: PYSEC-2030-1"),
        ({"pypi": [_SAFE, _UNKNOWN], "osv": [_SAFE, {**_SAFE, "name": "ours"}]}, 0, "2 packages compared"),
        ({"pypi": [_SAFE, _UNKNOWN]}, 3, "not compared, since no list has them: ours"),
        ({"pypi": [_UNKNOWN]}, 3, "NOT AUDITED"),
        ({}, 3, "NOT AUDITED"),
    ],
)
def test_what_was_compared_is_said(lists: dict[str, object], code: int, said: str, tmp_path: Path) -> None:
    """The program stands for pip-audit, which ends with an error on stderr where it reaches no list."""
    answers = {name: json.dumps({"dependencies": found}) for name, found in lists.items()}
    (program := tmp_path / "pip-audit").write_text(
        f"#!{sys.executable}\nimport sys\nanswer = {answers!r}.get(sys.argv[2])\n"
        "print(answer) if answer else sys.exit('no route to the list')\n"
    )
    program.chmod(0o755)
    command = [sys.executable, str(ROOT / ".ci/audit.py"), str(program), "constraints.txt"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, said in done.stdout) == (code, True), done.stdout + done.stderr
