"""The backup extension in the guest, and the failures that papers tell of."""

from __future__ import annotations

import io
import json
import subprocess
import zipfile
from datetime import timedelta

import pytest
from guest_papers import (
    LOG_OF_GOOD_AGENT,
    NOW,
    ROOTS_VIEW,
    USERS_VIEW,
    command,
    facts,
    paper,
    papers,
    value,
)

from quiesce.agent.package import extension_package
from quiesce.diagnosis.reading.extension import posix_cksum
from quiesce.diagnosis.reading.failures import failure_in
from quiesce.model.papers import Paper

VERSION = extension_package().version
FOLDER = f"/var/lib/waagent/Quiesce.VmBackup-{VERSION}.7"


def sums(**changed: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(extension_package().content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files.update({name.replace("_py", ".py"): content for name, content in changed.items()})
    lines = (f"{posix_cksum(data)} {len(data)} {FOLDER}/{name}" for name, data in files.items())
    return f"{FOLDER}:\ntotal 9\n" + "\n".join(lines) + "\n"


def test_the_sum_is_that_of_cksum() -> None:
    for content in (b"", b"a", bytes(range(256)) * 5):
        said = subprocess.run(["cksum"], input=content, capture_output=True, check=True).stdout
        assert posix_cksum(content) == int(said.split()[0])


def test_an_extension_as_it_was_shipped() -> None:
    found = facts(command("extension", sums()), command("quiesce", ""))
    assert found["extension.installed"].value is True
    assert found["extension.version"].value == f"{VERSION}.7"
    assert found["extension.outdated"].value is False
    assert found["extension.intact"].value is True


def test_a_file_with_flipped_bytes_is_named() -> None:
    with zipfile.ZipFile(io.BytesIO(extension_package().content)) as archive:
        good = archive.read("freeze.py")
    fact = facts(command("extension", sums(freeze_py=b"\xff" + good[1:])))["extension.intact"]
    assert fact.value is False
    assert "freeze.py" in fact.words
    assert f"{FOLDER}/freeze.py" in fact.raw


def test_another_builds_file_is_not_called_damaged() -> None:
    assert value("extension.intact", command("extension", sums(freeze_py=b"shorter"))) is None


def test_an_entry_file_that_is_gone_is_a_damage() -> None:
    listing = "\n".join(line for line in sums().splitlines() if "handler.sh" not in line)
    assert value("extension.intact", command("extension", listing)) is False
    without_sums = f"{FOLDER}:\ntotal 9\n-rw-r--r-- 1 0 0 9 Nov 23 02:00 freeze.py\n"
    assert value("extension.intact", command("extension", without_sums)) is None
    in_the_list = f"{FOLDER}:\n-rwxr--r-- 1 0 0 9 Nov 23 02:00 handler.sh\n{listing}"
    assert value("extension.intact", command("extension", in_the_list)) is True


def test_the_package_for_the_guest_agent_counts_too() -> None:
    package = extension_package()
    path = f"/var/lib/quiesce/{package.file_name}"
    good = f"{posix_cksum(package.content)} {len(package.content)} {path}\n"
    found = facts(command("extension", "", 1), command("quiesce", good))
    assert found["extension.installed"].value is True
    assert found["extension.intact"].value is True
    assert value("extension.intact", command("quiesce", good.replace(good[:3], "123"))) is False


def test_nothing_of_it_is_there() -> None:
    nothing = (command("extension", "", 1), command("quiesce", ""), ROOTS_VIEW)
    assert value("extension.installed", *nothing) is False
    assert value("extension.vanished", *nothing) is None


@pytest.mark.parametrize("view", [[USERS_VIEW], []])
def test_what_one_may_not_look_at_is_not_said_to_be_gone(view: list[Paper]) -> None:
    unseen = (command("extension", "", 1), command("quiesce", ""), *view)
    log = paper("/var/log/waagent.log", LOG_OF_GOOD_AGENT)
    assert not {"extension.installed", "extension.vanished"} & set(facts(*unseen, log))


def test_files_that_the_agent_has_not_removed_itself_have_vanished() -> None:
    nothing = (command("extension", "", 1), command("quiesce", ""), ROOTS_VIEW)
    log = paper("/var/log/waagent.log", LOG_OF_GOOD_AGENT)
    assert value("extension.vanished", *nothing, log) is True
    prefix = "2026-11-23T02:11:00Z INFO ExtHandler [Quiesce.VmBackup-0.2.0.1]"
    removed = f"{prefix} Remove extension handler directory: /x\n"
    log = paper("/var/log/waagent.log", LOG_OF_GOOD_AGENT + removed)
    assert value("extension.vanished", *nothing, log) is False


@pytest.mark.parametrize(
    ("text", "runs", "version"),
    [
        ("/usr/bin/python3 3.11\n/usr/bin/python2 2.7\n", True, "3.11"),
        ("/usr/bin/python2 2.7\n", False, "2.7"),
        ("/usr/libexec/platform-python 3.6\n", True, "3.6"),
        ("", False, ""),
    ],
)
def test_the_python_that_it_runs_with(text: str, runs: bool, version: str) -> None:
    found = facts(command("python", text))
    assert found["extension.runtime"].value is runs
    assert found["extension.python"].value == version


def test_a_python_whose_version_is_not_told_proves_nothing() -> None:
    assert value("extension.runtime", command("python", "/usr/bin/python3 3\n")) is None


def status(word: str, **more: object) -> str:
    inner = {"name": "Quiesce.VmBackup", "operation": "enable", "status": word, "code": 1, **more}
    return json.dumps([{"version": 1.0, "timestampUTC": "2026-11-23T02:20:00Z", "status": inner}])


def test_the_status_is_that_of_the_newest_sequence() -> None:
    old = paper(f"{FOLDER}/status/9.status", status("error"))
    written = NOW - timedelta(minutes=5)
    new = paper(f"{FOLDER}/status/10.status", status("transitioning"), modified_at=written)
    found = facts(old, new)
    assert found["extension.status"].value == "transitioning"
    assert found["extension.status-age-seconds"].value == 300


@pytest.mark.parametrize("text", ["", "[]", "[1]", "{", "[" * 100_000, '[{"status": 3}]'])
def test_a_status_that_is_none_is_no_fact(text: str) -> None:
    assert value("extension.status", paper(f"{FOLDER}/status/0.status", text)) is None


SCRIPTS = "/etc/azure/VMSnapshotScriptPluginConfig.json"


@pytest.mark.parametrize(
    ("text", "more", "wrong"),
    [
        ("{}", {"mode": 0o600, "owner": 0}, ""),
        ("{\n'a': 1}", {"mode": 0o600, "owner": 0}, "line 2: "),
        ("[]", {"mode": 0o600, "owner": 0}, "one object"),
        ("{}", {"mode": 0o666, "owner": 0}, "its mode is 666"),
        ("{}", {"mode": 0o600, "owner": 1000}, "user 1000"),
    ],
)
def test_the_scripts_configuration(text: str, more: dict[str, int], wrong: str) -> None:
    said = str(value("extension.config-error", paper(SCRIPTS, text, **more)))
    assert wrong in said
    assert bool(said) is bool(wrong)


def test_sessions_that_have_not_ended() -> None:
    states = [
        paper("/run/quiesce/a/state.json", '{"state": "frozen"}'),
        paper("/run/quiesce/b/state.json", '{"state": "done"}'),
        paper("/run/quiesce/c/state.json", "{"),
    ]
    fact = facts(*states, command("quiesce", "/run/quiesce:\ntotal 0\n"))["extension.sessions"]
    assert fact.value == 1
    assert "/run/quiesce/a/state.json: frozen" in fact.raw


# ---------------------------------------------------------------- what failed


def test_our_extensions_own_failure_is_taken_as_it_is() -> None:
    report = {
        "stage": "failed",
        "failure": {
            "code": "freeze.busy",
            "message": "/ is frozen already.",
            "evidence": [{"fact": "/", "source": "the guest", "raw": "EBUSY"}],
            "retryable": True,
        },
    }
    message = {"lang": "en-US", "message": json.dumps(report)}
    text = status("error", substatus=[{"name": "quiesce", "formattedMessage": message}])
    failure = failure_in(papers(paper(f"{FOLDER}/status/3.status", text)))
    assert failure is not None
    assert (failure.code, failure.message) == ("freeze.busy", "/ is frozen already.")
    assert failure.evidence[0].raw == "EBUSY"
    good = message | {"message": json.dumps({"stage": "done", "failure": None})}
    text = status("success", substatus=[{"name": "quiesce", "formattedMessage": good}])
    assert failure_in(papers(paper(f"{FOLDER}/status/3.status", text))) is None


AZURE = "Microsoft.Azure.RecoveryServices.VMSnapshotLinux"


def azure_status(number: int, word: str = "error", millis: int = 1795400000000) -> str:
    inner = {
        "version": "1.0",
        "timestampUTC": f"\\/Date({millis})\\/",
        "status": {
            "name": AZURE,
            "operation": "Enable",
            "status": word,
            "code": str(number),
            "formattedMessage": {"lang": "en-US", "message": '{"extensionResponse": "x"}'},
            "vmHealthInfo": {"vmHealthState": 2, "vmHealthStatusCode": number},
        },
    }
    name = json.dumps([inner]).replace("\\\\/", "\\/")
    outer = {"status": "success", "code": "1", "substatus": [{"name": name, "code": "0"}]}
    return json.dumps([{"version": "1.0", "timestampUTC": "x", "status": outer}])


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (76, "network.connect-timeout"),
        (85, "storage.snapshot-limit"),
        (121, "freeze.failed"),
        (122, "freeze.timeout"),
        (300, "script.pre-failed"),
        (2, "snapshot.failed"),
        (99999, "snapshot.failed"),
    ],
)
def test_azures_number_inside_a_status_that_says_success(number: int, code: str) -> None:
    path = f"/var/lib/waagent/{AZURE}-1.0.9224.0/status/5.status"
    failure = failure_in(papers(paper(path, azure_status(number))))
    assert failure is not None
    assert failure.code == code
    assert str(number) in failure.message


