"""One VM: its state, agent, points, extension, network and jobs."""

from __future__ import annotations

from nicegui import ui

from quiesce.diagnosis.phrases import AGENTS, goal_words, proxy_words
from quiesce.model.agent import AgentState
from quiesce.model.damage import DamageReport
from quiesce.model.failure import Failure
from quiesce.model.policy import SnapshotOptions
from quiesce.model.units import size_text
from quiesce.portal.doctor_card import DoctorCard
from quiesce.portal.extension_card import ExtensionCard
from quiesce.portal.failure_card import failure_html
from quiesce.portal.frame import (
    ask,
    attempt,
    button,
    card,
    chip,
    empty,
    fact,
    heading,
    html,
    page_frame,
    set_chip,
    show_failure,
)
from quiesce.portal.network_card import NetworkCard
from quiesce.portal.policy_dialog import policy_dialog
from quiesce.portal.restore_dialog import restore_dialog
from quiesce.portal.sessions import Session
from quiesce.portal.tables import (
    JOB_COLUMNS,
    POINT_COLUMNS,
    job_row,
    paged_table,
    point_row,
    refresh,
)
from quiesce.portal.words import job_link, mending_words, route_words, when
from quiesce.service.service import Service
from quiesce.service.views import PolicyView, VmView

_REFRESH_SECONDS = 2.0
_NO_POLICY = "None – on demand only"
_NEWEST_JOBS = 100
_JOB_COLUMNS = tuple(column for column in JOB_COLUMNS if column[0] != "vm")


async def vm_page(service: Service, session: Session, name: str) -> None:
    """The page of one VM. It opens with what was last seen; the VM itself is asked meanwhile."""
    vm = await ask(lambda: _known(service, name))
    with page_frame(session):
        if isinstance(vm, Failure):
            show_failure(vm.report())
            return
        await _Page(service, vm).build()


def _known(service: Service, name: str) -> VmView:
    """The VM as it was last seen, without waiting for it.

    :raise NotFoundFailure: vm.unknown
    """
    for vm in service.vms.all():
        if vm.name == name:
            return vm
    return service.vms.show(name)


