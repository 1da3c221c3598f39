"""The statements of the documents about the code, compared with the code."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.generator.meanings import MEANINGS
from docs.generator.pages import FOLDER, pages
from docs.generator.settings import defaults
from pacs_tasks.cli.output.exit_codes import ExitCode
from pacs_tasks.request.template import FIELDS
from pacs_tasks.settings import Settings, load
from tests.support.documents import CHINESE, DOCS, ENGLISH, README, README_ZH, blocks, distinct, lost_links, table_rows
from tests.support.processes import ROOT

DOCUMENTS = (*ENGLISH, *CHINESE, DOCS / "contributing.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")
#: Defaults in words.
IN_WORDS = {"PACS_TASKS_DATA_DIR"}


def test_generated_pages_are_up_to_date() -> None:
    """Commands, settings, tasks, Python API and the error catalogue follow the code."""
    stale = [name for name, text in pages().items() if (FOLDER / name).read_text("utf-8") != text]
    assert not stale, (
        f"{stale} in docs/reference differ from the code: run `python -m docs.generator`, then commit them"
    )


def test_chinese_settings_page_has_every_setting_with_its_default() -> None:
    told = {row[0]: row[1] for row in table_rows(DOCS / "zh" / "settings.md", r"PACS_TASKS_\w+")}
    known = {f"PACS_TASKS_{name.upper()}": default.replace("`", "") for name, default in defaults().items()}
    assert list(told) == list(known)
    assert {name: value for name, value in told.items() if name not in IN_WORDS} == {
        name: value for name, value in known.items() if name not in IN_WORDS
    }


def test_every_setting_has_a_meaning() -> None:
    """And no setting that does not exist."""
    assert list(MEANINGS) == list(Settings.model_fields)


@pytest.mark.parametrize("page", [FOLDER / "exit-codes.md", DOCS / "zh" / "quickstart.md"], ids=str)
def test_every_exit_code_is_in_the_table(page: Path) -> None:
    assert [int(row[0]) for row in table_rows(page, r"\d")] == list(ExitCode)


def test_every_field_of_a_layout_is_listed() -> None:
    """And no field that does not exist."""
    text = (DOCS / "howto" / "retrieve.md").read_text("utf-8")
    paragraph = next(each for each in text.split("\n\n") if "`PatientBirthDate`" in each)
    assert {each for each in re.findall(r"`(\w+)`", paragraph) if each[0].isupper()} == set(FIELDS)


def test_both_readmes_have_the_same_blocks() -> None:
    """A reader of Chinese types the same commands and sees the same output."""
    languages = ("bash", "python", "toml", "json", "text")
    found = [[(each.language, each.text) for each in blocks(readme, *languages)] for readme in (README, README_ZH)]
    assert found[0] == found[1]


def test_blocks_of_chinese_pages_are_on_english_pages() -> None:
    """So the tests that run the English blocks hold for the Chinese pages as well."""
    languages = ("bash", "python", "toml", "json", "text")
    known = {(each.language, each.text) for each in distinct(ENGLISH, *languages)}
    assert [each.place for each in distinct(CHINESE, *languages) if (each.language, each.text) not in known] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """To a file of the checkout, and to a heading that it has."""
    assert lost_links(document) == []


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    """And no page is there twice."""
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    listed = sorted(_files(config["nav"]))
    assert listed == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def _files(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for each in nav.values() if isinstance(nav, dict) else nav:
            yield from _files(each)


def test_every_decision_is_in_the_index() -> None:
    folder = DOCS / "architecture" / "decisions"
    listed = re.findall(r"\]\(([\w-]+\.md)\)", (folder / "index.md").read_text("utf-8"))
    assert sorted(listed) == sorted(path.name for path in folder.glob("*.md") if path.name != "index.md")


@pytest.mark.parametrize(
    ("document", "lines"),
    [(README, 160), (README_ZH, 160), (DOCS / "architecture" / "overview.md", 150)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_first_pages_are_short(document: Path, lines: int) -> None:
    """A visitor reads them to the end."""
    assert len(document.read_text("utf-8").splitlines()) <= lines


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *project["optional-dependencies"]["dev"],
        *project["optional-dependencies"]["docs"],
    ]
    text = (DOCS / "architecture" / "dependencies.md").read_text("utf-8")
    names = {re.split(r"[\[<>=;! ]", each)[0] for each in wanted if not each.startswith("types-")}
    assert {name for name in names if name not in text} == set()


def test_settings_file_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name in it is a setting, and every value is accepted."""
    path = tmp_path / "pacs-tasks.toml"
    monkeypatch.setenv("PACS_TASKS_CONFIG", str(path))
    charsets = set()
    for block in distinct(ENGLISH, "toml"):
        path.write_text(block.text, "utf-8")
        # It refuses unknown names.
        charsets |= {each.charset for each in load().remotes.values()}
    assert "GB18030" in charsets


def test_json_is_json() -> None:
    shown = distinct(ENGLISH, "json")
    assert shown
    for block in shown:
        assert json.loads(block.text), block.place


def test_no_other_language_is_used() -> None:
    """A block in a language that no test knows would be a claim that nothing checks."""
    for document in (*ENGLISH, *CHINESE):
        known = {"bash", "python", "toml", "json", "text"}
        assert len(blocks(document, *known)) == document.read_text("utf-8").count("\n```") // 2, document
