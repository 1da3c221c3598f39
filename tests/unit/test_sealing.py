"""The encryption of private values: keys, contexts, and what a process without the key may do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pacs_tasks import ConfigurationError, EchoRequest, MissingKeyError, PlainRecordError, SealingError
from pacs_tasks.sealing import Sealing, new_key, sealed_request, sealing_by, unsealed_request
from pacs_tasks.settings import Settings, load

OLD, NEW = new_key(), new_key()


def test_a_value_belongs_to_its_job_and_field() -> None:
    """It cannot take the place of another, even of the same job."""
    sealing = Sealing([OLD])
    keys = {name: sealing.begin(name) for name in ("one", "two")}
    one, two = (sealing.of_job(name, keys[name]) for name in ("one", "two"))
    sealed = one.seal("Secret^Patient", "manifest 1")
    assert one.unseal(sealed, "manifest 1") == "Secret^Patient"
    assert one.seal("Secret^Patient", "manifest 1") != sealed
    for sealer, field, text in (
        (one, "manifest 2", sealed),
        (two, "manifest 1", sealed),
        (one, "manifest 1", sealed[:-4] + "AAAA"),
        (one, "manifest 1", "Secret^Patient"),
        (one, "manifest 1", ""),
    ):
        with pytest.raises(SealingError, match="was changed"):
            sealer.unseal(text, field)
    # The key of a job does not fit another job.
    with pytest.raises(SealingError, match="was changed"):
        sealing.of_job("two", keys["one"]).seal("text", "field")


def test_a_name_is_the_same_each_time() -> None:
    """It can be a field of a hash, and can be read again."""
    sealing = Sealing([OLD])
    job = sealing.of_job("job", sealing.begin("job"))
    assert job.name("1.2.3", "series") == job.name("1.2.3", "series") != job.name("1.2.4", "series")
    assert job.unname(job.name("1.2.3", "series"), "series") == "1.2.3"
    with pytest.raises(SealingError, match="was changed"):
        job.unname(job.name("1.2.3", "series"), "studies")


@pytest.mark.parametrize("text", ["", "a", "张^三丰", "/data/\udcff.dcm", "x" * 1_000_000])
def test_every_text_comes_back(text: str) -> None:
    sealing = Sealing([OLD])
    job = sealing.of_job("job", sealing.begin("job"))
    assert job.unseal(job.seal(text, "f"), "f") == text
    assert job.unname(job.name(text, "f"), "f") == text


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    """Machines whose keys are changed one after the other read what the others write."""
    before, meanwhile, after = Sealing([OLD]), Sealing([NEW, OLD]), Sealing([NEW])
    old = before.begin("job")
    sealed = before.of_job("job", old).seal("text", "f")
    assert not meanwhile.is_current(old)
    new = meanwhile.again("job", old)
    assert meanwhile.is_current(new)
    assert after.of_job("job", new).unseal(sealed, "f") == "text"
    assert before.hashed("1.2") in meanwhile.hashes("1.2")
    with pytest.raises(MissingKeyError, match=r"encrypted with key [0-9a-f]{8}, which .* does not have\. Add the key"):
        after.of_job("job", old).unseal(sealed, "f")


def test_without_a_key_everything_stays_as_it_is() -> None:
    sealing = Sealing([])
    job = sealing.of_job("job", sealing.begin("job"))
    assert {
        job.seal("x", "f"),
        job.unseal("x", "f"),
        job.name("x", "f"),
        job.unname("x", "f"),
        sealing.hashed("x"),
    } == {"x"}
    for text in ("x", "", '{"time": 1.5}'):
        assert sealing.unseal(sealing.seal(text, "context"), "context") == text
        assert Sealing([OLD], accept_plain=True).unseal(text, "context") == text
        with pytest.raises(SealingError, match="was changed"):
            Sealing([OLD]).unseal(text, "context")
    assert sealing.hashes("x") == ["x"]
    with pytest.raises(MissingKeyError):
        sealing.of_job("job", Sealing([OLD]).begin("job")).seal("x", "f")
    # A stranger cannot give a job a key of their own.
    for each in (sealing, Sealing([OLD], accept_plain=True)):
        with pytest.raises(SealingError, match="was changed"):
            each.of_job("job", NEW).seal("x", "f")


def test_plain_jobs_are_refused_unless_allowed() -> None:
    with pytest.raises(PlainRecordError, match="PACS_TASKS_ACCEPT_PLAIN=true"):
        Sealing([OLD]).of_job("job", "").unseal("x", "f")
    assert Sealing([OLD], accept_plain=True).of_job("job", "").unseal("x", "f") == "x"


def test_a_request_belongs_to_its_task_and_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is copied under another id is refused."""
    request = EchoRequest()
    with pytest.raises(ConfigurationError, match="There is no key"):
        sealed_request(request, "id")
    monkeypatch.setattr("pacs_tasks.sealing.settings", lambda: Settings(encryption_keys=OLD))
    payload, sealing = sealed_request(request, "id"), Sealing([NEW, OLD])
    assert EchoRequest.model_validate(unsealed_request(sealing, payload, request.task, "id")) == request
    for task, job_id in ((request.task, "other"), ("pacs_tasks.find", "id")):
        with pytest.raises(SealingError, match="was changed"):
            unsealed_request(sealing, payload, task, job_id)


@pytest.mark.parametrize(
    "keys", ["short", OLD[:-2], OLD + "A", f"{OLD},é", OLD[:-1] + "!"], ids=["short", "cut", "long", "second", "sign"]
)
def test_a_wrong_key_is_named_without_any_part_of_it(keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_TASKS_ENCRYPTION_KEYS", keys)
    with pytest.raises(ConfigurationError, match=r"encryption_keys: a key has 44 characters") as raised:
        load()
    assert keys not in str(raised.value)


def test_keys_are_separated_by_commas_or_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_TASKS_ENCRYPTION_KEYS", f"{NEW}, {OLD}")
    assert load().keys == (NEW, OLD)
    assert NEW not in repr(load())
    assert sealing_by(load()) is sealing_by(load())


def test_the_asking_side_loads_no_cryptography_without_a_key() -> None:
    """Its import takes tens of milliseconds."""
    program = (
        "import sys, pacs_tasks.api, pacs_tasks.cli, pacs_tasks.sealing as s; j = s.Sealing([]).of_job('j', '');"
        "j.seal('x', 'f'); print('cryptography' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert said.stdout.strip() == "False"
