"""The console in a real Chromium: log in, submit, watch, find a failure, retry it; and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pydicom
import pytest
from playwright.sync_api import Browser, Page, expect

from pacs_tasks import EchoRequest, PacsClient, RemoteAE, StoreDirectoryRequest
from pacs_tasks.fleet.webhooks import Webhooks
from pacs_tasks.ledger.tokens import Scope, Tokens
from pacs_tasks.outcome import JobState
from pacs_tasks.testing import TestPACS
from pacs_tasks.testing.faults import Faults
from tests.support.browser import chromium, page_of
from tests.support.dicom_files import study_uid, write_series
from tests.support.http_api import Api, serving
from tests.support.ports import free_port
from tests.support.processes import Process
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chromium

#: Milliseconds that a page may take; the machine may be busy.
PATIENCE = 30_000
REFUSED = 0xC000
PATIENT = "PLANTED-4711"
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def pacs() -> Iterator[TestPACS]:
    """A PACS whose faults each test sets."""
    with TestPACS("ARCHIVE") as running:
        yield running


@pytest.fixture(scope="module")
def program() -> Iterator[Browser]:
    """A browser; each test has a window of its own."""
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def server(
    pacs: TestPACS, shared_redis_url: str, shared_worker: Process, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    """The console, of which a proxy at this machine is trusted."""
    assert shared_worker.running(), shared_worker.said()
    remote = {"archive": {"host": "127.0.0.1", "port": pacs.port, "ae_title": "ARCHIVE"}}
    with serving(
        shared_redis_url,
        tmp_path_factory.mktemp("serve"),
        PACS_TASKS_REMOTES=json.dumps(remote),
        PACS_TASKS_SERVE_PROXY_HEADER="X-Remote-User",
        PACS_TASKS_SERVE_PROXIES="127.0.0.1",
        PACS_TASKS_SERVE_USERS=json.dumps({"anna": ["read", "submit"]}),
    ) as running:
        yield running


def log_in(page: Page, api: Api, path: str = "/") -> None:
    page.goto(api.address + path)
    page.get_by_label("Token").fill(api.token)
    page.get_by_role("button", name="Log in").press("Enter")
    expect(page.get_by_role("navigation", name="Main")).to_be_visible()


def test_from_login_to_retry(server: Api, program: Browser, pacs: TestPACS, tmp_path: Path) -> None:
    """A radiographer sends a directory of which the PACS refuses two files, finds why, and sends them again."""
    files = write_series(tmp_path / "study", 6, rows=2, patient_id=PATIENT)
    refused = [str(pydicom.dcmread(each).SOPInstanceUID) for each in files[2:4]]
    pacs.faults = Faults(store_status=dict.fromkeys(refused, REFUSED))
    someone = server.as_one_who(Scope.READ, Scope.SUBMIT, Scope.PATIENTS)
    with page_of(program) as page:
        log_in(page, someone, "/console/new")
        page.get_by_label("Directory").fill("study")
        page.get_by_role("button", name="Submit").click()
        expect(page.get_by_role("alert")).to_contain_text("a path must be absolute")
        expect(page.get_by_label("Directory")).to_have_value("study")
        page.get_by_label("Directory").fill(str(tmp_path / "study"))
        page.get_by_role("button", name="Submit").click()

        # The page renews itself: nobody reloads it.
        expect(page.locator(".state")).to_have_text("partly failed")
        expect(page.get_by_text("4 of 6")).to_be_visible()
        expect(page.locator("#said")).to_have_text("partly failed, 2 failed")
        failures = page.get_by_role("region", name="Failures by reason")
        expect(failures.get_by_role("row")).to_have_count(3)
        expect(failures).to_contain_text(str(files[2]))
        expect(failures.get_by_role("cell", name="C000").first).to_be_visible()
        with page.expect_download() as download:
            page.get_by_role("link", name="Receipts CSV").click()
        assert str(files[3]) in Path(download.value.path()).read_text("utf-8")

        page.get_by_role("link", name="Jobs").click()
        row = page.get_by_role("region", name="Need attention").get_by_role("link", name=re.compile("send-dir")).first
        row.click()
        pacs.faults = Faults()
        page.get_by_role("button", name="Retry what failed").click()
        expect(page.locator(".state")).to_have_text("done")
        expect(page.get_by_text("6 of 6")).to_be_visible()
        job_id = page.url.rpartition("/")[2]
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        page.goto(f"{server.address}/console/jobs/{job_id}")
        expect(page.get_by_label("Token")).to_be_visible()
    assert set(refused) <= set(pacs.instances)
    with PacsClient(server.redis_url) as client:
        assert client.job(job_id).progress().counters.success == len(files)


def test_from_a_query_to_a_retrieve(server: Api, program: Browser, pacs: TestPACS, tmp_path: Path) -> None:
    """A match fills in the form that retrieves its study."""
    study = study_uid(77)
    pacs.faults = Faults()
    pacs.hold(*write_series(tmp_path / "held", 3, rows=2, study=77, patient_id="P-QUERY"))
    with page_of(program, color_scheme="dark") as page:
        log_in(page, server.as_one_who(Scope.READ, Scope.SUBMIT, Scope.PATIENTS), "/console/new?command=query")
        page.get_by_label("Patient ID").fill("P-QUERY")
        page.get_by_role("button", name="Submit").click()
        expect(page.locator(".state")).to_have_text("done")
        page.get_by_role("region", name="Matches").get_by_role("button", name="Retrieve").click()
        expect(page.get_by_label("PACS")).to_have_value("archive")
        expect(page.get_by_label("Study Instance UID")).to_have_value(study)
        assert study not in page.url
        page.get_by_label("Save in").fill(str(tmp_path / "out"))
        page.get_by_role("button", name="Submit").click()
        expect(page.locator(".state")).to_have_text("done")
        expect(page.get_by_text("3 of 3")).to_be_visible()
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 3


def test_echo_verify_and_cancel(server: Api, program: Browser, pacs: TestPACS, tmp_path: Path) -> None:
    """Each button does what it says, at the PACS and in the ledger."""
    write_series(tmp_path / "one", 3, rows=2)
    write_series(tmp_path / "many", 200, rows=2)
    with PacsClient(server.redis_url) as client, page_of(program) as page:
        log_in(page, server.as_one_who(Scope.READ, Scope.SUBMIT), "/console/remotes")
        pacs.faults = Faults()
        page.get_by_role("button", name="Echo archive").click()
        expect(page.get_by_role("heading", name=re.compile("^echo"))).to_be_visible()
        expect(page.locator(".state")).to_have_text("done")

        sent = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "one")))
        sent.wait(60)
        page.goto(f"{server.address}/console/jobs/{sent.id}")
        page.get_by_role("button", name="Verify").click()
        expect(page.get_by_role("heading", name=re.compile("^verify"))).to_be_visible()
        expect(page.locator(".state")).to_have_text("done")
        facts = page.locator("dl.facts div")
        assert {"Held 3", "Missing 0"} <= {each.replace("\n", " ") for each in facts.all_inner_texts()}

        pacs.faults = Faults(delay=0.2)
        held = len(pacs.stores)
        long = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "many")))
        wait_until(lambda: len(pacs.stores) > held, 60, "files to arrive")
        page.goto(f"{server.address}/console/jobs/{long.id}")
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator(".state")).to_have_text("cancelled")
        counters = long.progress().counters
        assert (long.progress().state, counters.success) == (JobState.CANCELLED, len(pacs.stores) - held)
        assert counters.success < counters.total == 200


def test_pages_of_failures(server: Api, program: Browser, pacs: TestPACS, tmp_path: Path) -> None:
    """Fifty to a page, each once."""
    files = write_series(tmp_path / "refused", 60, rows=2)
    pacs.faults = Faults(store_status={str(pydicom.dcmread(each).SOPInstanceUID): REFUSED for each in files})
    with PacsClient(server.redis_url) as client, page_of(program) as page:
        job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / "refused")))
        job.wait(60)
        log_in(page, server.as_one_who(Scope.READ, Scope.PATIENTS), f"/console/jobs/{job.id}")
        failures = page.get_by_role("region", name="Failures by reason")
        expect(failures.get_by_role("row")).to_have_count(51)
        shown = failures.locator("td.path").all_inner_texts()
        page.get_by_role("link", name="Next page").click()
        expect(failures.get_by_role("row")).to_have_count(11)
        shown += failures.locator("td.path").all_inner_texts()
        assert sorted(shown) == sorted(map(str, files))
        page.get_by_role("link", name="First page").click()
        expect(failures.get_by_role("row")).to_have_count(51)


def test_without_the_scope_no_patient_data(server: Api, program: Browser, pacs: TestPACS, tmp_path: Path) -> None:
    """Neither a page nor a part of one has a path or a UID, and a page of another language says so too."""
    files = write_series(tmp_path / PATIENT, 2, rows=2, patient_id=PATIENT)
    uid = str(pydicom.dcmread(files[0]).SOPInstanceUID)
    pacs.faults = Faults(store_status={uid: REFUSED})
    remote = RemoteAE(host="127.0.0.1", port=pacs.port, ae_title="ARCHIVE")
    with PacsClient(server.redis_url) as client:
        job = client.enqueue(StoreDirectoryRequest(remote=remote, directory=str(tmp_path / PATIENT)))
        lost = client.enqueue(StoreDirectoryRequest(remote=remote, directory=str(tmp_path / PATIENT / "absent")))
        job.wait(60)
        lost.wait(60)
    with page_of(program, locale="zh-CN") as page:
        page.goto(f"{server.address}/console/jobs/{job.id}")
        page.get_by_label("令牌").fill(server.as_one_who(Scope.READ).token)
        page.get_by_role("button", name="登录").click()
        expect(page.locator(".state")).to_have_text("部分失败")
        expect(page.get_by_text("您的令牌没有 patients 权限")).to_be_visible()
        expect(page.get_by_role("button", name="重试失败项")).to_have_count(0)
        for path in (f"/console/jobs/{job.id}", f"/console/jobs/{lost.id}", "/", "/console/remotes", "/console/fleet"):
            page.goto(server.address + path)
            assert not {PATIENT, uid, str(tmp_path)} & set(re.split(r"[\s\"<>]", page.content()))
            assert PATIENT not in page.content()
            assert uid not in page.content()
        assert page.goto(f"{server.address}/console/new").status == 403  # type: ignore[union-attr]
        page.get_by_role("link", name="English").click()
        expect(page.get_by_role("alert")).to_contain_text("needs the scope submit")


def test_by_keyboard_alone(server: Api, program: Browser, pacs: TestPACS, tmp_path: Path) -> None:
    """From the login to a job that is done; whatever has the focus shows it."""
    files = write_series(tmp_path / "study", 2, rows=2, study=78)
    pacs.faults = Faults()
    someone = server.as_one_who(Scope.READ, Scope.SUBMIT, Scope.PATIENTS)
    with page_of(program) as page:
        page.goto(server.address)
        # It takes the focus a moment after the page is there.
        expect(page.get_by_label("Token")).to_be_focused()
        page.keyboard.type(someone.token)
        page.keyboard.press("Enter")
        expect(page.get_by_role("navigation", name="Main")).to_be_visible()
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_focused()
        page.goto(server.address)
        _tab_to(page, "New job")
        page.keyboard.press("Enter")
        expect(page.get_by_label("Directory")).to_be_visible()
        _tab_to(page, "Directory")
        page.keyboard.type(str(tmp_path / "study"))
        page.keyboard.press("Enter")
        expect(page.locator(".state")).to_have_text("done")
        expect(page.get_by_text("2 of 2")).to_be_visible()
        _tab_to(page, "Log out")
        page.keyboard.press("Enter")
        expect(page.get_by_label("Token")).to_be_focused()
    assert {str(pydicom.dcmread(each).SOPInstanceUID) for each in files} <= set(pacs.instances)


def _tab_to(page: Page, name: str) -> None:
    """Press the tabulator until what has this text or label has the focus, which it must show."""
    for _ in range(30):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "(e => [e.textContent.trim(), (e.labels && e.labels[0] || e).textContent.trim()])(document.activeElement)"
        )
        if name in focused:
            style = page.evaluate("(s => s.outlineStyle + s.boxShadow)(getComputedStyle(document.activeElement))")
            assert style != "nonenone", f"{name} does not show that it has the focus"
            return
    raise AssertionError(f"the tabulator does not lead to {name}")


def test_what_nobody_serves_is_told(server: Api, program: Browser) -> None:
    """Webhooks that were given up, as long as nobody retries or forgets them."""
    with PacsClient(server.redis_url) as client, page_of(program) as page:
        webhooks = Webhooks(client.ledger.client)
        webhooks.want()
        job = client.enqueue(EchoRequest(remote=RemoteAE(host="127.0.0.1", port=free_port(), ae_title="GONE")))
        job.wait(60)
        log_in(page, server.as_one_who(Scope.READ), "/console/fleet")
        expect(page.get_by_role("heading", name="Receivers")).to_be_visible()
        expect(page.get_by_role("heading", name="Webhooks")).to_have_count(0)
        webhooks.plan(1, job.id, {"worklist": "{}"})
        (delivery,) = webhooks.all()
        webhooks.note_failure(delivery, "HTTP status 410.", None)
        page.reload()
        expect(page.get_by_role("heading", name="Webhooks 1")).to_be_visible()
        expect(page.get_by_text("pacs-tasks webhooks list")).to_be_visible()
        webhooks.forget(delivery.id)


def _request(
    server: Api, method: str, path: str, body: str = "", **headers: str
) -> tuple[int, str, dict[str, str], list[str]]:
    """The status, the text, the headers and the cookies of an answer."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if body:
        sent["Content-Type"] = "application/x-www-form-urlencoded"
    connection.request(method, path, body or None, sent)
    answer = connection.getresponse()
    text = answer.read().decode()
    found = dict(answer.getheaders())
    cookies = [value for name, value in answer.getheaders() if name.lower() == "set-cookie"]
    connection.close()
    return answer.status, text, {name.lower(): value for name, value in found.items()}, cookies


