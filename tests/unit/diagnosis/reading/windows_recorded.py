"""What Windows' own commands print. Nothing here was recorded by us: no Windows was at hand. Each
form is as public pages show it; names and addresses are made up.

- `vssadmin list writers`, English: Microsoft's KB 826936 (state [10] Failed) and a blog's recording
  of Windows Server 2008 (gilkirkpatrick.com, "error 0x800423f0": states [8] and [5]).
- `vssadmin list writers`, German: labels, quotation marks and words as a public test of an Exchange
  script holds them (Verfassername, Verfasserkennung, Status, Letzter Fehler; names in "").
- `sc query`, `sc qc`, German: recorded in public source files (`[SC] QueryServiceConfig ERFOLG`,
  `FEHLER 1060`): labels and words of numbers are English in every language.
- `netsh winhttp show proxy`, English and German: the same.
- `reg query`: the form that ReactOS, Wine and Windows share; `tests/wine` runs the very lines.
- `wevtutil /f:RenderedXml`: the event schema of Microsoft's documentation.
"""

from __future__ import annotations

from quiesce.model.papers import COMMAND, Paper

SYSTEM_ID = "e8132975-6f93-4464-a53e-1050253ae220"
SQL_ID = "a65faa63-5ea8-4ebc-9dbd-a0c4db26912a"
QGA = "QEMU-GA"
QGA_PROVIDER = "QEMU Guest Agent VSS Provider"
QGA_VSS_KEY = rf"HKLM\SYSTEM\CurrentControlSet\Services\{QGA_PROVIDER}"
BCDR_KEY = r"HKLM\SOFTWARE\MICROSOFT\BCDRAGENT"
INTERNET_KEY = r"HKU\S-1-5-18\Software\Microsoft\Windows\CurrentVersion\Internet Settings"


def paper(name: str, *parts: tuple[str, str, int]) -> Paper:
    """Parts are a command line, what it printed, and its exit status."""
    text = "\n".join(f"> {status} {line}\n{printed}" for line, printed, status in parts)
    return Paper(COMMAND + name, text, status=max((status for *_, status in parts), default=0))


def query(name: str, state: str) -> tuple[str, str, int]:
    """`state` as in "4  RUNNING"."""
    return (
        f'sc.exe query "{name}"',
        f"""
SERVICE_NAME: {name}
        TYPE               : 10  WIN32_OWN_PROCESS
        STATE              : {state}
                                (STOPPABLE, NOT_PAUSABLE, ACCEPTS_SHUTDOWN)
        WIN32_EXIT_CODE    : 0  (0x0)
        SERVICE_EXIT_CODE  : 0  (0x0)
        CHECKPOINT         : 0x0
        WAIT_HINT          : 0x0
""",
        0,
    )


def config(name: str, start: str, *, result: str = "SUCCESS") -> tuple[str, str, int]:
    """`start` as in "3   DEMAND_START"."""
    return (
        f'sc.exe qc "{name}"',
        f"""[SC] QueryServiceConfig {result}

SERVICE_NAME: {name}
        TYPE               : 10  WIN32_OWN_PROCESS
        START_TYPE         : {start}
        ERROR_CONTROL      : 1   NORMAL
        BINARY_PATH_NAME   : C:\\WINDOWS\\system32\\dllhost.exe /Processid:{{0D4B9A0B}}
        LOAD_ORDER_GROUP   :
        TAG                : 0
        DISPLAY_NAME       : {name}
        DEPENDENCIES       : rpcss
        SERVICE_START_NAME : .\\localsystem
""",
        0,
    )


def no_service(name: str, *, german: bool = False) -> tuple[tuple[str, str, int], ...]:
    word = "FEHLER" if german else "FAILED"
    why = (
        "Der angegebene Dienst ist kein installierter Dienst."
        if german
        else "The specified service does not exist as an installed service."
    )
    return (
        (
            f'sc.exe query "{name}"',
            f"[SC] EnumQueryServicesStatus:OpenService {word} 1060:\n\n{why}\n\n",
            1060,
        ),
        (f'sc.exe qc "{name}"', f"[SC] OpenService {word} 1060:\n\n{why}\n\n", 1060),
    )


def writers(*entries: tuple[str, str, int, str, str], german: bool = False) -> Paper:
    """Entries are name, id, the state's number and words, and the last error."""
    label = (
        ("Verfassername", "Verfasserkennung", "Verfasserinstanzkennung", "Status", "Letzter Fehler")
        if german
        else ("Writer name", "Writer Id", "Writer Instance Id", "State", "Last error")
    )
    quote = '"' if german else "'"
    blocks = [
        f"{label[0]}: {quote}{name}{quote}\n"
        f"   {label[1]}: {{{guid}}}\n"
        f"   {label[2]}: {{26ed439f-4a52-481d-963d-5db5b695d9e7}}\n"
        f"   {label[3]}: [{state}] {words}\n"
        f"   {label[4]}: {error}\n"
        for name, guid, state, words, error in entries
    ]
    head = (
        "vssadmin 1.1 - Volume Shadow Copy Service administrative command-line tool\n"
        "(C) Copyright 2001-2013 Microsoft Corp.\n"
    )
    return paper("writers", ("vssadmin.exe list writers", "\n".join([head, *blocks]), 0))