LOG_HEAD = f"2024-01-14 22:16:48.792020 [{AZURE}-1.0]"


def test_azures_log_names_the_mount_that_was_not_frozen() -> None:
    text = (
        f"{LOG_HEAD}T:S freeze, timeout value 60\n{LOG_HEAD}Failed to FIFREEZE: /data/db\n"
        f"{LOG_HEAD}T:S Enable failed with error: freeze failed for some mount "
        "StatusCode.FailedRetryableFsFreezeFailed,\n"
    )
    failure = failure_in(papers(paper(f"/var/log/azure/{AZURE}/extension.log", text)))
    assert failure is not None
    assert failure.code == "freeze.failed"
    assert failure.evidence[0].fact == "/data/db was not frozen"
    assert failure.evidence[0].observed_at.year == 2024


def test_a_backup_that_went_well_afterwards_leaves_no_failure() -> None:
    bad = f"{LOG_HEAD}x StatusCode.FailedRetryableSnapshotFailedNoNetwork,\n"
    good = LOG_HEAD.replace("22:16", "23:16") + "Enable,success,1,Enable Succeeded,False\n"
    log = f"/var/log/azure/{AZURE}/extension.log"
    assert failure_in(papers(paper(log, bad + good))) is None
    assert failure_in(papers(paper(log, good + bad))) is not None


def test_the_newest_of_status_and_log_counts() -> None:
    log = paper(f"/var/log/azure/{AZURE}/extension.log", f"{LOG_HEAD}Enable,success,1,x\n")
    path = f"/var/lib/waagent/{AZURE}-1.0.9224.0/status/5.status"
    assert failure_in(papers(log, paper(path, azure_status(121)))) is not None
    assert failure_in(papers(log, paper(path, azure_status(121, millis=1000)))) is None


def test_other_extensions_statuses_are_passed_over() -> None:
    path = "/var/lib/waagent/Contoso.Monitor-1.0/status/5.status"
    assert failure_in(papers(paper(path, azure_status(121).replace(AZURE, "Contoso")))) is None