def _form(server: Api, **headers: str) -> tuple[str, str]:
    """The form token of a page, and its cookie."""
    _, text, _, cookies = _request(server, "GET", "/console/login", **headers)
    found = re.search(r'name="form_token" value="(\w+)"', text)
    assert found is not None
    return found[1], cookies[0].partition(";")[0]


def test_sessions(server: Api) -> None:
    """No script and no other site reads or sends the cookie; revoking the token ends the session."""
    token = server.as_one_who(Scope.READ).token
    form, cookie = _form(server)
    body = f"form_token={form}&next=//evil.example/&token={token}"
    assert _request(server, "POST", "/console/login", body)[0] == 403, "without the cookie of the form"
    assert _request(server, "POST", "/console/login", body.replace(token, "x"), Cookie=cookie)[0] == 403
    status, _, headers, cookies = _request(server, "POST", "/console/login", body, Cookie=cookie)
    assert (status, headers["location"]) == (303, "/")
    assert {"HttpOnly", "SameSite=strict"} <= set(cookies[0].split("; "))
    assert "Secure" not in cookies[0], "a browser would not send it to this server"
    _, _, _, over_tls = _request(server, "POST", "/console/login", body, Cookie=cookie, X_Forwarded_Proto="https")
    assert "Secure" in over_tls[0].split("; ")
    session = f"{cookie}; {cookies[0].partition(';')[0]}"
    status, _, headers, _ = _request(server, "GET", "/", Cookie=session)
    assert status == 200
    assert "script-src 'self'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    with PacsClient(server.redis_url) as client:
        assert not [key for key in client.ledger.client.scan_iter("*session*") if cookies[0][20:50] in str(key)]
        tokens = Tokens(client.ledger.client)
        tokens.revoke(next(each.name for each in reversed(tokens.all())))
    assert _request(server, "GET", "/", Cookie=session)[0] == 303


