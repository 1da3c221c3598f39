"""The description of the API in OpenAPI 3.1, which a file of the documentation keeps."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from pacs_tasks.serve.problems import MEDIA_TYPE, Problem
from pacs_tasks.serve.routes import jobs, submission

_PROBLEM = {
    "description": "A problem (RFC 9457).",
    "content": {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}},
}
#: What FastAPI would say of errors that we report as problems.
_NOT_OURS = ("HTTPValidationError", "ValidationError")


def describe(app: FastAPI) -> dict[str, Any]:
    """Describe the routes of an application, with the request of each operation."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        schemas: dict[str, Any] = document["components"]["schemas"]
        for name in _NOT_OURS:
            schemas.pop(name, None)
        schemas.update(submission.schemas(jobs.Verification))
        schemas[Problem.__name__] = Problem.model_json_schema()
        document["components"]["schemas"] = dict(sorted(schemas.items()))
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = _PROBLEM
        app.openapi_schema = document
    return app.openapi_schema
