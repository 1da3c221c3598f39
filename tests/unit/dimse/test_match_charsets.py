"""Labels of character sets that remotes write beside text of another one."""

from __future__ import annotations

import pytest

from pacs_tasks.dimse.files.elements import IMPLICIT_VR_LITTLE_ENDIAN, encode_implicit
from pacs_tasks.dimse.find.match import decode_match, is_decoded

NAME = "张^三丰"


def _decoded(label: str, encoding: str, charset: str) -> tuple[str, bool]:
    content = encode_implicit({0x0008_0005: label.encode(), 0x0010_0010: NAME.encode(encoding)})
    match = decode_match(content, IMPLICIT_VR_LITTLE_ENDIAN, charset)
    return match["00100010"]["Value"][0]["Alphabetic"], is_decoded(match)


@pytest.mark.parametrize("label", ["", "ISO_IR 6", "ISO_IR_192", "UTF8", "GB 18030", "x"])
def test_the_charset_of_the_remote_replaces_a_label_of_no_use(label: str) -> None:
    """Nothing, the default one, a misspelt one, an unknown one."""
    assert _decoded(label, "gb18030", "GB18030") == (NAME, True)


@pytest.mark.parametrize(("label", "encoding"), [("ISO_IR 192", "utf-8"), ("GB18030", "gb18030"), ("GBK", "gbk")])
def test_a_known_label_counts(label: str, encoding: str) -> None:
    """Whatever the charset of the remote is."""
    assert _decoded(label, encoding, "ISO_IR 100") == (NAME, True)


def test_text_that_does_not_fit_is_noticed() -> None:
    """GB18030 under the label of UTF-8."""
    assert not _decoded("ISO_IR 192", "gb18030", "ISO_IR 192")[1]
