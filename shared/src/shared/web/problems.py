"""Errors of HTTP leave as problem details (RFC 9457), documented in each service's OpenAPI."""

from typing import TYPE_CHECKING, Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from uuid_utils.compat import uuid7

from shared.core.errors import in_words as errors_in_words
from shared.core.errors import problems_of
from shared.core.machine import Invalid, NotAllowed
from shared.messaging.database import BROKEN_LAWS, OUTAGES
from shared.messaging.locks import LOCK_TIMEOUT, Locked

if TYPE_CHECKING:
    pass

log = structlog.get_logger()

RETRY_AFTER = 2
"""Seconds after which a request that met an outage may be sent again."""


class Problem(BaseModel):
    """RFC 9457, with the fields an integrator acts on."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] | None = Field(default=None, description="field and rule, for bad input")
    current: str | None = Field(default=None, description="the current state, for 409")
    allowed: list[str] | None = Field(default=None, description="what is allowed in it, for 409")
    instance: str | None = Field(default=None, description="id of this failure, by which it is found in the log")


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        400: "malformed",
        401: "no valid token or signature",
        403: "the role is not enough",
        404: "not known",
        409: "not allowed in the current state",
        413: "body over 256 KiB",
        422: "a field breaks a rule",
        500: "something that no code expected; `instance` stands in the log",
        503: "the database is away; try again",
    }.items()
}


def document_problems(app: FastAPI) -> None:
    """Document problems by their own media type; FastAPI documents every model as application/json."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        for path in document["paths"].values():
            for operation in path.values():
                for response in operation["responses"].values():
                    content = response.get("content", {})
                    schema = content.get("application/json", {}).get("schema", {})
                    if schema.get("$ref") == "#/components/schemas/Problem":
                        content["application/problem+json"] = content.pop("application/json")
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def problem(status: int, title: str, detail: str, headers: dict[str, str] | None = None, **more: Any) -> JSONResponse:
    body = Problem(title=title, status=status, detail=detail, **more)
    return JSONResponse(
        body.model_dump(exclude_none=True), status, headers=headers, media_type="application/problem+json"
    )


def _of_not_allowed(error: NotAllowed) -> JSONResponse:
    return problem(409, "Not allowed", error.detail, current=error.status, allowed=list(error.allowed))


def _of_invalid(error: Invalid) -> JSONResponse:
    return problem(422, "Invalid", str(error), errors=[{"field": error.field, "rule": error.rule}])


def _of_outage(error: Exception) -> JSONResponse:
    log.warning("request.deferred", error=repr(error))
    detail = "The database cannot be reached just now; nothing was stored. Send the same request again."
    if isinstance(error, LOCK_TIMEOUT | Locked):
        detail = "Something else holds what this would change; nothing was stored. Send the same request again."
    return problem(503, "Try again", detail, headers={"Retry-After": str(RETRY_AFTER)})


def log_failure(request: Request, error: Exception) -> str:
    """Log what no code expected, and return the id under which it stands in the log, for the caller."""
    failure = f"urn:uuid:{uuid7()}"
    where = {"method": request.method, "path": request.url.path}
    log.error("request.failed", failure=failure, **where, error=repr(error), exc_info=error)
    return failure


def install_problems(app: FastAPI) -> None:
    """Turn every error into problem details that show nothing they should not."""

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        failure = log_failure(request, error)
        detail = (
            f"Something failed here that nobody expected. Who looks after the system finds it in the log as {failure}."
        )
        return problem(500, "Failed", detail, instance=failure)

    @app.exception_handler(RequestValidationError)
    async def bad_input(_: Request, error: RequestValidationError) -> JSONResponse:
        errors = problems_of(error.errors())
        malformed = any(e["type"] == "json_invalid" for e in error.errors())
        return problem(
            400 if malformed else 422, "Malformed" if malformed else "Invalid", errors_in_words(errors), errors=errors
        )

    @app.exception_handler(StarletteHTTPException)
    async def http_error(_: Request, error: StarletteHTTPException) -> JSONResponse:
        headers = dict(error.headers) if error.headers else None
        return problem(
            error.status_code, "Refused" if error.status_code < 500 else "Failed", str(error.detail), headers
        )

    @app.exception_handler(NotAllowed)
    async def not_allowed(_: Request, error: NotAllowed) -> JSONResponse:
        return _of_not_allowed(error)

    @app.exception_handler(Invalid)
    async def invalid(_: Request, error: Invalid) -> JSONResponse:
        return _of_invalid(error)

    async def outage(_: Request, error: Exception) -> JSONResponse:
        return _of_outage(error)

    for kind in (*OUTAGES, Locked):
        app.add_exception_handler(kind, outage)

    async def data_error(_: Request, error: Exception) -> JSONResponse:
        log.error("request.broke_a_law", error=repr(error))
        return problem(422, "Invalid", "a value is outside what can be stored")

    for law in BROKEN_LAWS:
        app.add_exception_handler(law, data_error)
