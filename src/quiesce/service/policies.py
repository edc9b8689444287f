"""The table of policies."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import time
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import sqlalchemy as sa

from quiesce.model.failure import Evidence, InputFailure, NotFoundFailure, PolicyFailure
from quiesce.model.policy import LEAST_BANDWIDTH, LEVELS, Policy, Retention
from quiesce.model.units import rate_text
from quiesce.service.codec import from_json, to_json
from quiesce.service.database import Database, policies, protection
from quiesce.service.names import valid_name
from quiesce.service.views import PolicyView

FIRST_POLICY = PolicyView(
    name="daily",
    at="01:00",
    zone="UTC",
    keep_last=7,
    keep_daily=30,
    snapshot=Policy("", None, ZoneInfo("UTC")).snapshot,
    compression_level=1,
)
"""Made with a new database, so that a VM can be protected without further ado."""


class Policies:
    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> tuple[PolicyView, ...]:
        """By name."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(policies).order_by(policies.c.name)).all()
            users: dict[str, list[str]] = {}
            for vm, policy in connection.execute(
                sa.select(protection.c.vm, protection.c.policy).order_by(protection.c.vm)
            ):
                users.setdefault(policy, []).append(vm)
        return tuple(_view(from_json(Policy, row.rules), users.get(row.name, ())) for row in rows)

    def show(self, name: str) -> PolicyView:
        """:raise NotFoundFailure: policy.not-found"""
        policy = self.policy(name)
        with self._database.read() as connection:
            vms = connection.scalars(
                sa.select(protection.c.vm)
                .where(protection.c.policy == policy.name)
                .order_by(protection.c.vm)
            ).all()
        return _view(policy, vms)

    def policy(self, name: str) -> Policy:
        """:raise NotFoundFailure: policy.not-found"""
        with self._database.read() as connection:
            rules = connection.scalar(
                sa.select(policies.c.rules).where(policies.c.name == valid_name("policy", name))
            )
        if rules is None:
            raise _not_found(name)
        return from_json(Policy, rules)

    def add(self, wanted: PolicyView) -> PolicyView:
        """
        :raise InputFailure: input.name-invalid, input.zone-unknown, input.time-invalid,
            input.bandwidth-invalid, input.level-invalid
        :raise PolicyFailure: policy.already-exists
        """
        policy = _policy(wanted)
        with self._database.write() as connection:
            taken = connection.scalar(
                sa.select(policies.c.name).where(policies.c.name == policy.name)
            )
            if taken is not None:
                raise PolicyFailure(
                    "policy.already-exists", f"There is a policy {policy.name} already."
                )
            connection.execute(sa.insert(policies).values(name=policy.name, rules=to_json(policy)))
        return _view(policy, ())

    def change(self, wanted: PolicyView) -> PolicyView:
        """Replace the rules of the policy of this name. Runs missed so far stay due.

        :raise NotFoundFailure: policy.not-found
        :raise InputFailure: input.zone-unknown, input.time-invalid, input.bandwidth-invalid,
            input.level-invalid
        """
        policy = _policy(wanted)
        with self._database.write() as connection:
            done = connection.execute(
                sa.update(policies)
                .where(policies.c.name == policy.name)
                .values(rules=to_json(policy))
            )
            if not done.rowcount:
                raise _not_found(wanted.name)
        return self.show(policy.name)

    def remove(self, name: str) -> None:
        """
        :raise NotFoundFailure: policy.not-found
        :raise PolicyFailure: policy.in-use
        """
        view = self.show(name)
        with self._database.write() as connection:
            used = connection.scalar(
                sa.select(sa.func.count())
                .select_from(protection)
                .where(protection.c.policy == view.name)
            )
            if used:
                raise PolicyFailure(
                    "policy.in-use",
                    f"The policy {view.name} protects {used} VM(s).",
                    evidence=[Evidence(f"protects {vm}", "protection") for vm in view.vms[:20]],
                    remedy="Protect them by another policy first.",
                )
            connection.execute(sa.delete(policies).where(policies.c.name == view.name))


def _policy(view: PolicyView) -> Policy:
    name = valid_name("policy", view.name)
    try:
        zone = ZoneInfo(view.zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as unknown:
        raise InputFailure(
            "input.zone-unknown",
            f"There is no time zone {view.zone!r}.",
            evidence=[Evidence("not in the time zone database", "request", raw=view.zone)],
            remedy="Use an IANA name such as Europe/Berlin or UTC.",
        ) from unknown
    try:
        at = None if view.at is None else time.fromisoformat(view.at)
    except ValueError as wrong:
        raise InputFailure(
            "input.time-invalid", f"{view.at!r} is not a time of day such as 02:30."
        ) from wrong
    if 0 != view.bandwidth < LEAST_BANDWIDTH:
        raise InputFailure(
            "input.bandwidth-invalid",
            f"A backup cannot be limited to {view.bandwidth} bytes a second.",
            remedy=f"Allow {rate_text(LEAST_BANDWIDTH)} or more; 0 means no limit.",
        )
    if view.compression_level not in LEVELS:
        raise InputFailure(
            "input.level-invalid",
            f"There is no compression level {view.compression_level}.",
            remedy=f"Choose {LEVELS[0]} (fastest) to {LEVELS[-1]} (smallest).",
        )
    return Policy(
        name=name,
        at=at,
        zone=zone,
        retention=Retention(view.keep_last, view.keep_daily),
        snapshot=view.snapshot,
        compression_level=view.compression_level,
        mends_off=tuple(dict.fromkeys(view.mends_off)),
        bandwidth=view.bandwidth,
        audit=view.audit,
    )


def _view(policy: Policy, vms: Iterable[str]) -> PolicyView:
    return PolicyView(
        name=policy.name,
        at=None if policy.at is None else policy.at.isoformat(timespec="minutes"),
        zone=policy.zone.key,
        keep_last=policy.retention.keep_last,
        keep_daily=policy.retention.keep_daily,
        snapshot=policy.snapshot,
        compression_level=policy.compression_level,
        vms=tuple(vms),
        mends_off=policy.mends_off,
        bandwidth=policy.bandwidth,
        audit=policy.audit,
    )


def _not_found(name: str) -> NotFoundFailure:
    return NotFoundFailure("policy.not-found", f"There is no policy {name!r}.")
