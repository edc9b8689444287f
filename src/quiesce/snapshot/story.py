"""What a snapshot tells the job's log, the same words on both routes."""

from __future__ import annotations

from quiesce.model.extension import Readiness
from quiesce.model.failure import Failure
from quiesce.model.snapshot import Consistency, ConsistencyLabel, FreezeReport
from quiesce.snapshot.ports import Log


def reason_of(failure: Failure | None) -> str:
    """A failure as a label's reason: its code and its sentence."""
    return f"{failure.code}: {failure.message}" if failure else ""


def crash_warning(label: ConsistencyLabel, log: Log) -> tuple[str, ...]:
    """The warning that a crash-consistent point is worth, logged; none for a better one."""
    if label.level is not Consistency.CRASH:
        return ()
    warning = f"The point is only crash-consistent: {label.reason}"
    log("warning", warning)
    return (warning,)


def described(readiness: Readiness) -> str:
    planned = [mount.mount for mount in readiness.mounts if not mount.skipped]
    script = readiness.pre_script
    ran = f"; pre-script {script.path} took {script.seconds:.1f} s" if script else ""
    return f"The guest is ready to freeze {', '.join(planned) or 'nothing'}{ran}."


def log_freeze(freeze: FreezeReport, log: Log) -> None:
    for mount in freeze.mounts:
        if not mount.skipped:
            log(
                "info",
                f"{mount.mount} ({mount.file_system}) froze in {mount.freeze_ms:.1f} ms "
                f"and was held for {mount.frozen_ms:.0f} ms.",
            )
        elif mount.downgrades:
            log("warning", f"{mount.mount} was not frozen: {mount.skipped}")
