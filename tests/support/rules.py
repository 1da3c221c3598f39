"""What a block of a document has to do when it is run as it is written there."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable

import pytest

from pacs_tasks import EchoRequest, PacsClient, StoreDirectoryRequest
from pacs_tasks.testing import TestPACS
from tests.support.certificates import Authority
from tests.support.documents import Block, shapes
from tests.support.ports import answers
from tests.support.processes import started
from tests.support.scene import Scene
from tests.support.waiting import wait_until

Rule = Callable[[Scene, Block], None]


def says(scene: Scene, block: Block, said: str) -> None:
    """Compare what was printed with the text block that follows."""
    missing = shapes(scene.real(block.prints)) - shapes(said)
    assert not missing, f"{block.place} shows {missing}, but it printed:\n{said}"


def prints(*texts: str, stored: int = 0) -> Rule:
    """The block runs as it stands, ends with 0, prints this, and the PACS then holds so many instances more."""

    def rule(scene: Scene, block: Block) -> None:
        before = len(scene.pacs.instances)
        said = scene.shell(block.text)
        says(scene, block, said)
        for text in texts:
            assert text in said, said
        # A detached job goes on.
        wait_until(lambda: len(scene.pacs.instances) >= before + stored, 20, "everything is stored")
        assert len(scene.pacs.instances) == before + stored

    return rule


def alone(*texts: str) -> Rule:
    """As :func:`prints`, with nothing configured: the private server serves."""

    def rule(scene: Scene, block: Block) -> None:
        said = scene.shell(f"unset PACS_TASKS_REDIS_URL\n{block.text}")
        says(scene, block, said)
        for text in texts:
            assert text in said, said

    return rule


def python(*texts: str, stored: int = 0) -> Rule:
    """The program runs as it stands and prints this."""

    def rule(scene: Scene, block: Block) -> None:
        before = len(scene.pacs.instances)
        said = scene.run(sys.executable, "-W", "error", "-c", scene.real(block.text))
        for text in texts:
            assert text in said, said
        assert len(scene.pacs.instances) == before + stored

    return rule


def about_a_job(*texts: str) -> Rule:
    """As :func:`prints`, about a job that has sent the directory."""

    def rule(scene: Scene, block: Block) -> None:
        with PacsClient(scene.redis_url) as client:
            request = StoreDirectoryRequest(remote=scene.pacs.remote, directory=str(scene.home / "dicom_files"))
            job = client.enqueue(request)
            job.wait(60)
        said = scene.shell(f"job={job.id}\n{block.text}")
        says(scene, block, said)
        for text in texts:
            assert text in said, said

    return rule


def stays(ready: str, *, fleet: bool = True, works: bool = False) -> Rule:
    """The block's last command stays until it is told to end, and then ends with 0."""

    def rule(scene: Scene, block: Block) -> None:
        lines = block.text.rstrip().splitlines()
        scene.redis_url = scene.redis_process.fresh_url()
        variables = scene.variables()
        if not fleet:
            del variables["PACS_TASKS_REDIS_URL"]
        # The shell makes way, so that the signal reaches the command.
        script = "\n".join([*lines[:-1], f"exec {lines[-1]}"])
        with started(
            ["bash", "-euc", scene.real(script)],
            scene.home / "stays.log",
            lambda process: ready in process.said(),
            env=variables,
            cwd=scene.home,
            timeout=60,
            end_timeout=30,
        ) as process:
            says(scene, block, process.said())
            if works:
                _works(scene)
            if "flower" in ready:
                wait_until(lambda: answers(int(variables["PACS_TASKS_FLOWER_PORT"])), 20, "Flower to answer")
            process.popen.terminate()
            assert process.popen.wait(40) == 0, process.said()

    return rule


def _works(scene: Scene) -> None:
    with PacsClient(scene.redis_url) as client:
        job = client.enqueue(EchoRequest(remote=scene.pacs.remote))
        job.wait(30)
        assert job.outcome().category == "success"


def over_tls(rule: Rule, *, demanding: bool = False) -> Rule:
    """The PACS answers over TLS at port 2762; the certificates that the block names lie in the home directory."""

    def secured(scene: Scene, block: Block) -> None:
        authority = Authority(scene.home)
        shutil.copy(authority.file, scene.home / "hospital.pem")
        for name in ("workstation", "receiver"):
            identity = authority.identity(name)
            shutil.copy(identity.certificate, scene.home)
            shutil.copy(identity.key, scene.home)
        own = authority.identity()
        with TestPACS("MY_PACS", tls=own.tls if demanding else own.shown) as pacs:
            text = block.text.replace("2762", str(pacs.port))
            rule(dataclasses.replace(scene, pacs=pacs), dataclasses.replace(block, text=text))

    return secured


def need(absent: str) -> None:
    """Skip the block, or fail where everything must be there, if something is absent."""
    if absent and os.environ.get("PACS_TASKS_TESTS_REQUIRE_PEERS") == "1":
        pytest.fail(f"PACS_TASKS_TESTS_REQUIRE_PEERS=1, but {absent}", pytrace=False)
    if absent:
        pytest.skip(absent)