def key(path: str, *values: tuple[str, str, str], name: str, line_end: str = "\n") -> Paper:
    """A registry key by `reg query`; without values as for a key that is not there."""
    line = f'reg.exe query "{path}"'
    if not values:
        return paper(
            name,
            (line, "ERROR: The system was unable to find the specified registry key or value.", 1),
        )
    whole = path.replace("HKLM", "HKEY_LOCAL_MACHINE").replace("HKU", "HKEY_USERS")
    lines = ["", whole, *(f"    {n}    {kind}    {data}" for n, kind, data in values), ""]
    return paper(name, (line, line_end.join(lines), 0))


def proxy(text: str) -> Paper:
    return paper("winhttp-proxy", ("netsh.exe winhttp show proxy", text, 0))


DIRECT = "\nCurrent WinHTTP proxy settings:\n\n    Direct access (no proxy server).\n"
DIRECT_IN_GERMAN = (
    "\nAktuelle WinHTTP-Proxyeinstellungen:\n\n    Direkter Zugriff (kein Proxyserver).\n"
)
PROXIED = """
Current WinHTTP proxy settings:

    Proxy Server(s) :  proxy.example:3128
    Bypass List     :  <local>;*.example
"""
PROXIED_IN_GERMAN = """
Aktuelle WinHTTP-Proxyeinstellungen:

    Proxyserver:  proxy.example:8080
    Umgehungsliste:  (keine)
"""

VSS_EVENT = """<Event xmlns='http://schemas.microsoft.com/win/2004/08/events/event'><System>\
<Provider Name='VSS'/><EventID Qualifiers='0'>8194</EventID><Version>0</Version><Level>2</Level>\
<TimeCreated SystemTime='2026-11-22T23:01:02.1234567Z'/><Channel>Application</Channel></System>\
<EventData><Data></Data><Data>0x80070005, Zugriff verweigert\n</Data></EventData>\
<RenderingInfo Culture='de-DE'><Message>Volumeschattenkopie-Dienstfehler: Beim Abfragen der \
IVssWriterCallback-Schnittstelle. hr = 0x80070005, Zugriff verweigert &amp; so weiter\n.</Message>\
<Level>Fehler</Level></RenderingInfo></Event>"""

QUARANTINE_EVENT = """<Event xmlns='http://schemas.microsoft.com/win/2004/08/events/event'><System>\
<Provider Name='Microsoft-Windows-Windows Defender' Guid='{11cd958a-c507-4ef3-b3f2-5fd9dfbd2c78}'/>\
<EventID>1117</EventID><TimeCreated SystemTime='2026-11-22T22:00:00.0000000Z'/></System>\
<EventData><Data Name='Product Name'>Microsoft Defender Antivirus</Data>\
<Data Name='Path'>file:_C:\\Packages\\Plugins\\Microsoft.Azure.RecoveryServices.VMSnapshot\\1.0\
\\IaaSBcdrExtension.exe</Data><Data Name='Action Name'>Quarantine</Data></EventData></Event>"""


def sql_backup(event: int, device: str) -> Paper:
    """SQL Server's own words of a backup, as public recordings of its log hold them."""
    raw = (
        f"<Event ><System><Provider Name='MSSQLSERVER'/><EventID Qualifiers='16384'>{event}"
        "</EventID><TimeCreated SystemTime='2026-11-22T20:00:00.000000000Z'/></System><EventData>"
        "<Data>shop</Data><Data>2023/02/02(14:00:00)</Data><Data>350</Data>"
        f"<Data>(FILE=1, TYPE={device}: {{'X'}})</Data></EventData></Event>"
    )
    return paper("sql-backups", ("wevtutil.exe qe Application", raw, 0))


SPACE = "\r\r\n\r\r\nDeviceID=C:\r\r\nFreeSpace=1073741824\r\r\nSize=64424509440\r\r\n\r\r\n\r\r\n\
DeviceID=E:\r\r\nFreeSpace=5\r\r\nSize=10\r\r\n"
SPACE_OF_POWERSHELL = """'wmic.exe' is not recognized as an internal or external command,
operable program or batch file.


DeviceID  : C:
FreeSpace : 1073741824
Size      : 64424509440



"""
