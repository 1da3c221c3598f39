"""Who may do what over HTTP, what they see, and what is refused."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pacs_tasks.ledger.tokens import Scope
from pacs_tasks.testing import TestPACS
from tests.support.command import Terminal
from tests.support.dicom_files import write_series
from tests.support.http_api import Api
from tests.support.waiting import wait_until

NAME = "Zyxwvut^Planted"
PATIENT = "PLANTED-4711"
ECHO = {"task": "pacs_tasks.echo"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/jobs/nonsense", None, 404, "JobNotFoundError"),
        ("GET", "/jobs/nonsense/events", None, 404, "JobNotFoundError"),
        ("GET", "/jobs?before=nonsense", None, 404, "JobNotFoundError"),
        ("GET", "/jobs?limit=0", None, 422, "InvalidRequestError"),
        ("GET", "/nonsense", None, 404, "NotFoundError"),
        ("DELETE", "/jobs", None, 405, "MethodNotAllowedError"),
        ("POST", "/jobs", {"task": "\ud800"}, 422, "InvalidRequestError"),
        ("POST", "/jobs", {**ECHO, "remote": "\ud800"}, 422, "InvalidRequestError"),
        ("POST", "/jobs", {**ECHO, "request": {"remote": {"host": "\ud800", "port": 1}}}, 422, "InvalidRequestError"),
        ("POST", "/jobs", {**ECHO, "\ud800": 1}, 422, "InvalidRequestError"),
        ("POST", "/jobs", {"task": "nonsense"}, 422, "InvalidRequestError"),
        ("POST", "/jobs", {"task": "pacs_tasks.store_directory", "request": {}}, 422, "InvalidRequestError"),
        ("POST", "/jobs", {**ECHO, "remote": "nonsense"}, 422, "InvalidRequestError"),
        ("POST", "/jobs", {**ECHO, "upload": "nonsense"}, 422, "InvalidRequestError"),
        ("POST", "/jobs", {**ECHO, "request": {"timeout": -1}}, 422, "InvalidRequestError"),
        ("POST", "/jobs", {"task": "pacs_tasks.store_paths", "upload": "0" * 32}, 404, "UploadNotFoundError"),
        ("POST", "/remotes/nonsense/echo", None, 404, "RemoteNotFoundError"),
        ("POST", "/uploads", b"text", 415, "UnsupportedMediaTypeError"),
    ],
)
def test_errors_are_problems(service: Api, method: str, path: str, body: Any, status: int, code: str) -> None:
    """RFC 9457, with the name and the message that the command line shows, and what browsers should obey."""
    answer = service.call(method, path, body, status=status)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    problem = answer.json
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, f"urn:pacs-tasks:{code}")
    assert problem["detail"].endswith(".")


def test_a_message_is_that_of_the_command_line(service: Api, terminal: Terminal) -> None:
    """Somebody who looks a message up finds it once."""
    told = terminal.run("status", "nonsense", "--json").json
    problem = service.call("GET", "/jobs/nonsense", status=404).json
    assert problem["detail"] == told["error"]["message"]
    assert problem["code"] == told["error"]["type"]
    assert problem["exit_code"] == told["exit_code"]


def test_a_token_does_what_its_scopes_say(server: Api, reader: Api) -> None:
    """Without a token nothing; with ``read`` nothing is enqueued; ``admin`` sees no patient data."""
    for caller in (server, Api(server.port, server.redis_url, "nonsense")):
        refused = caller.call("GET", "/jobs", status=401)
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert server.call("GET", "/health", status=200).json == {"status": "up"}
    assert reader.call("POST", "/jobs", ECHO, status=403).json["code"] == "MissingScopeError"
    administrator = server.as_one_who(Scope.ADMIN)
    job_id = administrator.submit("pacs_tasks.echo", {}, remote="absent")
    assert administrator.call("GET", f"/jobs/{job_id}/receipts").status == 403
    assert administrator.get(f"/jobs/{job_id}")["request"] is None


def test_tokens_are_made_and_revoked_on_the_command_line(server: Api, terminal: Terminal) -> None:
    """A token is shown once, kept as a hash, and refused once it is revoked: what reads, within a second."""
    made = terminal.run("token", "new", "reporting", "--scope", "read", "--json").json
    caller = Api(server.port, server.redis_url, made["token"])
    caller.call("GET", "/jobs", status=200)
    listed = terminal.run("token", "list")
    assert "reporting" in listed.stdout
    assert made["token"] not in listed.stdout
    again = terminal.run("token", "new", "reporting", "--scope", "read")
    assert again.code == 2
    assert "exists already" in again.stderr
    assert terminal.run("token", "revoke", "reporting").code == 0
    caller.call("POST", "/jobs", ECHO, status=401)
    wait_until(lambda: caller.call("GET", "/jobs").status == 401, 5, "the token to be forgotten")


def test_patient_data_is_for_tokens_that_may_see_it(service: Api, reader: Api, pacs: TestPACS, tmp_path: Path) -> None:
    """Without the scope ``patients``, no answer has a name, an id, a path or a UID."""
    directory = tmp_path / PATIENT
    write_series(directory, 3, rows=2, patient_name=NAME, patient_id=PATIENT)
    (directory / "notes.txt").write_text(NAME)
    remote = json.loads(pacs.remote.model_dump_json(exclude_none=True))
    sent = service.submit("pacs_tasks.store_directory", {"remote": remote, "directory": str(directory)})
    service.follow(sent)
    keys = {"PatientID": PATIENT, "PatientName": ""}
    asked = service.submit("pacs_tasks.find", {"remote": remote, "level": "STUDY", "keys": keys})
    service.follow(asked)
    absent = service.submit("pacs_tasks.store_file", {"remote": remote, "path": str(directory / "absent")})
    service.follow(absent)
    private = [NAME, PATIENT, *pacs.instances]
    matches = [json.loads(line) for line in service.call("GET", f"/jobs/{asked}/matches").text.splitlines()]
    assert PATIENT in json.dumps(matches)
    assert PATIENT in service.call("GET", f"/jobs/{absent}").text
    for job_id in (sent, asked, absent):
        for path in ("", "/instances", "/events", "/receipts", "/matches"):
            text = reader.call("GET", f"/jobs/{job_id}{path}").text
            assert not [each for each in private if each in text], (path, text)
    shown = reader.get(f"/jobs/{sent}/instances")["instances"]
    assert [each["category"] for each in shown].count("success") == 3
    assert not any(each in reader.call("GET", "/jobs").text for each in private)


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", JSON, 400, "MalformedJsonError"),
        (b"", JSON, 400, "MalformedJsonError"),
        (b'{"task": "\xff"}', JSON, 400, "MalformedJsonError"),
        (b'{"task": "pacs_tasks.echo", "request": {"timeout": NaN}}', JSON, 400, "MalformedJsonError"),
        (b"[" * 200_000, JSON, 400, "MalformedJsonError"),
        (b"[" + b"[]," * 2_000_001 + b"[]]", JSON, 413, "ContentTooLargeError"),
        (b"1" * 5_000, JSON, 400, "MalformedJsonError"),
        (b"[]", JSON, 422, "InvalidRequestError"),
        (b"{}", {}, 415, "UnsupportedMediaTypeError"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "UnsupportedMediaTypeError"),
        (b"{}", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "UnsupportedMediaTypeError"),
    ],
)
def test_a_body_that_is_not_json_is_refused(
    service: Api, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    """One answer for whatever is not JSON, and one for what is not declared as such."""
    assert service.call("POST", "/jobs", body, headers, status=status).json["code"] == code
    charset = {"Content-Type": "application/json; charset=utf-8"}
    assert service.call("POST", "/jobs", b'{"task": "\xc3\xa4"}', charset, status=422).json["subject"] == "\xe4"


def test_nobody_reads_the_body_of_a_stranger(server: Api, reader: Api) -> None:
    """Whoever has no token, or one that may not enqueue, learns that before the body has come."""
    for caller, status in ((server, 401), (reader, 403)):
        token = f"Authorization: Bearer {caller.token}\r\n" if caller.token else ""
        with closing(socket.create_connection(("127.0.0.1", server.port), 2)) as connection:
            head = f"POST /jobs HTTP/1.1\r\nHost: localhost\r\n{token}Content-Length: 30000000\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(1 << 16).startswith(f"HTTP/1.1 {status} ".encode())
        caller.call("POST", "/jobs", b"{", JSON, status=status)
        caller.call("POST", "/jobs/nonsense/verify", b"{", JSON, status=status)


def test_a_form_has_a_smaller_limit(server: Api) -> None:
    """Anybody may send one who wants to log in."""
    answer = server.call("POST", "/console/login", b"", {"Content-Length": str((1 << 20) + 1)}, status=413)
    assert answer.json["code"] == "ContentTooLargeError"


def test_a_key_is_for_its_token_alone(server: Api) -> None:
    """Another token can neither hold its place nor learn whether it guesses the request."""
    key = {"Idempotency-Key": "shared"}
    others = [server.as_one_who(Scope.SUBMIT) for _ in range(2)]
    bodies = [{**ECHO, "remote": "absent", "request": {"timeout": seconds}} for seconds in (1, 2)]
    sent = [caller.call("POST", "/jobs", body, key, status=202) for caller, body in zip(others, bodies, strict=True)]
    first, second = (answer.json["job_id"] for answer in sent)
    assert first != second
    assert others[0].call("POST", "/jobs", bodies[0], key, status=202).json["job_id"] == first
    others[1].call("POST", "/jobs", bodies[0], key, status=422)


def test_head_is_get_without_the_body(service: Api, reader: Api) -> None:
    """RFC 9110 section 9.3.2, also for a stream, which would not end."""
    for path in ("/health", "/jobs", "/metrics"):
        assert service.call("HEAD", path, status=200).content == b""
    job_id = service.submit("pacs_tasks.echo", {}, remote="absent")
    with closing(socket.create_connection(("127.0.0.1", service.port), 10)) as connection:
        for path in (f"/jobs/{job_id}/events", "/health"):
            head = f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {reader.token}\r\n\r\n"
            connection.sendall(head.encode())
            answer = connection.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b"\r\n\r\n")
    service.call("HEAD", "/jobs/nonsense", status=404)


def test_a_refused_method_names_those_of_all_routes(service: Api) -> None:
    """A path may have a route for each of its methods."""
    allowed = {
        path: service.call("DELETE", path, status=405).headers["Allow"] for path in ("/jobs", "/health", "/uploads")
    }
    assert allowed == {"/jobs": "HEAD, GET, POST", "/health": "HEAD, GET", "/uploads": "POST"}


def test_a_body_is_limited(service: Api) -> None:
    """A body that is announced as too large is refused before it is sent."""
    answer = service.call("POST", "/jobs", b"{}", {"Content-Length": str(1 << 40)}, status=413)
    assert answer.json["code"] == "ContentTooLargeError"
