"""Bad luck, made to order: single misfortunes, and the table of all that a diagnosis must name."""

from quiesce.lab.faults.misfortunes import (
    corrupt_extension,
    full_disk,
    hang_agent,
    kill_qemu,
    kill_waagent,
    pause,
    power_off,
    remove_extension,
    remove_qmp_socket,
    renew_lease,
    reset,
    resume,
    right_clock,
    silence_option_245,
    skew_clock,
    stop_agent,
)

__all__ = [
    "corrupt_extension",
    "full_disk",
    "hang_agent",
    "kill_qemu",
    "kill_waagent",
    "pause",
    "power_off",
    "remove_extension",
    "remove_qmp_socket",
    "renew_lease",
    "reset",
    "resume",
    "right_clock",
    "silence_option_245",
    "skew_clock",
    "stop_agent",
]
