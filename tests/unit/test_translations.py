"""Every text that people read has a Chinese translation, which fits wherever the text is shown."""

from __future__ import annotations

import gettext
import re
from collections.abc import Iterator, Mapping, Sequence

import pytest

from docs.generator import translations
from pacs_tasks.cli import language
from tests.support.processes import ROOT

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@pytest.fixture(scope="module")
def texts() -> Sequence[str]:
    """Every text of the source that people read."""
    return tuple(translations.messages(ROOT))


@pytest.fixture(scope="module")
def entries(texts: Sequence[str]) -> Mapping[str, str]:
    """Those that have a translation, and it."""
    with translations.CATALOGUE.with_suffix(".mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    return {each: said for each in texts if (said := compiled.gettext(each)) != each}


@pytest.fixture(autouse=True)
def chinese() -> Iterator[None]:
    """The language of this process, which is English again afterwards."""
    language.choose("zh_CN.UTF-8")
    yield
    language.choose("en")


def test_every_text_has_a_translation(texts: Sequence[str], entries: Mapping[str, str]) -> None:
    """A new text: run `python -m docs.generator`, write its msgstr in the .po file, run it again, commit both files."""
    assert [each for each in texts if each not in entries] == [], (
        f"run `python -m docs.generator`, translate these in {translations.CATALOGUE}, and run it again"
    )


def test_translations_have_the_same_values(entries: Mapping[str, str]) -> None:
    """A value that is left out would be lost, a wrong one could not be shown."""
    names = ((each, *(sorted(_PLACEHOLDER.findall(text)) for text in (each, said))) for each, said in entries.items())
    assert [each for each, english, chinese in names if english != chinese] == []


def test_what_ships_is_compiled_from_the_catalogue(entries: Mapping[str, str]) -> None:
    """And no text is left in it that the source has no more."""
    known = {str(each.id): str(each.string) for each in translations.load() if each.id}
    assert known == entries, "run `python -m docs.generator`"


def _filled(text: str, names: Sequence[str]) -> str:
    """A text with a number for each of its places."""
    return _PLACEHOLDER.sub(lambda found: str(11 + names.index(found[1])), text)


def test_a_text_with_values_finds_its_translation(entries: Mapping[str, str]) -> None:
    """Not that of another template which also fits."""
    templates = {each: _PLACEHOLDER.findall(each) for each in entries if _PLACEHOLDER.search(each)}
    shown = {each: language.translated(_filled(each, names)) for each, names in templates.items()}
    assert shown == {each: _filled(entries[each], names) for each, names in templates.items()}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("success", "成功"),
        ("MY_PACS at 10.0.0.1:11112", "MY_PACS at 10.0.0.1:11112"),
        ("8 of 9", "8/9"),
        ("2.9 kB sent", "2.9 kB 已发送"),
        ("730 B (2.9 kB in all) sent", "已发送 730 B（共 2.9 kB）"),
        ("/data/CT of head", "/data/CT of head"),
        ("send: running, 5 of 9, 1.2 MB/s, 3 failed, about 3 s left", "send：进行中，5/9，1.2 MB/s，3 失败，约剩 3 s"),
        (
            "/data/a.dcm: The directory contains no file. Check the path.",
            "/data/a.dcm：该目录不含任何文件。请核对路径。",
        ),
        (
            "No such command 'qurey'. (Did you mean one of: 'query', 'retry'?)",
            "没有命令 'qurey'。您是否想用 'query', 'retry'？",
        ),
        (
            "Invalid value for '--port' (env var: 'PACS_TASKS_PORT'): 'abc' is not a valid whole number.",
            "'--port'（环境变量 'PACS_TASKS_PORT'）的值无效：'abc' 不是有效的整数。",
        ),
        ("2 matches for 3 rows: 1 failed.", "3 行：2 个匹配结果；1 失败。"),
        ("Something else. There are no jobs.", "Something else.没有作业。"),
    ],
)
def test_values_stay_and_sentences_are_translated(text: str, said: str) -> None:
    assert language.translated(text) == said


@pytest.mark.parametrize(
    ("variables", "is_chinese"),
    [
        ({}, False),
        ({"LANG": "zh_CN.UTF-8"}, True),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "en_GB.UTF-8"}, False),
        ({"LANG": "de_DE.UTF-8", "LC_ALL": "zh_TW.UTF-8"}, True),
        ({"LC_ALL": "zh_CN.UTF-8", "PACS_TASKS_LANGUAGE": "en"}, False),
        ({"LC_ALL": "C", "PACS_TASKS_LANGUAGE": "zh"}, True),
    ],
)
def test_the_environment_names_the_language(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], is_chinese: bool
) -> None:
    for name in ("PACS_TASKS_LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    language.choose()
    assert language.chinese() is is_chinese
