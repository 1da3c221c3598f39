"""Application entities: who calls and who is called."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

#: What a Python program that names no AE title of its own has always been called here.
DEFAULT_CALLING_AET = "PYNETDICOM"
DEFAULT_CALLED_AET = "PACS"
DEFAULT_PORT = 11112
#: UTF-8, which can hold every name (PS3.3 section C.12.1.1.2).
DEFAULT_CHARSET = "ISO_IR 192"


def _check_ae_title(value: str) -> str:
    """Leading and trailing spaces are not significant (PS3.5 section 6.2, VR AE)."""
    stripped = value.strip(" ")
    if not stripped:
        raise ValueError("an AE title needs at least one character that is no space")
    if len(stripped) > 16:
        raise ValueError("an AE title has at most 16 characters")
    if any(not " " <= character <= "~" or character == "\\" for character in stripped):
        raise ValueError("an AE title holds printable ASCII characters only, and no backslash")
    return stripped


#: Defined terms with and without code extensions (PS3.3 section C.12.1.1.2, tables C.12-2 to C.12-5).
_SINGLE_BYTE = ("13", "100", "101", "109", "110", "126", "127", "138", "144", "148", "166", "203")
_CHARSETS = frozenset(
    {"", "ISO_IR 6", DEFAULT_CHARSET, "GB18030", "GBK"}
    | {f"ISO_IR {number}" for number in _SINGLE_BYTE}
    | {f"ISO 2022 IR {number}" for number in ("6", "58", "87", "149", "159", *_SINGLE_BYTE)}
)


def _check_charset(value: str) -> str:
    """Several terms are separated by a backslash; case and spaces around them are forgiven."""
    terms = [term.strip().upper() for term in value.split("\\")]
    unknown = next((term for term in terms if term not in _CHARSETS), None)
    if unknown is not None:
        raise ValueError(
            f"{unknown!r} is no specific character set of DICOM; write 'ISO_IR 192' for UTF-8, 'GB18030', 'GBK' "
            "or another of its defined terms, such as 'ISO_IR 100' for Latin 1"
        )
    return "\\".join(terms)


#: VR AE: 1 to 16 characters of the default repertoire, no backslash, no control character (PS3.5 section 6.2).
AETitle = Annotated[str, AfterValidator(_check_ae_title)]
Port = Annotated[int, Field(ge=1, le=65535)]
Host = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
#: A defined term of Specific Character Set, (0008,0005), PS3.3 section C.12.1.1.2.
Charset = Annotated[str, AfterValidator(_check_charset)]


class LocalAE(BaseModel):
    """Who calls: us."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ae_title: AETitle = DEFAULT_CALLING_AET


class RemoteAE(BaseModel):
    """Who is called: the peer, usually a PACS.

    ``charset`` is the specific character set in which keys go to this peer when they are not ASCII, and in which its
    matches are read when they name none themselves: GB18030, GBK and ISO_IR 192 matter for Chinese names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ae_title: AETitle = DEFAULT_CALLED_AET
    host: Host = "127.0.0.1"
    port: Port = DEFAULT_PORT
    charset: Charset = DEFAULT_CHARSET

    def __str__(self) -> str:
        return f"{self.ae_title} at {self.host}:{self.port}"
