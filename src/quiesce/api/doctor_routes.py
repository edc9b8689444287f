"""The calls that look for what is wrong with a VM, and mend it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Depends, Response

from quiesce.api.answers import Examined
from quiesce.api.examples import example
from quiesce.api.problem import problem_responses
from quiesce.api.requests import Mends
from quiesce.api.routes import Running
from quiesce.api.security import caller_is_allowed
from quiesce.service.log_bundle import MEDIA_TYPE

FILES_HEADER = "Quiesce-Files"
"""How many of the guest's files a log bundle holds; 0 when its inside could not be reached."""

_PROBLEMS = problem_responses(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
_BUNDLE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The log bundle.",
        "headers": {FILES_HEADER: {"schema": {"type": "integer"}}},
        "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}

router = APIRouter(
    tags=["doctor"],
    dependencies=[Depends(caller_is_allowed)],
    responses=problem_responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY),
)


@router.post("/vms/{name}/examination", responses=_PROBLEMS | example(200, "examination"))
def examine(service: Running, name: str) -> Examined:
    """Look at everything that a backup of the VM needs: the agents, the extension, mounts, network,
    disks, space, load and schedule. Changes nothing. It starts programs in the guest and takes
    seconds, up to half a minute; 409 `policy.in-progress` while a backup of the VM runs."""
    return Examined.of(service.doctor.examine(name))


@router.post("/vms/{name}/mends", responses=_PROBLEMS | example(200, "examination"))
def mend(service: Running, name: str, body: Mends) -> Examined:
    """Carry out actions of an examination's plan, then examine again. The answer's `plan` begins
    with what was done and how each ended: one that failed is an answer, and not an error of this
    call. 409 `policy.mend-not-planned`, with nothing done, when nothing calls for an action now."""
    return Examined.of(service.doctor.fix(name, body.actions))


@router.post(
    "/vms/{name}/logs",
    response_class=Response,
    responses=_PROBLEMS | problem_responses(HTTPStatus.BAD_GATEWAY) | _BUNDLE,
)
def collect_logs(service: Running, name: str, verbose: bool = False) -> Response:
    """The guest's logs as an archive (tar.gz) for `quiesce doctor --bundle`, with what was made of
    them, and without secrets. `verbose` has the guest's agent log more meanwhile, tests the network
    so that there is something to log, and switches it back."""
    bundle = service.guest_logs.collect(name, verbose=verbose)
    return Response(
        bundle.content,
        media_type=MEDIA_TYPE,
        headers={
            "Content-Disposition": f'attachment; filename="{bundle.name}"',
            FILES_HEADER: str(bundle.files),
        },
    )
