"""Every block of the documents that can be run is run, and prints what the documents say that it prints.

Blocks with the same text are run once. A block runs as it stands, unless it has a rule here, by its last line.
Addresses and paths of the documents stand for those of the test: see :meth:`Scene.real`.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom.uid import UID

from pacs_tasks import TLS, PacsClient, StoreDirectoryRequest
from pacs_tasks.sealing import new_key
from pacs_tasks.testing import Faults, TestPACS
from tests.benchmarks.machine import missing
from tests.support import peers, worklists
from tests.support.dicom_files import CHINESE_NAME, write_series
from tests.support.documents import ENGLISH, Block, distinct
from tests.support.http_api import serving
from tests.support.known_study import known_study
from tests.support.ports import answers, free_port
from tests.support.processes import ROOT, Process, started
from tests.support.redis_server import RedisServer
from tests.support.rules import Rule, about_a_job, alone, need, over_tls, prints, python, says, stays
from tests.support.scene import SENT, Scene, reading
from tests.support.waiting import wait_until
from tests.support.workers import receiver, worker
from tests.support.worklists import scheduled


@pytest.fixture
def scene(tmp_path: Path, shared_redis_url: str, shared_worker: Process, redis_process: RedisServer) -> Iterator[Scene]:
    """A home directory with files, a PACS, a Redis with the worker that all tests share."""
    assert shared_worker.running(), shared_worker.said()
    with reading(tmp_path / "me", shared_redis_url, redis_process) as made:
        yield made


def make(*planned: str) -> Rule:
    """Make knows the targets; other tests run what they run."""

    def rule(scene: Scene, block: Block) -> None:
        plan = scene.run("bash", "-euc", block.text.replace("make ", "make -n "), cwd=ROOT)
        for text in planned:
            assert text in plan, plan

    return rule


def demonstrates(scene: Scene, block: Block) -> None:
    """The demo itself runs too, and prints what the page shows."""
    make("pacs-tasks demo")(scene, block)
    says(scene, block, scene.run("pacs-tasks", "demo"))


def installs_package(scene: Scene, block: Block) -> None:
    """The checkout is a package that pip can install; its dependencies are there already."""
    command = block.text.replace("pip install", "pip install --dry-run --no-deps --no-build-isolation")
    assert "Would install pacs-tasks" in scene.run("bash", "-euc", command, cwd=ROOT)


def over_http(scene: Scene, block: Block) -> None:
    """The API answers with the job, and a worker does it."""
    port, before = free_port(), len(scene.pacs.instances)
    command, variables = (
        [sys.executable, "-m", "pacs_tasks.serve"],
        scene.variables() | {"PACS_TASKS_SERVE_PORT": str(port)},
    )
    with started(command, scene.home / "serve.log", lambda _: answers(port), env=variables, cwd=scene.home, timeout=60):
        said = scene.shell(block.text.replace("5556", str(port)))
        assert '"task":"pacs_tasks.store_directory"' in said
        wait_until(lambda: len(scene.pacs.instances) == before + SENT, 30, "the job that was enqueued over HTTP")


def verifies(scene: Scene, block: Block) -> None:
    """The function accepts what workers sign, and nothing that was changed since."""
    check = """
