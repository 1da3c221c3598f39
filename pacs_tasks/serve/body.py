"""The JSON body of a request. It is read once the caller is known: FastAPI itself would read it before."""

import json
from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from pacs_tasks.serve.access import Caller, Submitter
from pacs_tasks.serve.problems import RefusedError

ModelT = TypeVar("ModelT", bound=BaseModel)

_JSON = "application/json"
#: Bytes of a body that takes less time to parse than to hand to a thread; a large batch of queries takes half a second.
_SMALL = 4096
#: Values of a body at most, by its commas and brackets: those of 100,000 rows with 40 keys each. The decoder is written
#: in C: nobody else runs while it reads an array, and `[[],[],...]` takes 28 times its bytes.
_MOST_VALUES = 4_000_000
#: Bodies that stand for the defaults, where every field has one.
_NOTHING = (b"", b"null")


def body_of(model: type[ModelT]) -> Callable[[Request, Caller], Coroutine[Any, Any, ModelT]]:
    """Make the dependency that reads a body of this model. Without a required field the body may be missing."""
    optional = _optional(model)

    async def read(request: Request, _caller: Submitter) -> ModelT:
        try:
            raw = await request.body()
        except ClientDisconnect:
            raise _malformed() from None
        if optional and raw.strip() in _NOTHING:
            return model()
        if not _is_json(request.headers.get("content-type", "")):
            raise RefusedError(
                415, "UnsupportedMediaTypeError", f"The body is not JSON. Send it with `Content-Type: {_JSON}`."
            )
        if len(raw) <= _SMALL:
            return _parse(model, raw)
        return await run_in_threadpool(_parse, model, raw)

    return read


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Describe such a body in OpenAPI."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    if _optional(model):
        content = {"anyOf": [schema, {"type": "null"}], "title": model.__name__}
        return {"requestBody": {"content": {_JSON: {"schema": content}}}}
    return {"requestBody": {"required": True, "content": {_JSON: {"schema": schema}}}}


def _optional(model: type[BaseModel]) -> bool:
    return not any(each.is_required() for each in model.model_fields.values())


def _is_json(content_type: str) -> bool:
    header = Message()
    header["Content-Type"] = content_type
    return header.get_content_type() == _JSON or (
        header.get_content_maintype() == "application" and header.get_content_subtype().endswith("+json")
    )


def _parse(model: type[ModelT], raw: bytes) -> ModelT:
    if raw.count(b",") + raw.count(b"[") > _MOST_VALUES:
        raise RefusedError(413, "ContentTooLargeError", f"The body has more than {_MOST_VALUES:,} values. Divide it.")
    try:
        # ValueError: malformed, not UTF-8, or a number of thousands of digits. RecursionError: nested too deep.
        document = json.loads(raw.decode("utf-8-sig"), parse_constant=_not_a_number, object_hook=_let_others_run)
    except (ValueError, RecursionError):
        raise _malformed() from None
    try:
        return model.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in found]) from None


def _let_others_run(fields: dict[str, Any]) -> dict[str, Any]:
    """Be a function of Python: the decoder, which is written in C, would let no other thread run until its end."""
    return fields


def _not_a_number(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python reads although they are not JSON (RFC 8259 section 6)."""
    raise ValueError(name)


def _malformed() -> RefusedError:
    return RefusedError(400, "MalformedJsonError", "The body is not valid JSON in UTF-8. Correct it and try again.")
