"""A Windows guest's papers as facts, by recorded answers (`windows_recorded` says where from)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from windows_recorded import (
    BCDR_KEY,
    DIRECT,
    DIRECT_IN_GERMAN,
    INTERNET_KEY,
    PROXIED,
    PROXIED_IN_GERMAN,
    QGA,
    QGA_PROVIDER,
    QGA_VSS_KEY,
    QUARANTINE_EVENT,
    SPACE,
    SPACE_OF_POWERSHELL,
    SQL_ID,
    SYSTEM_ID,
    VSS_EVENT,
    config,
    key,
    no_service,
    paper,
    proxy,
    query,
    sql_backup,
    writers,
)

from quiesce.diagnosis.reading.windows import windows_facts
from quiesce.diagnosis.vocabulary import FACTS
from quiesce.model.diagnosis import Fact
from quiesce.model.papers import COMMAND, Paper, Papers

TAKEN = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
RUNNING, STOPPED = "4  RUNNING", "1  STOPPED"
AUTO, DEMAND, DISABLED = "2   AUTO_START", "3   DEMAND_START", "4   DISABLED"


def facts(*papers: Paper) -> dict[str, Fact]:
    found = list(windows_facts(Papers(papers, "the guest, through qga", TAKEN)))
    assert len({fact.name for fact in found}) == len(found), "one fact a name"
    return {fact.name: fact for fact in found}


def qga(*provider: tuple[str, str, int]) -> Paper:
    """The services of a guest with QEMU's agent, and what sc says of the provider."""
    return paper("services", query(QGA, RUNNING), config(QGA, AUTO), *provider)


def azure(*provider: tuple[str, str, int]) -> Paper:
    agent = "WindowsAzureGuestAgent"
    return paper(
        "services", *no_service(QGA), query(agent, RUNNING), config(agent, AUTO), *provider
    )


@pytest.mark.parametrize(
    ("state", "start", "word"),
    [
        (RUNNING, DEMAND, "running"),
        (STOPPED, DEMAND, "manual"),
        (STOPPED, AUTO, "stopped"),
        (STOPPED, DISABLED, "disabled"),
    ],
)
def test_a_provider_that_waits_to_be_started_is_told_from_one_that_cannot_be(
    state: str, start: str, word: str
) -> None:
    found = facts(qga(query(QGA_PROVIDER, state), config(QGA_PROVIDER, start)))
    assert found["windows.provider"].value == word
    assert "QEMU Guest Agent VSS Provider" in found["windows.provider"].words
    assert start in found["windows.provider"].raw


@pytest.mark.parametrize("german", [False, True])
def test_a_provider_that_is_not_installed_is_absent_in_any_language(german: bool) -> None:
    found = facts(qga(*no_service(QGA_PROVIDER, german=german)))
    assert found["windows.provider"].value == "absent"


def test_a_service_of_a_german_windows_is_read_as_an_english_one() -> None:
    provider = (query(QGA_PROVIDER, STOPPED), config(QGA_PROVIDER, DISABLED, result="ERFOLG"))
    assert facts(qga(*provider))["windows.provider"].value == "disabled"


def test_a_start_type_that_sc_does_not_say_comes_from_the_registry() -> None:
    found = facts(
        qga(query(QGA_PROVIDER, STOPPED)),
        key(QGA_VSS_KEY, ("Start", "REG_DWORD", "0x4"), name="registry-qga-vss"),
    )
    assert found["windows.provider"].value == "disabled"


def test_nothing_is_said_of_a_provider_when_sc_may_not_be_asked() -> None:
    denied = (
        f'sc.exe query "{QGA_PROVIDER}"',
        "[SC] OpenService FAILED 5:\n\nAccess is denied.",
        5,
    )
    assert "windows.provider" not in facts(qga(denied))


def test_azures_provider_is_the_one_that_counts_where_its_agent_runs() -> None:
    name = "IaasVmProvider"
    found = facts(azure(query(name, STOPPED), config(name, DISABLED)))
    assert found["windows.provider"].value == "disabled"
    assert name in found["windows.provider"].words


def test_azures_provider_is_not_missed_before_its_first_backup() -> None:
    assert "windows.provider" not in facts(azure(*no_service("IaasVmProvider")))