from pacs_tasks.tasks.webhooks import signature
secret, now = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", int(time.time())
names = ("webhook-id", "webhook-timestamp", "webhook-signature")
headers = dict(zip(names, ("evt_1", str(now), signature(secret, "evt_1", now, b"{}"))))
old = dict(zip(names, ("evt_1", str(now - 900), signature(secret, "evt_1", now - 900, b"{}"))))
print(is_genuine(secret, headers, b"{}"), is_genuine(secret, headers, b"[]"), is_genuine(secret, old, b"{}"))
"""
    said = scene.run(sys.executable, "-W", "error", "-c", block.text + check)
    assert said.split() == ["True", "False", "False"], said


def measures(scene: Scene, block: Block) -> None:
    """One work in the small form; `tests/acceptance/test_bench.py` does all of them."""
    need(missing())
    plan = scene.run("bash", "-euc", block.text.replace("make ", "make -n "), cwd=ROOT)
    assert "-m tests.benchmarks" in plan
    outputs = ["--json", str(scene.home / "bench.json"), "--svg", str(scene.home / "bench.svg")]
    work = ["--small", "--only", "one-association-ignored"]
    said = scene.run(sys.executable, "-m", "tests.benchmarks", *work, *outputs, cwd=ROOT)
    assert "CT500 over one association" in said
    assert (scene.home / "bench.svg").is_file()


def installs(scene: Scene, block: Block) -> None:
    """This environment stands for the one that `make .venv` makes."""
    script = block.text.replace("make ", "make -n ").replace(".venv/bin/", f"{sys.prefix}/bin/")
    assert "Usage: pacs-tasks" in scene.run("bash", "-euc", script, cwd=ROOT)


def retrieves(scene: Scene, block: Block) -> None:
    says(scene, block, scene.shell(block.text))
    assert len(list(scene.home.glob("downloaded_dicoms/1.2.3.4.5.6.7.8.9.10/*/*.dcm"))) == len(known_study())


def retrieves_some(scene: Scene, block: Block) -> None:
    """A series, an instance and an accession number, each to a directory of its own."""
    scene.shell(block.text)
    for directory, count in (("series", len(known_study())), ("instances", 1), ("numbers", len(known_study()))):
        assert len(list(scene.home.glob(f"{directory}/1.2.3.4.5.6.7.8.9.10/*/*.dcm"))) == count


def retrieves_many(scene: Scene, block: Block) -> None:
    """The PACS has one more study, of another accession number."""
    for ds in known_study():
        ds.StudyInstanceUID, ds.AccessionNumber = f"{ds.StudyInstanceUID.rpartition('.')[0]}.11", "A2"
        ds.SeriesInstanceUID = f"{ds.StudyInstanceUID}.1"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"{ds.SeriesInstanceUID}.{ds.InstanceNumber}")
        scene.pacs.hold(ds)
    says(scene, block, scene.shell(block.text))
    for study in ("1.2.3.4.5.6.7.8.9.10", "1.2.3.4.5.6.7.8.9.11"):
        assert len(list(scene.home.glob(f"downloaded_dicoms/{study}/*/*.dcm"))) == len(known_study())


def retrieves_by_name(scene: Scene, block: Block) -> None:
    """The names are those that the page shows; the second time, nothing is fetched."""
    scene.shell(block.text)
    found = sorted(str(path.relative_to(scene.home)) for path in scene.home.glob("by_name/**/*.dcm"))
    assert found == [f"by_name/张_三丰/20230601/001-000{number}.dcm" for number in (1, 2, 3)]
    assert found[0] in block.document.read_text("utf-8")
    assert "Already there  3" in scene.shell(block.text)


def forwards(scene: Scene, block: Block) -> None:
    """To another PACS, which the first one knows."""
    with TestPACS("SECOND") as second, (scene.home / "pacs-tasks.toml").open("a") as config:
        config.write(f'[remotes.second]\nhost = "127.0.0.1"\nport = {second.port}\nae_title = "SECOND"\n')
        config.flush()
        scene.pacs.destinations = {"SECOND": ("127.0.0.1", second.port)}
        assert "Destination  SECOND" in scene.shell(block.text)
        assert second.instances.keys() == scene.pacs.instances.keys()


def forwards_many(scene: Scene, block: Block) -> None:
    """With the file that the page has made before."""
    (scene.home / "studies.csv").write_text("StudyInstanceUID\n1.2.3.4.5.6.7.8.9.10\n", "utf-8")
    forwards(scene, block)


def cancels_and_retries(scene: Scene, block: Block) -> None:
    """Against a PACS that answers one file and holds the others until the cancel, so that there is something left."""
    paths = write_series(scene.home / "large", 40, series=3)
    before = len(scene.pacs.instances)
    scene.pacs.faults = Faults(hold_instances_after=len(scene.pacs.stores) + 1)
    with PacsClient(scene.redis_url) as client:
        request = StoreDirectoryRequest(remote=scene.pacs.remote, directory=str(scene.home / "large"))
        job = client.enqueue(request)
        wait_until(lambda: job.progress().counters.success, 30, "the first file to be sent")
        with ThreadPoolExecutor(1) as pool:
            typed = pool.submit(scene.shell, f"job={job.id}\n{block.text}")
            wait_until(lambda: typed.done() or client.ledger.cancel_requested(job.id), 60, "the cancel")
            scene.pacs.faults = Faults()
            said = typed.result()
        assert "cancelled" in said
        assert job.outcome().category == "success"
    assert len(scene.pacs.instances) == before + len(paths)


def commits(scene: Scene, block: Block) -> None:
    """With a receiver that the PACS knows, in a Redis of its own, where no other one is announced."""
    scene.redis_url = scene.redis_process.fresh_url()
    port = free_port()
    scene.pacs.destinations["PACS_TASKS"] = ("127.0.0.1", port)
    with worker(scene.redis_url, scene.home), receiver(scene.redis_url, scene.home, port):
        about_a_job()(scene, block)


def lists_work(scene: Scene, block: Block) -> None:
    """DCMTK's worklist answers at port 11113."""
    absent = peers.dcmtk_missing()
    need(f"{', '.join(absent)} of DCMTK is not installed (Debian: apt-get install dcmtk)" if absent else "")
    with peers.wlmscpfs(scene.home, "MY_PACS", "-csk") as worklist:
        steps = [scheduled(1, CHINESE_NAME, "GB18030"), scheduled(2, modality="MR"), scheduled(3, date="20240116")]
        worklists.fill(worklist.directory, *steps)
        says(scene, block, scene.shell(block.text.replace("11113", str(worklist.port))))


