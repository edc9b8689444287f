"""The calls of `/api/v1`. Each one is a line: the work is the service's."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request

import quiesce
from quiesce.api.answers import Allowlist, Health
from quiesce.api.examples import example
from quiesce.api.problem import problem_responses
from quiesce.api.requests import (
    PolicyAdd,
    PolicyBody,
    Protect,
    RestoreStart,
    VmAdd,
    VmPatch,
)
from quiesce.api.security import caller_is_allowed
from quiesce.diagnosis.allowlist import AllowlistFormat, allowlist
from quiesce.diagnosis.explain import Explanation
from quiesce.model.job import Job
from quiesce.model.network import NetworkReport
from quiesce.model.point import RecoveryPoint
from quiesce.service.requests import RestoreRequest
from quiesce.service.service import Service
from quiesce.service.views import (
    DeletionPlan,
    ExtensionView,
    Need,
    PolicyView,
    VmView,
)

_NOT_FOUND = HTTPStatus.NOT_FOUND
_CONFLICT = HTTPStatus.CONFLICT
_BAD_GATEWAY = HTTPStatus.BAD_GATEWAY

open_router = APIRouter()
router = APIRouter(
    dependencies=[Depends(caller_is_allowed)],
    responses=problem_responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY),
)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Running = Annotated[Service, Depends(_service)]
Channel = Literal["qga", "waagent"]
"""Through which of a VM's agents."""


@open_router.get("/health", tags=["server"])
def health(service: Running) -> Health:
    """Whether the server runs, and its version. Needs no token."""
    return Health(status=service.health(), version=quiesce.__version__)


# --- VMs


@router.get("/vms", tags=["vms"])
def list_vms(service: Running) -> tuple[VmView, ...]:
    """All VMs by name, as they were last seen; none of them is asked."""
    return service.vms.all()


@router.post(
    "/vms",
    status_code=201,
    tags=["vms"],
    responses=problem_responses(_CONFLICT) | example(201, "vm"),
)
def add_vm(service: Running, body: VmAdd) -> VmView:
    """Make a VM known. It need not run now."""
    return service.vms.add(body.address())


@router.get(
    "/vms/{name}",
    tags=["vms"],
    responses=problem_responses(_NOT_FOUND) | example(200, "vm"),
)
def show_vm(service: Running, name: str) -> VmView:
    """One VM, asked now for its power state and disks; `problem` says why it did not answer."""
    return service.vms.show(name)


@router.delete(
    "/vms/{name}",
    status_code=204,
    tags=["vms"],
    responses=problem_responses(_NOT_FOUND, _CONFLICT),
)
def remove_vm(service: Running, name: str) -> None:
    """Forget a VM. Its recovery points stay."""
    service.vms.remove(name)


@router.put("/vms/{name}/protection", tags=["vms"], responses=problem_responses(_NOT_FOUND))
def protect_vm(service: Running, name: str, body: Protect) -> VmView:
    """Protect a VM by a policy, in place of any other."""
    return service.vms.protect(name, body.policy)


@router.delete(
    "/vms/{name}/protection",
    status_code=204,
    tags=["vms"],
    responses=problem_responses(_NOT_FOUND),
)
def stop_protection(service: Running, name: str) -> None:
    """Stop protecting a VM. Its points stay, and no rule removes them any more."""
    service.vms.stop_protection(name)


@router.post(
    "/vms/{name}/backup",
    status_code=202,
    tags=["vms"],
    responses=problem_responses(_NOT_FOUND, _CONFLICT) | example(202, "job"),
)
def back_up(service: Running, name: str) -> Job:
    """Start a backup now. 409 `policy.in-progress` while another one of this VM is active."""
    return service.jobs.start_backup(name)


@router.patch(
    "/vms/{name}",
    tags=["vms"],
    responses=problem_responses(_NOT_FOUND, _CONFLICT) | example(200, "vm"),
)
def change_vm(service: Running, name: str, body: VmPatch) -> VmView:
    """Change how a VM is reached; what is not said stays."""
    return service.vms.change(name, body.change())


# --- What is in the guest, and its way out


@router.get(
    "/vms/{name}/extensions",
    tags=["guests"],
    responses=problem_responses(_NOT_FOUND) | example(200, "extensions"),
)
def list_extensions(service: Running, name: str) -> tuple[ExtensionView, ...]:
    """The extension in the guest as each agent of the VM shows it: the QEMU guest agent is asked
    now, the Azure Linux agent has said it last. `problem` says why one could not be asked."""
    return service.vms.extensions(name)


@router.delete(
    "/vms/{name}/extensions",
    status_code=204,
    tags=["guests"],
    responses=problem_responses(_NOT_FOUND, _CONFLICT, _BAD_GATEWAY),
)
def uninstall_extension(service: Running, name: str, channel: Channel | None = None) -> None:
    """Remove the extension from the guest, through one agent or each that the VM has; the next
    backup installs it again. Answers when the guest says that it is gone, which may take minutes.
    """
    service.vms.uninstall_extension(name, channel)


@router.post(
    "/vms/{name}/extensions/reinstall",
    tags=["guests"],
    responses=problem_responses(_NOT_FOUND, _CONFLICT, _BAD_GATEWAY) | example(200, "extensions"),
)
def reinstall_extension(
    service: Running, name: str, channel: Channel | None = None
) -> tuple[ExtensionView, ...]:
    """Remove the extension and install the server's version anew. Answers when the guest says that
    it is there, which may take minutes."""
    service.vms.reinstall_extension(name, channel)
    return service.vms.extensions(name)