@pytest.mark.parametrize(
    ("services", "word"),
    [
        ((query(QGA, RUNNING), config(QGA, AUTO)), "active"),
        ((query(QGA, STOPPED), config(QGA, AUTO)), "inactive"),
        ((query(QGA, STOPPED), config(QGA, DISABLED)), "disabled"),
        ((query(QGA, "2  START_PENDING"), config(QGA, AUTO)), "activating"),
        (no_service(QGA), "absent"),
    ],
)
def test_the_agents_service_has_the_words_of_a_unit(
    services: tuple[tuple[str, str, int], ...], word: str
) -> None:
    found = facts(paper("services", *services))
    assert found["qga.unit"].value == word
    assert found["qga.installed"].value is (word != "absent")


STABLE = ("System Writer", SYSTEM_ID, 1, "Stable", "No error")


def test_a_failed_writer_is_named_with_its_state_its_error_and_the_service_to_restart() -> None:
    failed = ("SqlServerWriter", SQL_ID, 8, "Failed", "Non-retryable error")
    found = facts(qga(), writers(STABLE, failed))
    said = found["windows.writers-failed"]
    assert (
        said.value == "SqlServerWriter ([8] Failed, Non-retryable error, of the service SQLWriter)"
    )
    assert "State: [8] Failed" in said.raw
    assert found["windows.sql-writer"].value is True


def test_a_failed_writer_is_found_in_german() -> None:
    failed = ("System Writer", SYSTEM_ID, 10, "Fehlgeschlagen", "Wiederholbarer Fehler")
    stable = ("Registry Writer", "afbab4a2-367d-4d15-a586-71dbb18f8485", 1, "Stabil", "Kein Fehler")
    said = facts(qga(), writers(stable, failed, german=True))["windows.writers-failed"]
    assert str(said.value).startswith("System Writer ([10] Fehlgeschlagen, Wiederholbarer Fehler")


def test_a_writer_that_waits_for_a_backup_to_end_has_not_failed() -> None:
    waiting = ("System Writer", SYSTEM_ID, 5, "Waiting for completion", "No error")
    said = facts(qga(), writers(STABLE, waiting))["windows.writers-failed"]
    assert said.value == ""
    assert "in the middle of a backup: System Writer" in said.words


def test_writers_that_could_not_be_listed_are_no_fact() -> None:
    refused = "Error: You don't have the correct permissions to run this command."
    found = facts(qga(), paper("writers", ("vssadmin.exe list writers", refused, 2)))
    assert "windows.writers-failed" not in found
    assert "windows.sql-writer" not in found


def test_a_writers_name_cannot_pass_for_another_writers_state() -> None:
    odd = ("Odd': {} [1]", "00000000-0000-0000-0000-000000000000", 9, "Failed", "[1] Stable")
    said = facts(qga(), writers(odd, STABLE))["windows.writers-failed"]
    assert "[9] Failed" in str(said.value)


@pytest.mark.parametrize(
    ("event", "device", "own"),
    [
        (18264, "DISK", True),
        (18264, "URL", True),
        (18264, "VIRTUAL_DEVICE", False),
        (18270, "VIRTUAL_DEVICE", False),
        (18265, "VIRTUAL_DEVICE", True),
    ],
)
def test_sql_servers_own_backups_are_told_from_those_that_a_shadow_copy_makes(
    event: int, device: str, own: bool
) -> None:
    assert facts(qga(), sql_backup(event, device))["windows.sql-backups"].value is own


def test_a_log_that_could_not_be_read_says_nothing_of_sql_backups() -> None:
    denied = paper("sql-backups", ("wevtutil.exe qe Application", "Access is denied.", 5))
    assert "windows.sql-backups" not in facts(qga(), denied)


@pytest.mark.parametrize(
    ("values", "copy"),
    [
        ((("VssOption", "REG_DWORD", "0x5"),), True),
        ((("vssoption", "REG_DWORD", "0x5"),), True),
        ((("VssOption", "REG_DWORD", "0x1"),), False),
        ((("VssOption", "REG_SZ", "5"),), False),
        ((("Start", "REG_DWORD", "0x3"),), False),
    ],
)
def test_the_type_of_qemus_shadow_copies_is_a_number_in_its_own_key(
    values: tuple[tuple[str, str, str], ...], copy: bool
) -> None:
    found = facts(qga(), key(QGA_VSS_KEY, *values, name="registry-qga-vss"))
    assert found["windows.copy-backup"].value is copy