def makes_a_certificate(scene: Scene, block: Block) -> None:
    """It can be shown by a PACS at that address, and trusted for itself."""
    scene.shell(block.text)
    files = {"certificate_file": str(scene.home / "my-pacs.pem"), "key_file": str(scene.home / "my-pacs.key")}
    with TestPACS("MY_PACS", tls=TLS.model_validate(files)) as pacs:
        assert "over TLS" in scene.run("pacs-tasks", "echo", "--port", str(pacs.port), "--tls-ca", "my-pacs.pem")


def checks(scene: Scene, block: Block) -> None:
    """It calls the remotes of the scene; the page shows those of a hospital."""
    said = scene.shell(block.text)
    assert all(word in said for word in ("Settings", "Encryption", "Redis", "Receivers", "answers in", "Maximum PDU"))
    assert all(word in block.prints for word in ("answers in", "Maximum PDU", "Accepted", "Refused"))


def composes(scene: Scene, block: Block) -> None:
    """Docker-compose understands the file with these options; whether it brings them up needs an engine."""
    *exports, last = block.text.rstrip().splitlines()
    before, after = last.removeprefix("docker-compose ").split("up", 1)
    services = _compose(scene, exports, before)
    scaled = dict(each.split("=") for each in shlex.split(after) if "=" in each)
    assert set(scaled) <= set(services)
    assert ("orthanc" in services) == ("--profile demo" in before)


def executes(scene: Scene, block: Block) -> None:
    """The command is run here, with the directory that the service sees as ``/files``."""
    last = block.text.strip()
    service, command = last.removeprefix("docker-compose exec ").split(" ", 1)
    needed = ["export PACS_TASKS_REDIS_PASSWORD=a", "export PACS_TASKS_FLOWER_BASIC_AUTH=a:b"]
    needed.append(f"export PACS_TASKS_ENCRYPTION_KEYS={new_key()}")
    volumes = _compose(scene, needed, "")[service]["volumes"]
    assert any(":/files" in str(volume) for volume in volumes)
    scene.shell(command.replace("/files", "/home/me/dicom_files"))
    assert len(scene.pacs.instances) == len(known_study()) + SENT


def calls_over_http(scene: Scene, block: Block) -> None:
    """A server listens at port 5556 that knows the remotes of the home directory."""
    need("" if shutil.which("curl") else "curl is not installed (Debian: apt-get install curl)")
    with serving(scene.redis_url, scene.home, PACS_TASKS_CONFIG=str(scene.home / "pacs-tasks.toml")) as server:
        said = scene.shell(block.text.replace("5556", str(server.port)))
    assert "event: end" in said
    assert len(scene.pacs.instances) == len(known_study()) + SENT


