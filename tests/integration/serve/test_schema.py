"""Generated requests: the server answers as its description says, whatever comes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from docs.generator.pages import FOLDER
from pacs_tasks.ledger.tokens import Scope
from tests.support.http_api import serving
from tests.support.processes import environment

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_the_server_does_what_its_description_says(redis_url: str, tmp_path: Path) -> None:
    """No request brings forth a server error, a status, a type or a document that the description does not know.

    No worker serves this Redis, so that nothing of what is enqueued is done.
    """
    with serving(redis_url, tmp_path) as server:
        service = server.as_one_who(*Scope)
        assert service.get("/openapi.json")["openapi"].startswith("3.1")
        command = [str(Path(sys.executable).with_name("schemathesis")), "run", str(FOLDER / "openapi.json")]
        command += ["--url", server.address, "--header", f"Authorization: Bearer {service.token}"]
        # A job that nobody does is followed for ever.
        command += ["--exclude-path-regex", "/events$", "--checks", CHECKS, "--max-examples", "5", "--seed", "1"]
        command += ["--phases", "examples,fuzzing", "--generation-database", "none", "--no-shrink"]
        command += ["--no-color", "--warnings", "off"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=150, check=False
        )
        assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
        service.call("GET", "/health", status=200)
