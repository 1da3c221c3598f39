"""People with a Chinese locale read Chinese; what programs read stays English."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pacs_tasks.testing import EVERY_INSTANCE, Faults, TestPACS
from tests.support.command import PACS_TASKS, Terminal
from tests.support.dicom_files import study_uid, write_many, write_series, write_text
from tests.support.ports import free_port

_CHINESE = re.compile("[\u4e00-\u9fff]")
#: Three English words in a row are a sentence; a record of the log begins with its time.
_ENGLISH = re.compile(r"\b[a-z]{2,} [a-z]{2,} [a-z]{2,}\b")


@pytest.fixture
def chinese(terminal: Terminal, pacs: TestPACS, tmp_path: Path) -> Terminal:
    """A terminal with a Chinese locale, a directory of files, and a PACS that holds a study."""
    write_series(tmp_path / "files", 3)
    write_text(tmp_path / "files/notes.txt")
    pacs.hold(*write_many(tmp_path / "held", (1, 1, 2)))
    address = (
        ("PACS_TASKS_IP", "127.0.0.1"),
        ("PACS_TASKS_PORT", str(pacs.port)),
        ("PACS_TASKS_PACS_AE_TITLE", pacs.ae_title),
    )
    return replace(terminal, settings=(("LC_ALL", "zh_CN.UTF-8"), *address), entry=PACS_TASKS)


def read(text: str) -> str:
    """What a person reads: Chinese without an English sentence."""
    lines = [line for line in text.splitlines() if not re.match(r"\d{4}-\d\d-\d\d .*(INFO|ERROR|WARNING)", line)]
    shown = "\n".join(lines)
    assert _CHINESE.search(shown), shown
    assert not _ENGLISH.search(shown), shown
    return shown


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["echo"], 0, "毫秒内应答"),
        (["echo", "--port", "{closed}"], 4, "无法连接"),
        (["send", "{files}"], 0, "非 DICOM"),
        (["send-dir", "--dir", "{files}", "--dry-run"], 0, "没有发送任何内容"),
        (["send-file", "--file", "{files}/notes.txt"], 2, "不是 DICOM 文件"),
        (["query"], 0, "1 个匹配结果"),
        (["query", "--patient-id", "NOBODY"], 0, "没有匹配结果"),
        (["query", "--study-date", "20231301"], 2, "不是日历中的日期"),
        (["retrieve", "--study-uid", "{study}", "--output-dir", "out"], 0, "结果"),
        (["retrieve", "--study-uid", "1.2.3", "--output-dir", "out"], 1, "没有列出"),
        (["jobs"], 0, "作业"),
        (["status", "nothing"], 7, "没有作业"),
        (["wait"], 2, "缺少参数"),
        (["--nonsense"], 2, "没有选项"),
        (["--help"], 0, "退出码"),
        (["send", "-h"], 0, "共用选项（--help-all）：--ip"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_each_command_speaks_chinese(
    chinese: Terminal, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    values = {"files": tmp_path / "files", "study": study_uid(), "closed": free_port()}
    result = chinese.run(*(each.format(**values) for each in arguments))
    assert result.code == code, result
    assert said in read(result.stdout + result.stderr), result


def test_reasons_of_a_worker_are_translated(chinese: Terminal, pacs: TestPACS, tmp_path: Path) -> None:
    """The worker wrote them in English; `status` and `retry` show the same job."""
    pacs.faults = Faults(store_status={EVERY_INSTANCE: 0xC000})
    sent = chinese.run("send", tmp_path / "files")
    assert "C000" in read(sent.stdout + sent.stderr), sent
    job_id = re.search(r"[0-9a-f]{32}", sent.stderr)
    assert job_id, sent
    pacs.faults = Faults()
    assert "状态" in read(chinese.run("status", job_id[0]).stdout)
    assert "已发送" in read(chinese.run("retry", job_id[0]).stdout)
    assert "已存有" in read(chinese.run("verify", job_id[0]).stdout)


def test_what_programs_read_stays_english(chinese: Terminal, pacs: TestPACS, tmp_path: Path) -> None:
    """JSON, CSV and the log of the script that existing users know."""
    assert not _CHINESE.search(chinese.run("send", tmp_path / "files", "--json").stdout)
    english = replace(chinese, settings=(*chinese.settings, ("PACS_TASKS_LANGUAGE", "en")))
    for output_format in ("csv", "jsonl"):
        both = [each.run("query", "--format", output_format).stdout for each in (chinese, english)]
        assert both[0] == both[1]
    wrong = chinese.run("query", "--study-date", "20231301", "--json")
    assert "is not a day of the calendar" in wrong.json["error"]["message"]
    script = replace(chinese, entry=Terminal(tmp_path).entry)
    result = script.run("send-dir", "--dir", tmp_path / "files")
    assert "已发送" in read(result.stdout), result
    log = (script.directory / "dicom_transfer.log").read_text("utf-8")
    assert "enqueued" in log
    assert not _CHINESE.search(log)
