"""What waagent.log says; its lines are those of WALinuxAgent 2.2 to 2.16."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from guest_papers import LOG_OF_GOOD_AGENT, facts, paper, value

LOG = "/var/log/waagent.log"
AT = "2026-11-23T02:20:00.000000Z"


def says(*lines: str, good: str = LOG_OF_GOOD_AGENT) -> object:
    return value("waagent.says", paper(LOG, good + "\n".join(lines) + "\n"))


def failed(handler: str, op: str, words: str) -> str:
    message = f"Event: name={handler}, op={op}, message={words}, duration=0"
    return f"{AT} ERROR ExtHandler ExtHandler {message}"


def test_a_good_agents_log_names_version_host_and_no_trouble() -> None:
    found = facts(paper(LOG, LOG_OF_GOOD_AGENT))
    assert found["waagent.version"].value == "2.7.3.0"
    assert found["waagent.outdated"].value is False
    assert found["net.host-address"].value == "168.63.129.16"
    assert found["net.host-address"].observed_at == datetime(2026, 11, 23, 2, 10, 2, tzinfo=UTC)
    assert found["waagent.says"].value == "nothing"
    assert found["waagent.log-age-seconds"].value == 20 * 60 - 6


def test_without_the_time_of_the_collection_the_logs_age_is_unknown() -> None:
    assert value("waagent.log-age-seconds", paper(LOG, LOG_OF_GOOD_AGENT), taken_at=None) is None


@pytest.mark.parametrize(
    ("version", "old"), [("2.2.45", True), ("2.2.53.1", False), ("2.16.0.2", False)]
)
def test_an_agent_older_than_what_quiesce_needs(version: str, old: bool) -> None:
    line = f"2018/03/05 14:31:57.742721 INFO Azure Linux Agent Version:{version}\n"
    assert value("waagent.outdated", paper(LOG, line)) is old


@pytest.mark.parametrize(
    ("trouble", "line"),
    [
        (
            "no-host",
            f"{AT} WARNING ExtHandler ExtHandler An error occurred while retrieving the goal "
            "state: [ProtocolError] [Wireserver Exception] [HttpError] [HTTP Failed] GET "
            "http://168.63.129.16/machine/ -- IOError timed out -- 6 attempts made",
        ),
        ("no-host", f"{AT} INFO Daemon Daemon WireServer is not responding. Reset dhcp endpoint"),
        (
            "no-option-245",
            f"{AT} INFO Daemon Daemon Protocol endpoint not found: [ProtocolError] WireProtocol "
            "endpoint is None",
        ),
        (
            "host-refused",
            f"{AT} WARNING ExtHandler ExtHandler [HTTP Failed] [410: Gone] b'gone'",
        ),
        (
            "proxy",
            f"{AT} WARNING ExtHandler ExtHandler [HTTP Failed] GET https://x -- IOError Tunnel "
            "connection failed: 407 Proxy Authentication Required -- 3 attempts made",
        ),
        (
            "no-space",
            f"{AT} ERROR ExtHandler ExtHandler Failed to save handler status: [Errno 28] No space "
            "left on device: '/var/lib/waagent/x'",
        ),
        (
            "certificate",
            f"{AT} ERROR ExtHandler ExtHandler Failed to decrypt /var/lib/waagent/Certificates.p7m "
            "(return code: 2)",
        ),
        ("crash", f"{AT} WARNING Daemon Daemon Daemon ended with exception -- Sleep 15 seconds"),
        (
            "extensions-disabled",
            f"{AT} INFO ExtHandler ExtHandler ******** Extensions.Enabled is set to False, not "
            "processing the operation ********",
        ),
        (
            "package-corrupt",
            f"{AT} INFO ExtHandler ExtHandler Error while unzipping extension package: File is not "
            "a zip file",
        ),
        (
            "download-failed",
            failed("Quiesce.VmBackup", "Download", "Failed to download artifacts: [Ext…] no"),
        ),
        (
            "manifest-invalid",
            failed("Quiesce.VmBackup", "Install", "[ExtensionError] Malformed manifest file (x)."),
        ),
        (
            "install-failed",
            failed(
                "Quiesce.VmBackup",
                "Install",
                "[ExtensionOperationError] Non-zero exit code: 52, handler.sh install",
            ),
        ),
        (
            "enable-failed",
            failed(
                "Microsoft.Azure.RecoveryServices.VMSnapshotLinux",
                "Enable",
                "[ExtensionOperationError] Non-zero exit code: 1, main/handle.sh enable",
            ),
        ),
        (
            "update-failed",
            failed("Quiesce.VmBackup", "Update", "[ExtensionOperationError] Non-zero exit code: 3"),
        ),
        (
            "extension-timeout",
            failed(
                "Quiesce.VmBackup", "Enable", "[ExtensionError] Timeout(300): handler.sh enable"
            ),
        ),
    ],
)
def test_the_trouble_that_the_newest_lines_name(trouble: str, line: str) -> None:
    assert says(line) == trouble


def test_trouble_keeps_its_line_and_its_time() -> None:
    line = f"{AT} WARNING Daemon Daemon Daemon ended with exception -- Sleep 15 seconds"
    fact = facts(paper(LOG, LOG_OF_GOOD_AGENT + line))["waagent.says"]
    assert fact.raw == line
    assert fact.observed_at == datetime(2026, 11, 23, 2, 20, tzinfo=UTC)
    assert fact.source == LOG


def test_trouble_that_is_over_does_not_count() -> None:
    unreached = f"{AT} INFO Daemon Daemon WireServer is not responding. Reset dhcp endpoint"
    assert says(unreached, good="") == "no-host"
    assert says(unreached + "\n" + LOG_OF_GOOD_AGENT, good="") == "nothing"
    head = "2026-11-23T02:21:00Z INFO ExtHandler ExtHandler"
    again = f"{head} Retrieving the goal state recovered from previous errors"
    assert says(unreached, again) == "nothing"


def test_an_extension_that_failed_and_then_worked_has_no_trouble() -> None:
    wrong = failed("Quiesce.VmBackup", "Enable", "[ExtensionOperationError] Non-zero exit code: 1")
    assert says(wrong + "\n" + LOG_OF_GOOD_AGENT, good="") == "nothing"
    # That the agent went on to the next goal state says nothing about the extension.
    head = "2026-11-23T02:21:00Z INFO ExtHandler ExtHandler"
    end = f"{head} ProcessExtensionsGoalState completed [i 2 ms]"
    assert says(wrong, end) == "enable-failed"


def test_other_extensions_troubles_are_none_of_a_backups() -> None:
    wrong = failed("Contoso.Monitor", "Enable", "[ExtensionOperationError] Non-zero exit code: 1")
    assert says(wrong) == "nothing"


def test_that_extensions_were_disabled_is_over_once_the_configuration_says_so() -> None:
    line = f"{AT} INFO ExtHandler ExtHandler ******** Extensions.Enabled is set to False, x ****"
    log = paper(LOG, LOG_OF_GOOD_AGENT + line)
    assert value("waagent.says", log) == "extensions-disabled"
    conf = paper("/etc/waagent.conf", "Extensions.Enabled=n\n")
    assert value("waagent.says", log, conf) == "extensions-disabled"
    assert value("waagent.says", log, paper("/etc/waagent.conf", "Extensions.Enabled=y\n")) == (
        "nothing"
    )


def test_of_two_troubles_the_newer_one_counts() -> None:
    first = f"{AT} INFO Daemon Daemon WireServer is not responding. Reset dhcp endpoint"
    second = (
        "2026-11-23T02:25:00Z ERROR ExtHandler ExtHandler x: [Errno 28] No space left on device"
    )
    assert says(first, second) == "no-space"


def test_lines_of_an_old_agent_and_their_continuation_are_read() -> None:
    old = (
        "2018/03/05 14:31:57.747218 ERROR Event: name=Microsoft.Azure.RecoveryServices."
        "VMSnapshotLinux, op=Enable, message=[ExtensionError]\nTraceback\n  Timeout(300): x\n"
    )
    fact = facts(paper(LOG, old))["waagent.says"]
    assert fact.value == "enable-failed"
    assert fact.raw.endswith("Timeout(300): x")
    assert fact.observed_at == datetime(2018, 3, 5, 14, 31, 57, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "no log at all\n", "9999/99/99 99:99:99 INFO x\n", "\x00" * 9]
)
def test_what_is_no_log_is_no_fact(text: str) -> None:
    assert facts(paper(LOG, text)) == {}


def test_a_signature_in_a_line_is_not_shown() -> None:
    line = (
        f"{AT} ERROR ExtHandler ExtHandler Failed to download artifacts: http://h/b?sv=1&sig=Zm9v"
    )
    fact = facts(paper(LOG, line))["waagent.says"]
    assert "Zm9v" not in fact.raw
    assert "sig=***" in fact.raw