@pytest.mark.parametrize(
    ("values", "copy"),
    [
        ((("USEVSSCOPYBACKUP", "REG_SZ", "TRUE"),), True),
        ((("UseVssCopyBackup", "REG_SZ", "TRUE"),), True),
        ((("USEVSSCOPYBACKUP", "REG_SZ", "FALSE"),), False),
        ((("USEVSSCOPYBACKUP", "REG_DWORD", "0x1"),), False),
        ((), False),
    ],
)
def test_the_type_of_azures_shadow_copies_is_the_text_true(
    values: tuple[tuple[str, str, str], ...], copy: bool
) -> None:
    found = facts(azure(), key(BCDR_KEY, *values, name="registry-bcdragent"))
    assert found["windows.copy-backup"].value is copy


def test_whether_azure_takes_a_true_in_small_letters_is_not_guessed() -> None:
    small = key(BCDR_KEY, ("USEVSSCOPYBACKUP", "REG_SZ", "true"), name="registry-bcdragent")
    assert "windows.copy-backup" not in facts(azure(), small)


def test_azures_value_says_nothing_about_qemus_shadow_copies() -> None:
    found = facts(
        qga(),
        key(BCDR_KEY, ("USEVSSCOPYBACKUP", "REG_SZ", "TRUE"), name="registry-bcdragent"),
        key(QGA_VSS_KEY, ("Start", "REG_DWORD", "0x3"), name="registry-qga-vss"),
    )
    assert found["windows.copy-backup"].value is False
    assert "VssOption is not set" in found["windows.copy-backup"].words


@pytest.mark.parametrize(
    ("text", "address"),
    [(PROXIED, "proxy.example:3128"), (PROXIED_IN_GERMAN, "proxy.example:8080")],
)
def test_the_proxy_of_services_is_read_in_any_language(text: str, address: str) -> None:
    assert facts(qga(), proxy(text))["windows.system-proxy"].value == address


@pytest.mark.parametrize("text", [DIRECT, DIRECT_IN_GERMAN])
def test_without_a_proxy_of_services_that_of_the_account_system_counts(text: str) -> None:
    own = key(
        INTERNET_KEY,
        ("ProxyEnable", "REG_DWORD", "0x1"),
        ("ProxyServer", "REG_SZ", "old.example:3128"),
        name="system-proxy",
    )
    switched_off = key(
        INTERNET_KEY,
        ("ProxyEnable", "REG_DWORD", "0x0"),
        ("ProxyServer", "REG_SZ", "old.example:3128"),
        name="system-proxy",
    )
    script = key(
        INTERNET_KEY, ("AutoConfigURL", "REG_SZ", "http://p.example/a.pac"), name="system-proxy"
    )
    values = [
        facts(qga(), proxy(text), own)["windows.system-proxy"].value,
        facts(qga(), proxy(text), switched_off)["windows.system-proxy"].value,
        facts(qga(), proxy(text), script)["windows.system-proxy"].value,
    ]
    assert values == ["old.example:3128", "", "http://p.example/a.pac"]


def test_no_proxy_is_claimed_absent_when_netsh_said_nothing() -> None:
    own = key(INTERNET_KEY, ("ProxyEnable", "REG_DWORD", "0x0"), name="system-proxy")
    assert "windows.system-proxy" not in facts(qga(), proxy(""), own)


def test_errors_of_the_log_keep_their_own_words_and_their_time() -> None:
    log = paper("events", ("wevtutil.exe qe Application", VSS_EVENT, 0), ("wevtutil.exe", "", 0))
    event = facts(qga(), log)["windows.events"]
    assert str(event.value).startswith("VSS 8194: Volumeschattenkopie-Dienstfehler")
    assert "Zugriff verweigert & so weiter" in str(event.value)
    assert event.observed_at == datetime(2026, 11, 22, 23, 1, 2, tzinfo=UTC)
    assert event.raw == VSS_EVENT


