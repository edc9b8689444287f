"""The lines of collect.ps1 and mend.ps1 against Wine's registry and services."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from conftest import Ran, Run, table

from quiesce.diagnosis.reading.windows import windows_facts
from quiesce.model.diagnosis import Fact
from quiesce.model.papers import COMMAND, Paper, Papers

PROVIDER = "QEMU Guest Agent VSS Provider"
QGA_KEY = rf"HKLM\SYSTEM\CurrentControlSet\Services\{PROVIDER}"
BCDR_KEY = r"HKLM\SOFTWARE\MICROSOFT\BCDRAGENT"
INTERNET_KEY = r"HKU\S-1-5-18\Software\Microsoft\Windows\CurrentVersion\Internet Settings"
AZURE = "WindowsAzureGuestAgent"


@pytest.fixture
def own(run: Run) -> Run:
    """A machine on which nothing of the tests' is set."""
    run(
        *(f'sc.exe delete "{name}"' for name in ("QEMU-GA", PROVIDER, AZURE)),
        *(f'reg.exe delete "{key}" /f' for key in (BCDR_KEY, INTERNET_KEY, QGA_KEY)),
    )
    return run


def collected(run: Run) -> dict[str, Fact]:
    """The facts of what the collector's `sc` and `reg` lines print."""
    names = ("services", "registry-bcdragent", "registry-qga-vss", "system-proxy")
    rows = table("collect.ps1", 1)
    lines = {
        name: [line for (line,) in rows[name] if line.startswith(("sc.exe query", "reg.exe"))]
        for name in names
    }
    ran = {ran.line: ran for ran in run(*(line for name in names for line in lines[name]))}
    papers = tuple(_paper(name, [ran[line] for line in lines[name]]) for name in names)
    found = windows_facts(Papers(papers, "wine", datetime.now(UTC)))
    return {fact.name: fact for fact in found}


def _paper(name: str, lines: list[Ran]) -> Paper:
    text = "\n".join(f"> {ran.status} {ran.line}\n{ran.text}" for ran in lines)
    return Paper(COMMAND + name, text)


def service(run: Run, name: str, start: str) -> None:
    (made,) = run(f'sc.exe create "{name}" binPath= "C:\\windows\\system32\\x.exe" start= {start}')
    assert made.status == 0


@pytest.mark.parametrize(
    ("start", "word"), [("disabled", "disabled"), ("demand", "manual"), ("auto", "stopped")]
)
def test_the_providers_start_type_is_read(own: Run, start: str, word: str) -> None:
    service(own, "QEMU-GA", "auto")
    service(own, PROVIDER, start)
    found = collected(own)
    assert found["windows.provider"].value == word
    assert found["qga.unit"].value == "inactive"


def test_a_running_service_is_active(own: Run) -> None:
    (ran,) = own('sc.exe query "Eventlog"')
    paper = _paper("services", [Ran('sc.exe query "QEMU-GA"', ran.status, ran.text)])
    found = {fact.name: fact for fact in windows_facts(Papers((paper,), "wine"))}
    assert found["qga.unit"].value == "active"


def test_copies_are_full_until_mended_and_then_copies(own: Run) -> None:
    service(own, "QEMU-GA", "auto")
    service(own, PROVIDER, "demand")
    assert collected(own)["windows.copy-backup"].value is False
    for service_needed, line in table("mend.ps1", 2)["vss-copy"]:
        if service_needed == PROVIDER:
            assert own(line)[0].status == 0
    found = collected(own)["windows.copy-backup"]
    assert found.value is True
    assert "VssOption    REG_DWORD    0x5" in found.raw


def test_azures_copies_are_full_until_mended_and_then_copies(own: Run) -> None:
    service(own, AZURE, "auto")
    assert collected(own)["windows.copy-backup"].value is False
    for service_needed, line in table("mend.ps1", 2)["vss-copy"]:
        if service_needed == "-":
            assert own(line)[0].status == 0
    found = collected(own)["windows.copy-backup"]
    assert found.value is True
    assert "USEVSSCOPYBACKUP    REG_SZ    TRUE" in found.raw


@pytest.mark.parametrize(
    ("kind", "data"), [("REG_DWORD", "1"), ("REG_SZ", "yes"), ("REG_EXPAND_SZ", "TRUE")]
)
def test_a_value_that_is_not_the_text_true_makes_no_copies(own: Run, kind: str, data: str) -> None:
    service(own, AZURE, "auto")
    own(f'reg.exe add "{BCDR_KEY}" /v USEVSSCOPYBACKUP /t {kind} /d {data} /f')
    found = collected(own)["windows.copy-backup"]
    assert found.value is False
    assert kind in found.words


def test_the_proxy_of_the_account_system_is_read(own: Run) -> None:
    service(own, "QEMU-GA", "auto")
    own(
        f'reg.exe add "{INTERNET_KEY}" /v ProxyEnable /t REG_DWORD /d 1 /f',
        f'reg.exe add "{INTERNET_KEY}" /v ProxyServer /t REG_SZ /d proxy.example:3128 /f',
    )
    assert collected(own)["windows.system-proxy"].value == "proxy.example:3128"
    own(f'reg.exe add "{INTERNET_KEY}" /v ProxyEnable /t REG_DWORD /d 0 /f')
    assert "windows.system-proxy" not in collected(own), "netsh was not asked"


def test_a_machine_with_none_of_it_is_no_agents(own: Run) -> None:
    found = collected(own)
    assert "windows.provider" not in found
    assert "windows.copy-backup" not in found