@router.post(
    "/vms/{name}/network-test",
    tags=["guests"],
    responses=problem_responses(_NOT_FOUND, _CONFLICT, _BAD_GATEWAY) | example(200, "network"),
)
def probe_network(service: Running, name: str, channel: Channel | None = None) -> NetworkReport:
    """Probe the way to the storage endpoint from inside the guest. A hop that fails is an answer
    (`failure`), and not an error of this call."""
    return service.network.test(name, channel)


@router.get(
    "/vms/{name}/network-needs",
    tags=["guests"],
    responses=problem_responses(_NOT_FOUND, _CONFLICT) | example(200, "needs"),
)
def show_network_needs(service: Running, name: str) -> tuple[Need, ...]:
    """What the guest must be able to reach; nothing for a VM whose agent needs no network."""
    return service.network.needs(name)


@router.get(
    "/vms/{name}/allowlist",
    tags=["guests"],
    responses=problem_responses(_NOT_FOUND, _CONFLICT) | example(200, "allowlist"),
)
def show_allowlist(
    service: Running,
    name: str,
    format: AllowlistFormat = AllowlistFormat.TEXT,  # noqa: A002 - the name in the URL
) -> Allowlist:
    """The same as commands for a firewall; `nsg` is a network security group of Azure, `text` a
    list for people. They are only told, not run."""
    return Allowlist(format=format, text=allowlist(service.network.needs(name), format))


# --- Jobs


@router.get("/jobs", tags=["jobs"])
def list_jobs(
    service: Running,
    vm: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> tuple[Job, ...]:
    """Newest first, without their log lines."""
    return service.jobs.newest(vm=vm, limit=limit)


@router.get(
    "/jobs/{job_id}",
    tags=["jobs"],
    responses=problem_responses(_NOT_FOUND) | example(200, "job"),
)
def show_job(service: Running, job_id: str) -> Job:
    """One job with its tasks, live progress, log and, when it failed, the failure."""
    return service.jobs.get(job_id)


@router.post(
    "/jobs/{job_id}/cancel",
    status_code=202,
    tags=["jobs"],
    responses=problem_responses(_NOT_FOUND, _CONFLICT),
)
def cancel_job(service: Running, job_id: str) -> Job:
    """Ask a job to end. It ends when it has done what it has in hand, mostly within a second, and
    leaves nothing behind."""
    return service.jobs.cancel(job_id)


# --- Recovery points


@router.get("/points", tags=["points"])
def list_points(service: Running, vm: str | None = None) -> tuple[RecoveryPoint, ...]:
    """Newest first."""
    return service.points.all(vm=vm)


@router.get(
    "/points/{point_id}",
    tags=["points"],
    responses=problem_responses(_NOT_FOUND) | example(200, "point"),
)
def show_point(service: Running, point_id: str) -> RecoveryPoint:
    """One recovery point."""
    return service.points.get(point_id)


@router.delete(
    "/points/{point_id}", tags=["points"], responses=problem_responses(_NOT_FOUND, _CONFLICT)
)
def delete_point(service: Running, point_id: str, dry_run: bool = False) -> DeletionPlan:
    """The deletion plan, executed unless `dry_run=true`."""
    return service.points.delete(point_id, dry_run=dry_run)


@router.post(
    "/restores",
    status_code=202,
    tags=["points"],
    responses=problem_responses(_NOT_FOUND, _CONFLICT) | example(202, "restore"),
)
def restore(service: Running, body: RestoreStart) -> Job:
    """Write disks of a point to files on the server's host."""
    return service.jobs.start_restore(
        RestoreRequest(
            point_id=body.point,
            to=body.to,
            disks=None if body.disks is None else tuple(body.disks),
            format=body.format,
            overwrite=body.overwrite,
            folder=body.folder,
            salvage=body.salvage,
        )
    )


# --- Policies


@router.get("/policies", tags=["policies"])
def list_policies(service: Running) -> tuple[PolicyView, ...]:
    """All policies by name."""
    return service.policies.all()


@router.post(
    "/policies", status_code=201, tags=["policies"], responses=problem_responses(_CONFLICT)
)
def add_policy(service: Running, body: PolicyAdd) -> PolicyView:
    """Make a policy."""
    return service.policies.add(_policy_view(body.name, body))


@router.get("/policies/{name}", tags=["policies"], responses=problem_responses(_NOT_FOUND))
def show_policy(service: Running, name: str) -> PolicyView:
    """One policy with the VMs it protects."""
    return service.policies.show(name)


@router.put("/policies/{name}", tags=["policies"], responses=problem_responses(_NOT_FOUND))
def change_policy(service: Running, name: str, body: PolicyBody) -> PolicyView:
    """Replace a policy's rules."""
    return service.policies.change(_policy_view(name, body))


@router.delete(
    "/policies/{name}",
    status_code=204,
    tags=["policies"],
    responses=problem_responses(_NOT_FOUND, _CONFLICT),
)
def remove_policy(service: Running, name: str) -> None:
    """Remove a policy that protects no VM."""
    service.policies.remove(name)


def _policy_view(name: str, body: PolicyBody) -> PolicyView:
    return PolicyView(
        name=name,
        at=body.at,
        zone=body.zone,
        keep_last=body.keep_last,
        keep_daily=body.keep_daily,
        snapshot=body.snapshot.options(),
        compression_level=body.compression_level,
        mends_off=tuple(body.mends_off),
        bandwidth=body.bandwidth,
        audit=body.audit,
    )


# --- Failures


@router.get("/failures/{code}", tags=["failures"], responses=problem_responses(_NOT_FOUND))
def explain_failure(service: Running, code: str) -> Explanation:
    """What a failure code means and what mends it."""
    return service.explain(code)