def test_a_log_without_errors_is_empty_and_one_that_cannot_be_read_is_no_fact() -> None:
    assert facts(qga(), paper("events", ("wevtutil.exe", "", 0)))["windows.events"].value == ""
    denied = paper("events", ("wevtutil.exe", "Failed to open event query.", 5))
    assert "windows.events" not in facts(qga(), denied)


def test_a_quarantined_file_of_the_extension_is_named() -> None:
    log = paper("antivirus", ("wevtutil.exe", QUARANTINE_EVENT, 0))
    said = facts(azure(), log)["extension.antivirus"]
    assert "VMSnapshot" in str(said.value)
    other = QUARANTINE_EVENT.replace("Packages\\Plugins", "Users\\me")
    found = facts(azure(), paper("antivirus", ("wevtutil.exe", other, 0)))
    assert "extension.antivirus" not in found


@pytest.mark.parametrize("text", [SPACE, SPACE_OF_POWERSHELL])
def test_space_is_that_of_the_systems_drive_by_wmic_or_powershell(text: str) -> None:
    system = ("wmic.exe os", "\r\r\nCaption=Microsoft Windows Server 2022\r\r\nSystemDrive=C:", 0)
    found = facts(qga(), paper("space", ("wmic.exe", text, 0)), paper("os", system))
    assert found["guest.root-free-bytes"].value == 1073741824.0
    assert found["guest.disk-full"].value == ""
    assert found["guest.os"].value == "windows"
    assert "Server 2022" in found["guest.os"].words


def test_a_full_system_drive_is_named_and_another_full_one_is_not() -> None:
    other = SPACE.replace("FreeSpace=1073741824", "FreeSpace=4096")
    assert facts(qga(), paper("space", ("wmic.exe", other, 0)))["guest.disk-full"].value == "C:"


def test_load_is_the_mean_of_processors_and_what_is_not_free_of_the_memory() -> None:
    load = paper(
        "load",
        ("wmic.exe cpu", "\r\r\nLoadPercentage=90\r\r\n\r\r\nLoadPercentage=70\r\r\n", 0),
        ("wmic.exe os", "FreePhysicalMemory=1000\r\r\nTotalVisibleMemorySize=4000\r\r\n", 0),
    )
    found = facts(qga(), load)
    assert found["guest.cpu-percent"].value == 80.0
    assert found["guest.memory-percent"].value == 75.0


def test_papers_of_another_system_yield_nothing() -> None:
    assert facts(Paper(COMMAND + "units", "Id=qemu-guest-agent.service")) == {}


_NAMES = ["services", "writers", "registry-qga-vss", "registry-bcdragent", "winhttp-proxy"]
_NAMES += ["system-proxy", "events", "antivirus", "space", "load", "os", "sql-backups"]
_LINES = st.lists(
    st.sampled_from(
        [
            '> 0 sc.exe query "QEMU-GA"',
            '> 0 sc.exe qc "QEMU Guest Agent VSS Provider"',
            "> 0 reg.exe query",
            "> 99999999999 sc.exe query X",
            "        STATE              : 4  RUNNING",
            "Writer name: 'System Writer'",
            "   Writer Id: {e8132975-6f93-4464-a53e-1050253ae220}",
            "   State: [99999999999999999999] Failed",
            "   State: [8] Failed",
            "   Last error: No error",
            "    VssOption    REG_DWORD    0xzz",
            "    VssOption    REG_DWORD",
            "FreeSpace=" + "9" * 5000,
            "LoadPercentage=١٢",
            "TotalVisibleMemorySize=0",
            "<Event ><Provider Name='VSS'/><EventID>1</EventID></Event>",
            "<TimeCreated SystemTime='9999-99-99T99:99:99'",
        ]
    )
    | st.text(max_size=40),
    max_size=30,
).map("\n".join)


@given(
    st.dictionaries(
        st.sampled_from(_NAMES),
        _LINES,
    )
)
def test_whatever_a_guest_prints_becomes_facts_of_the_vocabulary_or_none(
    texts: dict[str, str],
) -> None:
    papers = tuple(Paper(COMMAND + name, text) for name, text in {"services": "", **texts}.items())
    for fact in windows_facts(Papers(papers, "a test")):
        kind = FACTS[fact.name]
        assert type(fact.value) is kind.type
        assert not kind.words or fact.value in kind.words
