"""The numbers and names with which Azure's backup extension ends, as codes of ours (Azure's
azure-linux-extensions, VMBackup/main/ExtensionErrorCodeHelper.py)."""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAMED = re.compile(r"StatusCode\.(\w+)")
CODES: Mapping[int, str] = {
    2: "snapshot.failed",
    11: "extension.settings-invalid",
    15: "storage.endpoint-refused",
    16: "agent.certificate",
    76: "network.connect-timeout",
    85: "storage.snapshot-limit",
    121: "freeze.failed",
    122: "freeze.timeout",
    123: "freeze.mount-unavailable",
    173: "storage.rate-limit",
    300: "script.pre-failed",
    301: "script.post-failed",
    **dict.fromkeys((302, 303, 313, 316), "script.not-found"),
    **dict.fromkeys((304, 305, 312), "script.config-invalid"),
    **dict.fromkeys((306, 307, 314, 315, 317, 318), "script.permissions"),
    **dict.fromkeys((308, 309, 310, 311), "script.timeout"),
    402: "job.stale-command",
    761: "storage.endpoint-refused",
}
"""Azure's numbers. 76 says only that the snapshot's request got no answer."""
_NAMES: Mapping[str, int] = {
    "FailedHandlerGuestAgentCertificateNotFound": 16,
    "FailedRetryableSnapshotFailedNoNetwork": 76,
    "FailedSnapshotLimitReached": 85,
    "FailedRetryableFsFreezeFailed": 121,
    "FailedRetryableFsFreezeTimeout": 122,
    "FailedRetryableUnableToOpenMount": 123,
    "FailedRetryableSnapshotRateExceeded": 173,
    "FailedPrepostPreScriptFailed": 300,
    "FailedPrepostPostScriptFailed": 301,
    "FailedPrepostPreScriptNotFound": 302,
    "FailedPrepostPluginConfigParsing": 305,
    "FailedPrepostPreScriptPermissionError": 306,
    "FailedPrepostPreScriptTimeout": 308,
    "FailedRetryableSnapshotFailedRestrictedNetwork": 761,
    "FailedGuestAgentInvokedCommandTooLate": 402,
    "error_http_failure": 15,
    "error": 2,
}


def number_named(text: str) -> int | None:
    """The number of the last `StatusCode.NAME`; None for a success and for none."""
    names = _NAMED.findall(text)
    return _NAMES.get(names[-1]) if names else None
