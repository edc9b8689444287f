"""The calls about the vault: its figures, checks, keys, copies and upkeep."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query

from quiesce.api.examples import example
from quiesce.api.problem import problem_responses
from quiesce.api.requests import CollectStart, CopyStart, KeyAdd, PruneStart, VerifyStart
from quiesce.api.routes import Running
from quiesce.api.security import caller_is_allowed
from quiesce.model.damage import DamageReport
from quiesce.model.job import Job
from quiesce.service.vault_views import (
    CollectView,
    CopyView,
    SlotChange,
    SlotView,
    VaultPlace,
    VmPrune,
)
from quiesce.service.views import VaultView
from quiesce.vault.upkeep.forecast import Forecast
from quiesce.vault.upkeep.rebuild import RebuildPlan

_CONFLICT = problem_responses(HTTPStatus.CONFLICT)
_NOT_FOUND_OR_CONFLICT = problem_responses(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)

router = APIRouter(
    tags=["vault"],
    dependencies=[Depends(caller_is_allowed)],
    responses=problem_responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY),
)


@router.get("/vault", responses=example(200, "vault"))
def show_vault(service: Running) -> VaultView:
    """The vault's figures."""
    return service.points.vault_view()


@router.get("/vault/damage", responses=example(200, "damage"))
def show_damage(service: Running) -> DamageReport:
    """Which points are hurt by what is known as damaged or missing, and what of it heals. Nothing
    new is looked for: that takes a verify job, which has such a report of its own."""
    return service.points.damage()


@router.get("/vaults")
def list_vaults(service: Running) -> tuple[VaultPlace, ...]:
    """The server's vault, and the places that copies were sent to."""
    return service.upkeep.places()


@router.post("/vault/verify", status_code=202, responses=_CONFLICT)
def verify_vault(service: Running, body: VerifyStart) -> Job:
    """Start a verify job."""
    return service.jobs.start_verify(body.request())


@router.get("/vault/forecast")
def forecast_verify(
    service: Running,
    mode: Literal["structure", "packs", "chunks", "sample"] = "packs",
    sample: Annotated[int | None, Query(ge=1, le=10_000_000)] = None,
) -> Forecast:
    """What such a verification would cost without a limit: requests, and bytes read."""
    return service.upkeep.forecast(mode, sample)


# --- Keys


@router.get("/vault/keys")
def list_keys(service: Running) -> tuple[SlotView, ...]:
    """Who can open the vault, oldest first; never a key itself."""
    return service.upkeep.slots()


@router.post("/vault/keys", status_code=201, responses=example(201, "slots"))
def add_key(service: Running, body: KeyAdd) -> SlotChange:
    """Let one more key open the vault. No data is rewritten, and the answer holds no secret."""
    return service.upkeep.add_slot(body.kind, body.secret.get_secret_value())


@router.delete("/vault/keys/{slot}", responses=_NOT_FOUND_OR_CONFLICT)
def remove_key(service: Running, slot: str, dry_run: bool = False) -> SlotChange:
    """Take a key away, unless `dry_run=true`. 409 `vault.last-key` for the only one, and
    `vault.key-in-use` for the server's own. Whoever has a copy of the vault from before can still
    open that copy with it."""
    return service.upkeep.remove_slot(slot, dry_run=dry_run)


@router.post("/vault/keys/rotate", responses=_CONFLICT | example(200, "slots"))
def rotate_key(service: Running, dry_run: bool = False) -> SlotChange:
    """Make a new key for the server, in its key file, and take the old one away."""
    return service.upkeep.rotate(dry_run=dry_run)


# --- Copies


@router.post("/vault/copy-plan", responses=_NOT_FOUND_OR_CONFLICT | example(200, "copy-plan"))
def plan_copy(service: Running, body: CopyStart) -> CopyView:
    """What a copy to there would carry now. Nothing is written."""
    return service.upkeep.plan_copy(body.request())


@router.post("/vault/copies", status_code=202, responses=_NOT_FOUND_OR_CONFLICT)
def copy_vault(service: Running, body: CopyStart) -> Job:
    """Start a copy job. It sends only what is missing there, and goes on where one was stopped."""
    return service.jobs.start_copy(body.request())


# --- Clearing up


@router.post("/vault/prune", responses=problem_responses(HTTPStatus.NOT_FOUND))
def prune_vault(
    service: Running,
    vm: Annotated[list[str] | None, Query(max_length=1000)] = None,
    dry_run: bool = False,
    body: PruneStart | None = None,
) -> tuple[VmPrune, ...]:
    """Apply the rules of the policies now, to these VMs or to all that are protected: the plans,
    executed unless `dry_run=true`. With `points`, none but those go."""
    points = None if body is None else body.points
    shown = None if points is None else frozenset(points)
    return service.upkeep.prune(tuple(vm or ()), shown, dry_run=dry_run)


@router.get("/vault/garbage", responses=example(200, "garbage"))
def show_garbage(service: Running) -> CollectView:
    """What a garbage collection would do now."""
    return service.upkeep.plan_collect()


@router.post("/vault/gc", status_code=202, responses=_CONFLICT)
def collect_garbage(service: Running, body: CollectStart | None = None) -> Job:
    """Start a garbage collection. Nothing is deleted that was marked less than a day ago, and with
    `marks`, nothing but what they name."""
    return service.jobs.start_collect(None if body is None else body.request())


@router.get("/vault/rebuild-plan")
def plan_rebuild(service: Running) -> RebuildPlan:
    """What making the index anew would read, write and replace now. Nothing is written."""
    return service.upkeep.plan_rebuild()


@router.post("/vault/rebuild-index", status_code=202, responses=_CONFLICT)
def rebuild_index(service: Running) -> Job:
    """Start a job that makes the index anew from the packs. Backups and restores go on."""
    return service.jobs.start_rebuild()
