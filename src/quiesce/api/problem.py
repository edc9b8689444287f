"""Failures as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from quiesce.model.failure import (
    AgentFailure,
    AuthFailure,
    Evidence,
    ExtensionFailure,
    Failure,
    FailureReport,
    FreezeFailure,
    InputFailure,
    NetworkFailure,
    NotFoundFailure,
    PolicyFailure,
    RestoreFailure,
    ScriptFailure,
    ServerFailure,
    SnapshotFailure,
    StorageFailure,
    VmFailure,
    report_of,
)

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"

_STATUS: tuple[tuple[type[Failure], HTTPStatus], ...] = (
    (NotFoundFailure, HTTPStatus.NOT_FOUND),
    (InputFailure, HTTPStatus.UNPROCESSABLE_ENTITY),
    (PolicyFailure, HTTPStatus.CONFLICT),
    (RestoreFailure, HTTPStatus.CONFLICT),
    (AuthFailure, HTTPStatus.UNAUTHORIZED),
    (ServerFailure, HTTPStatus.SERVICE_UNAVAILABLE),
    (StorageFailure, HTTPStatus.SERVICE_UNAVAILABLE),
    # The VM, its agent and what runs inside it are what a gateway calls its upstream.
    (VmFailure, HTTPStatus.BAD_GATEWAY),
    (AgentFailure, HTTPStatus.BAD_GATEWAY),
    (ExtensionFailure, HTTPStatus.BAD_GATEWAY),
    (ScriptFailure, HTTPStatus.BAD_GATEWAY),
    (FreezeFailure, HTTPStatus.BAD_GATEWAY),
    (SnapshotFailure, HTTPStatus.BAD_GATEWAY),
    (NetworkFailure, HTTPStatus.BAD_GATEWAY),
)
"""First match wins: a family stands before its parents."""


class Problem(BaseModel):
    """What went wrong, with its facts and what to do next."""

    type: str = Field(examples=["urn:quiesce:failure:policy.in-progress"])
    title: str = Field(examples=["Conflict"])
    status: int = Field(examples=[409])
    detail: str = Field(examples=["A backup of the VM web1 is in progress already."])
    code: str = Field(examples=["policy.in-progress"])
    evidence: Sequence[Evidence] = ()
    remedy: str = ""
    retryable: bool = False
    cause: FailureReport | None = None


def problem_responses(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of routes: which problems they may answer with."""
    return {
        status.value: {
            "description": status.phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def status_of(failure: Failure) -> HTTPStatus:
    for family, status in _STATUS:
        if isinstance(failure, family):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR


def problem_response(
    report: FailureReport, status: HTTPStatus, headers: dict[str, str] | None = None
) -> JSONResponse:
    problem = Problem(
        type=f"urn:quiesce:failure:{report.code}",
        title=status.phrase,
        status=status.value,
        detail=report.message,
        code=report.code,
        evidence=report.evidence,
        remedy=report.remedy,
        retryable=report.retryable,
        cause=report.cause,
    )
    return JSONResponse(
        problem.model_dump(mode="json"), status.value, headers=headers, media_type=MEDIA_TYPE
    )


def install_problem_handlers(app: FastAPI) -> None:
    """Every error of the API leaves as a problem, one that is a defect of ours included."""

    @app.exception_handler(Failure)
    async def of_failure(_: Request, failure: Failure) -> JSONResponse:
        status = status_of(failure)
        headers = {"WWW-Authenticate": "Bearer"} if status is HTTPStatus.UNAUTHORIZED else None
        return problem_response(failure.report(), status, headers)

    @app.exception_handler(RequestValidationError)
    async def of_validation(_: Request, error: RequestValidationError) -> JSONResponse:
        report = FailureReport(
            code="input.invalid",
            message="The request is not valid: "
            + "; ".join(f"{_place(item)}: {item['msg']}" for item in error.errors()[:5]),
            evidence=tuple(
                Evidence(
                    fact=f"{_place(item)}: {item['msg']}",
                    source="request",
                    raw=_raw(item),
                )
                for item in error.errors()[:50]
            ),
        )
        return problem_response(report, HTTPStatus.UNPROCESSABLE_ENTITY)

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> JSONResponse:
        """The framework's own errors: no such call, or a body that cannot be read."""
        status = HTTPStatus(error.status_code)
        if status is HTTPStatus.BAD_REQUEST:
            report = FailureReport("input.invalid", f"The request cannot be read: {error.detail}.")
        else:
            report = FailureReport(
                code="input.no-such-call",
                message=f"The API has no call {request.method} {request.url.path}.",
                remedy="See docs/reference/rest-api.md or /api/v1/openapi.json.",
            )
        return problem_response(report, status, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def of_defect(request: Request, error: Exception) -> JSONResponse:
        log.error("request failed", path=request.url.path, exc_info=error)
        return problem_response(report_of(error), HTTPStatus.INTERNAL_SERVER_ERROR)


def _raw(item: Any) -> str:
    """The value that was wrong; not that of a proxy or a key, nor the whole that misses a field:
    any may hold a password, and problems are copied into tickets."""
    value = item.get("input")
    secret = any("proxy" in str(part) or part == "secret" for part in item["loc"])
    return "" if secret or isinstance(value, (dict, list)) else ascii(value)[:200]


def _place(item: Any) -> str:
    return ".".join(str(part) for part in item["loc"])