def test_who_a_proxy_names(server: Api, shared_redis_url: str, tmp_path: Path) -> None:
    """Whom the trusted proxy names may do what the settings say, from pages of ours only."""
    anna = {"X_Remote_User": "anna"}
    assert _request(server, "GET", "/", **anna)[0] == 200
    assert _request(server, "GET", "/", X_Remote_User="nobody")[0] == 403
    form, cookie = _form(server, **anna)
    body = f"form_token={form}&remote=archive&once=1"
    assert _request(server, "POST", "/console/new/echo", body, Cookie=cookie, **anna)[0] == 403, "without an origin"
    ours = {"Sec_Fetch_Site": "same-origin", **anna}
    first = _request(server, "POST", "/console/new/echo", body, Cookie=cookie, **ours)
    again = _request(server, "POST", "/console/new/echo", body, Cookie=cookie, **ours)
    assert (first[0], first[2]["location"]) == (303, again[2]["location"]), "a double click is one job"
    assert _request(server, "POST", "/console/new/echo", "remote=archive", Cookie=cookie, **ours)[0] == 403
    # Anybody can send the header, but not from the address of the proxy.
    with serving(
        shared_redis_url,
        tmp_path,
        PACS_TASKS_SERVE_PROXY_HEADER="X-Remote-User",
        PACS_TASKS_SERVE_PROXIES="192.0.2.1",
        PACS_TASKS_SERVE_USERS='{"*": ["admin", "patients"]}',
    ) as other:
        assert _request(other, "GET", "/", X_Forwarded_For="192.0.2.1", **anna)[0] == 303