def _compose(scene: Scene, exports: list[str], options: str) -> Mapping[str, Any]:
    installed = shutil.which("docker-compose") is not None
    need("" if installed else "docker-compose is not installed (Debian: apt-get install docker-compose)")
    command = f"docker-compose {options} config"
    # First with what it complains about, then without its warnings.
    scene.run("bash", "-euc", scene.real("\n".join([*exports, f"{command} --quiet"])), cwd=ROOT)
    script = "\n".join([*exports, f"{command} 2>/dev/null"])
    found = yaml.safe_load(scene.run("bash", "-euc", scene.real(script), cwd=ROOT))["services"]
    # Old versions list the services of every profile.
    profile = options.removeprefix("--profile ").strip()
    assert isinstance(found, dict)
    return {name: each for name, each in found.items() if set(each.get("profiles", [profile])) <= {profile}}


RULES: Mapping[str, Rule] = {
    "make demo": demonstrates,
    "make test": make("pacs-tasks demo", "-m pytest"),
    "make bench": measures,
    'pip install ".[all]"': installs_package,
    ".venv/bin/pacs-tasks --help": installs,
    "pacs-tasks echo": alone(),
    "pacs-tasks echo --remote archive": prints("MY_PACS at 127.0.0.1"),
    "pacs-tasks echo --ip 192.168.1.100 --port 11112 --pacs-ae-title MY_PACS": prints("0000: Success."),
    "pacs-tasks send-dir --dir dicom_files": prints(stored=SENT),
    "pacs-tasks send image1.dcm dicom_files study.zip": prints("Sent       17", stored=SENT),
    "pacs-tasks send-file --file study.tar.gz": prints("Sent       8", stored=SENT),
    "cat image1.dcm | pacs-tasks send-file -": prints("Sent    1"),
    "pacs-tasks send-dir --dir dicom_files --transcode decompress": prints(stored=SENT),
    "pacs-tasks send-dir --dir dicom_files --key nightly-2026-11-25": prints(stored=SENT),
    "pacs-tasks send-dir --dir dicom_files --priority bulk": prints(stored=SENT),
    "pacs-tasks config check": checks,
    "pacs-tasks status last": prints(stored=SENT),
    "pacs-tasks query --patient-id P12345": prints("P12345"),
    "pacs-tasks query --accession-number A1 --format json": prints("张^三丰", '"exit_code": 0'),
    'pacs-tasks query --patient-name "张*" --charset GB18030': prints("1 match", "张^三丰"),
    "pacs-tasks query --study-date 20230101- --split-dates": prints("1 match"),
    "pacs-tasks query --modality MR --strict": prints("No match"),
    "pacs-tasks query --worklist --study-date 20240115 --modality CT --port 11113": lists_work,
    "pacs-tasks query --batch patients.csv": prints("1 match for 2 rows: 1 without a match."),
    'pacs-tasks query --remote archive --patient-name "张*"': prints("1 match", "张^三丰"),
    "pacs-tasks retrieve --study-uid 1.2.3.4.5.6.7.8.9.10 --output-dir downloaded_dicoms": retrieves,
    "pacs-tasks retrieve --accession-number A1 --output-dir numbers": retrieves_some,
    "pacs-tasks retrieve --batch studies.csv --output-dir downloaded_dicoms": retrieves_many,
    (
        "pacs-tasks retrieve --study-uid 1.2.3.4.5.6.7.8.9.10 --output-dir by_name "
        "--layout '{PatientName}/{StudyDate}/{SeriesNumber:03}-{InstanceNumber:04}'"
    ): retrieves_by_name,
    "pacs-tasks retrieve --study-uid 1.2.3.4.5.6.7.8.9.10 --to-remote second": forwards,
    "pacs-tasks retrieve --batch studies.csv --to-remote second": forwards_many,
    "pacs-tasks jobs": prints("send-dir", stored=SENT),
    'pacs-tasks retry "$job"': cancels_and_retries,
    'pacs-tasks verify "$job"': about_a_job(),
    'pacs-tasks verify "$job" --commit': commits,
    'pacs-tasks report "$job" --format csv --output receipts.csv': about_a_job("9 receipts in receipts.csv"),
    "pacs-tasks serve": stays("Uvicorn running"),
    'curl -sN "http://127.0.0.1:5556/jobs/$job/events" -H "Authorization: Bearer $token"': calls_over_http,
    "pacs-tasks up": stays("Ready. Press Ctrl-C to stop.", fleet=False),
    "pacs-tasks echo --json": prints('"job_id"', '"task"', '"category"', '"seconds"', '"advice"', '"exit_code": 0'),
    "pacs-tasks echo --timeout 5": prints("0000: Success."),
    "pacs-tasks worker": stays(" ready.", works=True),
    "celery -A workers.dimse worker --loglevel INFO --concurrency 4": stays(" ready.", works=True),
    "pacs-tasks worker  # with permissions": stays(" ready.", works=True),
    "pacs-tasks receiver": stays("Add this destination to your PACS: AE title PACS_TASKS"),
    "pacs-tasks flower": stays("Visit me at"),
    "pacs-tasks echo --port 2762 --tls-ca hospital.pem": over_tls(prints("over TLS answered")),
    "pacs-tasks send-dir --dir dicom_files --port 2762 --tls-ca hospital.pem --tls-cert workstation.pem "
    "--tls-key workstation.key": over_tls(prints("over TLS", stored=SENT), demanding=True),
    "pacs-tasks receiver  # over TLS": over_tls(stays(", TLS")),
    "openssl req -x509 -newkey rsa:3072 -nodes -days 365 -subj /CN=my-pacs -addext subjectAltName=IP:192.168.1.100 "
    "-keyout my-pacs.key -out my-pacs.pem": makes_a_certificate,
    "pacs-tasks send-dir --dir /home/me/dicom_files --detach": prints(stored=SENT),
    "docker-compose up --build --scale worker=4": composes,
    "docker-compose --profile demo up --build": composes,
    "docker-compose exec worker pacs-tasks send-dir --dir /files --ip 192.168.1.100 --port 11112 "
    "--pacs-ae-title MY_PACS": executes,
    "}'  # enqueue over HTTP": over_http,
    # Python
    'print("complete")': python("the PACS has accepted it", "8 of 9", "report.txt", "complete", stored=SENT),
    'print(outcome.category, outcome.counters.done, "of", outcome.counters.total)': python(
        "success 8 of 9", stored=SENT
    ),
    "print(instance.category, instance.sop_instance_uid, instance.status)": python("success 8 of 9", stored=SENT),
    'print(row, outcome.category if outcome else "not queried", len(matches), "matches")': python(
        "1 success 1 matches", "2 success 0 matches"
    ),
    'print("no answer:", error.message)': python("0000: Success."),
    'print(len(pacs.instances), "instances in", pacs.associations, "associations")': python("8 instances in"),
    'print("over TLS:", job.outcome().status)': over_tls(python("over TLS: 0000: Success.")),
    "print([progress.state for progress in client.wait_all(jobs)])": python(
        "ended as success", "[<JobState.DONE", stored=SENT
    ),
    "asyncio.run(send())": python("success 8 of 9", stored=SENT),
    'return any(hmac.compare_digest(each, expected) for each in headers["webhook-signature"].split())': verifies,
    "result.forget()": python("success 8 of 9", stored=SENT),
}


BLOCKS = distinct(ENGLISH, "bash", "python")
#: These start everything, and take as long as all others together.
LONG = {"make demo", "make bench"}


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=block.place, marks=[pytest.mark.thorough] if block.key in LONG else [])
        for block in BLOCKS
    ],
)
def test_block_works_as_written(scene: Scene, block: Block) -> None:
    """Each block does, on a real PACS, what its page says."""
    RULES.get(block.key, prints() if block.language == "bash" else python())(scene, block)


def test_every_rule_has_its_block() -> None:
    """A rule without a block would show something that nobody reads."""
    assert set(RULES) - {block.key for block in BLOCKS} == set()
