"""What the documents say about the code, compared with the code."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from pacs_tasks.cli.output.exit_codes import ExitCode
from pacs_tasks.cli.program import commands
from pacs_tasks.operations import OPERATIONS, QUEUES
from pacs_tasks.request import Request
from pacs_tasks.request.template import FIELDS
from pacs_tasks.settings import Settings, load
from tests.support.documents import README, README_ZH, Block, blocks, headings, links, table_rows
from tests.support.processes import ROOT

READMES = pytest.mark.parametrize("readme", [README, README_ZH], ids=lambda path: path.name)
#: Settings whose default is made when they are read.
MADE = {"data_dir", "remotes"}


@READMES
def test_every_setting_is_in_the_table_with_its_default(readme: Path) -> None:
    """A setting that is added, renamed or changed without its line in both READMEs fails here."""
    rows = table_rows(readme, r"PACS_TASKS_\w+")
    told = {variable: default for variable, default, *meaning in rows if len(meaning) == 1}
    fields = Settings.model_fields
    known = {f"PACS_TASKS_{name.upper()}": field.default for name, field in fields.items() if name not in MADE}
    assert list(told) == [f"PACS_TASKS_{name.upper()}" for name in fields]
    for variable, default in known.items():
        wanted = "" if default is None else f"{default:g}" if isinstance(default, float) else str(default)
        if isinstance(default, bool):
            wanted = wanted.lower()
        assert told[variable] == wanted, variable


@READMES
def test_every_exit_code_is_in_the_table(readme: Path) -> None:
    assert [int(row[0]) for row in table_rows(readme, r"\d")] == list(ExitCode)


@READMES
def test_every_public_task_is_in_the_table_with_its_queue_and_fields(readme: Path) -> None:
    """Other services enqueue by these names."""
    shared = set(Request.model_fields)
    told = {row[0]: (row[1], {each.strip() for each in row[2].split(",") if each.strip()})
            for row in table_rows(readme, r"pacs_tasks\.\w+")}  # fmt: skip
    assert told == {name: (each.queue, set(each.request.model_fields) - shared) for name, each in OPERATIONS.items()}
    assert {queue for queue, _ in told.values()} == set(QUEUES)


@READMES
def test_every_field_of_a_layout_is_told(readme: Path) -> None:
    """And none that there is not."""
    text = readme.read_text(encoding="utf-8")
    section = text[text.index("`--layout`\n") : text.index("`--to-remote`\n")]
    paragraph = next(each for each in section.split("\n\n") if "`PatientBirthDate`" in each)
    told = {each for each in re.findall(r"`(\w+)`", paragraph) if each[0].isupper()}
    assert told == set(FIELDS)


@READMES
def test_every_command_is_told(readme: Path) -> None:
    """By its name, in backquotes or in a block."""
    text = readme.read_text("utf-8")
    assert [name for name in commands.commands if f"`{name}`" not in text and f"pacs-tasks {name}" not in text] == []


def test_both_readmes_have_the_same_blocks() -> None:
    """Whoever reads Chinese types the same."""

    def commands(readme: Path) -> list[tuple[str, str]]:
        return [(each.language, each.text) for each in blocks(readme, "bash", "python", "toml", "json", "text")]

    assert commands(README) == commands(README_ZH)


@READMES
def test_links_lead_somewhere(readme: Path) -> None:
    """To a file of the checkout or to a heading of the same document."""
    known = headings(readme)
    lost = [
        target
        for target in links(readme)
        if (target[1:] not in known if target.startswith("#") else not (ROOT / target).is_file())
    ]
    assert lost == []


@pytest.mark.parametrize("block", blocks(README, "toml"), ids=lambda block: f"line {block.line}")
def test_settings_file_is_valid(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name in it is a setting, and every value is accepted."""
    path = tmp_path / "pacs-tasks.toml"
    path.write_text(block.text, "utf-8")
    monkeypatch.setenv("PACS_TASKS_CONFIG", str(path))
    known = load()
    assert set(tomllib.loads(block.text)) <= set(Settings.model_fields)
    assert known.remote("archive").charset == "GB18030"


@pytest.mark.parametrize("block", blocks(README, "json"), ids=lambda block: f"line {block.line}")
def test_json_is_json(block: Block) -> None:
    assert json.loads(block.text)


def test_no_other_language_is_used() -> None:
    """A block in a language that no test knows would be a claim that nothing checks."""
    known = {"bash", "python", "toml", "json", "text"}
    text = README.read_text("utf-8")
    assert len(blocks(README, *known)) == text.count("\n```") // 2
