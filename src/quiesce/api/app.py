"""The FastAPI application around one service."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

import quiesce
from quiesce.api import doctor_routes, vault_routes
from quiesce.api.limits import RequestSizeLimit
from quiesce.api.problem import Problem, install_problem_handlers
from quiesce.api.routes import open_router, router
from quiesce.service.service import Service

PREFIX = "/api/v1"


def create_app(service: Service) -> FastAPI:
    """The REST API of a started service. The portal, if any, is mounted on the result."""
    app = FastAPI(
        title="Quiesce",
        version=quiesce.__version__,
        description="Self-hosted VM backup.",
        openapi_url=f"{PREFIX}/openapi.json",
        # FastAPI's readable forms load scripts from a CDN.
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    app.state.service = service
    app.include_router(open_router, prefix=PREFIX)
    app.include_router(router, prefix=PREFIX)
    app.include_router(doctor_routes.router, prefix=PREFIX)
    app.include_router(vault_routes.router, prefix=PREFIX)
    app.router.routes.append(Route("/api/{path:path}", NoSuchCall(app), include_in_schema=False))
    app.add_middleware(RequestSizeLimit)
    install_problem_handlers(app)
    _describe_problems(app)
    return app


class NoSuchCall:
    """Answers what no route before it did, or the portal mounted behind would, with a page."""

    def __init__(self, app: FastAPI) -> None:
        self._routes = app.routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for route in self._routes:
            match, found = route.matches(scope)
            if match is Match.PARTIAL:  # known, but not with this method
                scope.update(found)
                await route.handle(scope, receive, send)
                return
        raise HTTPException(HTTPStatus.NOT_FOUND)


def _describe_problems(app: FastAPI) -> None:
    """Put the schema of `Problem` and the two ways in into the OpenAPI description: FastAPI knows
    only what routes return, and problems are raised."""
    generate = app.openapi

    def described() -> dict[str, object]:
        if app.openapi_schema:
            return app.openapi_schema
        schema = generate()
        components = schema.setdefault("components", {})
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = components.setdefault("schemas", {})
        for name, definition in problem.pop("$defs", {}).items():
            schemas.setdefault(name, definition)
        schemas["Problem"] = problem
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, calls in schema["paths"].items():
            for call in calls.values():
                call["security"] = [] if path == f"{PREFIX}/health" else [{"token": []}]
        app.openapi_schema = schema
        return schema

    app.openapi = described  # type: ignore[method-assign]