class _Page:
    def __init__(self, service: Service, vm: VmView) -> None:
        self._service = service
        self._vm = vm
        self._name = vm.name
        self._damage: DamageReport | None = None

    async def build(self) -> None:
        ui.link("VMs", "/").classes("crumb")
        with ui.row().classes("items-center justify-between full-width"):
            with ui.row().classes("items-center gap-3"):
                heading(self._name)
                self._power = chip(str(self._vm.power or "never seen"))
            self._back_up = button("Back up now", self._start_backup, main=True)
        self._problem = ui.element("div").classes("full-width")
        await self._state_card()
        await self._points_card()
        self._extension = ExtensionCard(self._service, self._name)
        DoctorCard(self._service, self._name)
        NetworkCard(self._service, self._name)
        await self._jobs_card()
        ui.timer(0.1, self._look, once=True)
        ui.timer(_REFRESH_SECONDS, self._fresh)

    async def _state_card(self) -> None:
        policies = await ask(self._service.policies.all)
        known = () if isinstance(policies, Failure) else policies
        self._policies = {policy.name: policy for policy in known}
        with card(), ui.element("div").classes("card-body facts"):
            with ui.element("div").classes("fact"):
                ui.label("Policy")
                ui.select(
                    [_NO_POLICY, *self._policies],
                    value=self._vm.policy or _NO_POLICY,
                    on_change=lambda event: self._protect(event.value),
                ).props("dense borderless options-dense aria-label=Policy")
            self._next_run = fact("Next backup", when(self._vm.next_run))
            self._route = fact("Route", self._route_of(self._vm))
            self._mending = fact("Mends by itself", self._mending_of(self._vm))
            with ui.element("div").classes("fact"):
                ui.label("Rules")
                self._rules = button("Change …", self._change_policy).classes("small self-start")
                self._rules.set_visibility(bool(self._vm.policy))
            self._agent = fact("Agent", AGENTS[self._vm.agent])
            self._hypervisor = fact("Hypervisor", self._vm.hypervisor or "–")
            self._seen = fact("Seen", when(self._vm.seen_at, seconds=True))
            proxy = self._vm.proxy
            if proxy is not None:
                fact("Proxy", proxy_words(proxy.http, proxy.https, proxy.no_proxy))
            self._disks = fact("Disks", _disks(self._vm), wide=True)
        self._agent_card()

    def _agent_card(self) -> None:
        """What the Azure Linux agent has said last; not there for a VM without."""
        with ui.element("section").classes("card") as self._agent_box:
            with ui.element("div").classes("card-head"):
                heading(AGENTS["waagent"], 2)
                self._condition = chip("never seen")
            with ui.element("div").classes("card-body facts"):
                self._agent_facts = {
                    name: fact(name, "–")
                    for name in ("Version", "Guest", "Last seen", "Goal state", "Extensions")
                }
        self._show_agent(self._vm.agent_state)

    async def _points_card(self) -> None:
        points = await ask(lambda: self._service.points.all(vm=self._name))
        self._points = () if isinstance(points, Failure) else points
        with card("Recovery points"):
            if isinstance(points, Failure):
                html(failure_html(points.report()))
            elif not points:
                empty("No recovery point yet", "Press “Back up now” to make the first one.")
            self._points_table = paged_table(
                POINT_COLUMNS,
                self._point_rows(),
                on_act=self._restore,
                page_rows=10,
            )
            self._points_table.set_visibility(bool(self._points))

    async def _jobs_card(self) -> None:
        jobs = await self._jobs()
        with card("Jobs"):
            self._no_jobs = ui.label("No job has run yet.").classes("empty full-width")
            self._jobs_table = paged_table(_JOB_COLUMNS, jobs, page_rows=10)
            self._no_jobs.set_visibility(not jobs)
            self._jobs_table.set_visibility(bool(jobs))

    async def _jobs(self) -> list[dict[str, object]]:
        jobs = await ask(lambda: self._service.jobs.newest(vm=self._name, limit=_NEWEST_JOBS))
        return [] if isinstance(jobs, Failure) else [job_row(job) for job in jobs]

    # --- kept fresh

    async def _look(self) -> None:
        """Ask the VM and its agent once, after the page is there: either may take seconds."""
        vm = await ask(lambda: self._service.vms.show(self._name))
        if not isinstance(vm, Failure):
            self._show(vm)
            with self._problem:
                for problem in (vm.problem, vm.agent_problem):
                    if problem:
                        html(failure_html(problem), "section").classes("card failure")
        await self._look_for_damage()
        await self._extension.look()

    async def _look_for_damage(self) -> None:
        """While there is damage, the vault's maps are read for it: that may take seconds."""
        refresh(self._points_table, self._point_rows())
        damage = await ask(self._service.points.damage)
        if not isinstance(damage, Failure):
            self._damage = damage
            refresh(self._points_table, self._point_rows())

    def _point_rows(self) -> list[dict[str, object]]:
        return [point_row(point, self._damage) for point in self._points]

    async def _fresh(self) -> None:
        vm = await ask(lambda: _known(self._service, self._name))
        if isinstance(vm, Failure):
            return
        before = (self._vm.point_count, self._vm.active_job, self._vm.last_job)
        self._show(vm)
        if before != (vm.point_count, vm.active_job, vm.last_job):
            points = await ask(lambda: self._service.points.all(vm=self._name))
            if not isinstance(points, Failure):
                self._points = points
                self._points_table.set_visibility(bool(points))
            await self._look_for_damage()
            rows = await self._jobs()
            refresh(self._jobs_table, rows)
            self._jobs_table.set_visibility(bool(rows))
            self._no_jobs.set_visibility(not rows)

    def _show(self, vm: VmView) -> None:
        self._vm = vm
        set_chip(self._power, str(vm.power or "never seen"))
        self._back_up.set_enabled(not vm.active_job)
        self._next_run.text = when(vm.next_run)
        self._hypervisor.text = vm.hypervisor or "–"
        self._seen.text = when(vm.seen_at, seconds=True)
        self._disks.text = _disks(vm)
        self._agent.text = AGENTS[vm.agent]
        self._route.text = self._route_of(vm)
        self._mending.text = self._mending_of(vm)
        self._rules.set_visibility(bool(vm.policy))
        self._show_agent(vm.agent_state)

    def _show_agent(self, state: AgentState | None) -> None:
        self._agent_box.set_visibility(state is not None)
        if state is None:
            return
        set_chip(self._condition, str(state.condition))
        words = {
            "Version": state.version,
            "Guest": state.operating_system,
            "Last seen": when(state.last_seen, seconds=True),
            "Goal state": goal_words(state.goal_incarnation, state.acknowledged_incarnation),
            "Extensions": ", ".join(
                f"{each.name} {each.version} {each.status}" for each in state.handlers
            ),
        }
        for name, text in words.items():
            self._agent_facts[name].text = text or "–"

    def _route_of(self, vm: VmView) -> str:
        policy = self._policies.get(vm.policy or "")
        return route_words((policy.snapshot if policy else SnapshotOptions()).route, vm.agent)

    def _mending_of(self, vm: VmView) -> str:
        policy = self._policies.get(vm.policy or "")
        return mending_words(policy.mends_off if policy else ())

    # --- what buttons do

    async def _start_backup(self) -> None:
        job = await attempt(lambda: self._service.jobs.start_backup(self._name))
        if job is not None:
            ui.navigate.to(job_link(job.id))

    async def _protect(self, policy: str) -> None:
        if policy == _NO_POLICY:
            await attempt(lambda: self._service.vms.stop_protection(self._name))
        else:
            await attempt(lambda: self._service.vms.protect(self._name, policy))

    async def _change_policy(self) -> None:
        def changed(policy: PolicyView) -> None:
            self._policies[policy.name] = policy
            self._show(self._vm)

        name = self._vm.policy or ""
        policy = await attempt(lambda: self._service.policies.show(name))
        if policy is not None:
            with self._problem:
                policy_dialog(self._service, policy, changed)

    def _restore(self, point_id: str) -> None:
        for point in self._points:
            if point.id == point_id:
                health = self._damage.of_point(point_id) if self._damage else None
                restore_dialog(self._service, point, health)


def _disks(vm: VmView) -> str:
    return (
        ", ".join(f"{disk.name} {size_text(disk.size_bytes)} {disk.format}" for disk in vm.disks)
        or "–"
    )
