"""Values at which programs go wrong, as Hypothesis strategies."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

_TELLING_TEXT: Final = (
    "",
    " ",
    "\0",
    "\\",
    "*",
    "?",
    "..",
    "/",
    "../../etc/passwd",
    "/dev/fd/0",
    "-",
    "--",
    "-1",
    "1.2.3",
    "1..2",
    "1.2.840.10008.1.1",
    "1" * 65,
    "0" * 5000,
    "20230101-20221231",
    "20230231",
    "today",
    "NaN",
    "1e400",
    "0x10",
    "٣",
    "张^三丰",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp",
    "\x1b[2J",
    "{PatientID}/{",
    "{0.__class__}",
    "%s%n",
    "=cmd()",
    "\ud800",
    "\N{BYTE ORDER MARK}",
    "A" * 17,
    "a\nb\r\nc",
    "redis://:secret@127.0.0.1:1/0",
)
_TELLING_NUMBERS: Final = (-1, 0, 1, 2, 104, 65_535, 65_536, 2**31, 2**63, 2**64, -(2**63), 10**30)

#: Text of a command line: it has no zero byte, and the program itself refuses lone surrogates.
ARGUMENTS: Final = st.one_of(
    st.sampled_from([each for each in _TELLING_TEXT if "\0" not in each]),
    st.text(st.characters(exclude_characters="\0"), max_size=20),
    st.integers().map(str),
    st.floats().map(str),
)
_SCALARS: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(_TELLING_NUMBERS),
    st.integers(),
    st.floats(),
    st.sampled_from(_TELLING_TEXT),
    st.text(max_size=20),
)
#: What JSON holds, and a little that it does not.
JSON: Final = st.recursive(
    _SCALARS,
    lambda within: st.one_of(
        st.lists(within, max_size=4),
        st.dictionaries(st.sampled_from(_TELLING_TEXT) | st.text(max_size=8), within, max_size=4),
    ),
    max_leaves=8,
)
