"""What the server asks of the handler, from the files that the Azure Linux agent lays down.

    /var/lib/waagent/Quiesce.VmBackup-<version>/     the package, unpacked
        HandlerEnvironment.json                      where the folders are
        config/<seq>.settings                        public and protected settings
        status/<seq>.status                          our answer
    /var/lib/waagent/<THUMBPRINT>.prv, .crt          the key that protected settings are for

Contract of the settings: docs/explanation/guest-route.md. Format of the files: WALinuxAgent,
ga/exthandlers.py. Secrets stay in memory: they are in no argument list and no log.
"""

import base64
import calendar
import json
import os
import re
import subprocess
import time
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple

from .failure import Fact, Failure
from .mounts import printable
from .proxy import ProxySettings, proxy_settings

NAME = "Quiesce.VmBackup"
COMMANDS = ("snapshot", "probe", "examine", "mend", "idle")
_LARGEST_BYTES = 1 << 20
_OPENSSL_SECONDS = 20.0
_THUMBPRINT = re.compile(r"[0-9A-Fa-f]{40}|[0-9A-Fa-f]{64}")
_SETTINGS_FILE = re.compile(r"([0-9]{1,10})\.settings")


class Environment(NamedTuple):
    """The handler's places: where keys and settings lie and where status is expected."""

    agent_folder: str
    config_folder: str
    status_folder: str

    def settings_file(self, sequence: str) -> str:
        return os.path.join(self.config_folder, sequence + ".settings")

    def status_file(self, sequence: str) -> str:
        return os.path.join(self.status_folder, sequence + ".status")


class Order(NamedTuple):
    """One command of the server. `deadline` is seconds since 1970, 0 for none. The URLs and the
    proxy are secrets; `secret_failure` says why they could not be read."""

    sequence: str
    command: str
    task: str
    attempt: str
    hold_seconds: float
    skip_mounts: Tuple[str, ...]
    deadline: float
    endpoint_url: str
    ca_pem: str
    snapshot_urls: Mapping[str, str] = {}
    report_url: str = ""
    log_url: str = ""
    proxy: Optional[ProxySettings] = None
    secret_failure: Optional[Failure] = None
    action: str = ""
    word: str = ""


def read_environment(package_folder: str) -> Environment:
    """:raise Failure: extension.settings-invalid"""
    path = os.path.join(package_folder, "HandlerEnvironment.json")
    found = _json(path)
    first = found[0] if isinstance(found, list) and found else found
    inner = first.get("handlerEnvironment") if isinstance(first, dict) else None
    folders = inner if isinstance(inner, dict) else {}
    config, status = folders.get("configFolder"), folders.get("statusFolder")
    if not isinstance(config, str) or not isinstance(status, str):
        raise _invalid(path, "it names no configFolder and statusFolder")
    return Environment(os.path.dirname(package_folder.rstrip("/")), config, status)


def newest_sequence(environment: Environment, variables: Mapping[str, str]) -> Optional[str]:
    """The settings to follow: those that the agent names (`ConfigSequenceNumber`), else those it
    wrote last. None when there are none."""
    named = variables.get("ConfigSequenceNumber", "")
    if named.isdigit() and os.path.exists(environment.settings_file(named)):
        return named
    newest, written = None, 0.0
    for name in os.listdir(environment.config_folder):
        match = _SETTINGS_FILE.fullmatch(name)
        if match:
            at = os.stat(os.path.join(environment.config_folder, name)).st_mtime
            if at >= written:
                newest, written = match.group(1), at
    return newest


def read_order(environment: Environment, sequence: str) -> Order:
    """The command in settings `sequence`. Protected settings that cannot be read are no reason
    to be silent: the order is returned with `secret_failure`.

    :raise Failure: extension.settings-invalid
    """
    path = environment.settings_file(sequence)
    handler, public = _handler_settings(path)
    order = _public(path, sequence, public)
    if order.command == "idle":
        return order
    try:
        return _with_secrets(order, path, _protected(environment, path, handler))
    except Failure as failure:
        return order._replace(secret_failure=failure)


def _handler_settings(path: str) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """`handlerSettings`, and `publicSettings` in it. Where the server has no settings, the agent
    writes an empty file: then there is nothing to do."""
    if not os.path.getsize(path):
        return {}, {"command": "idle"}
    try:
        handler = _json(path)["runtimeSettings"][0]["handlerSettings"]
        public = handler.get("publicSettings")
        if isinstance(public, str):
            public = json.loads(public)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise _invalid(path, "there are no handler settings in it") from error
    if not isinstance(public, dict):
        raise _invalid(path, "publicSettings is no object")
    return handler, public


def _public(path: str, sequence: str, public: Dict[str, Any]) -> Order:
    command = public.get("command")
    if command not in COMMANDS:
        raise _invalid(path, "command must be one of " + ", ".join(COMMANDS))
    endpoint = public.get("endpoint") or {}
    hold, skip = public.get("hold_seconds", 0), public.get("skip_mounts") or []
    if not isinstance(hold, (int, float)) or not isinstance(skip, list):
        raise _invalid(path, "hold_seconds must be a number and skip_mounts a list")
    if not isinstance(endpoint, dict):
        raise _invalid(path, "endpoint must be an object")
    return Order(
        sequence=sequence,
        command=command,
        task=_text(public, "task", path),
        attempt=_text(public, "attempt", path),
        hold_seconds=float(hold),
        skip_mounts=tuple(one for one in skip if isinstance(one, str)),
        deadline=_instant(public.get("deadline"), path),
        endpoint_url=_text(endpoint, "url", path),
        ca_pem=_text(endpoint, "ca_pem", path),
        action=_text(public, "action", path),
        word=_text(public, "word", path),
    )


def _with_secrets(order: Order, path: str, found: Dict[str, Any]) -> Order:
    urls = found.get("snapshot_urls") or {}
    if not isinstance(urls, dict) or not all(isinstance(one, str) for one in urls.values()):
        raise _invalid(path, "snapshot_urls must be an object of URLs")
    if order.command == "snapshot" and not urls:
        raise _invalid(path, "there is no snapshot URL")
    return order._replace(
        snapshot_urls=urls,
        report_url=_text(found, "report_url", path),
        log_url=_text(found, "log_url", path),
        proxy=proxy_settings(found.get("proxy")),
    )


def _protected(environment: Environment, path: str, handler: Dict[str, Any]) -> Dict[str, Any]:
    sealed = handler.get("protectedSettings")
    thumbprint = handler.get("protectedSettingsCertThumbprint")
    if not sealed:
        return {}
    if not isinstance(sealed, str) or not isinstance(thumbprint, str):
        raise _invalid(path, "protectedSettings or its thumbprint is no text")
    if not _THUMBPRINT.fullmatch(thumbprint):
        raise _invalid(path, "protectedSettingsCertThumbprint is no thumbprint")
    try:
        plain = _decrypt(environment.agent_folder, base64.b64decode(sealed), thumbprint)
        found = json.loads(plain.decode("utf-8"))
    except ValueError as error:
        raise _invalid(path, "the protected settings are not base64 or not JSON") from error
    if not isinstance(found, dict):
        raise _invalid(path, "the protected settings are no object")
    return found


def _decrypt(agent_folder: str, sealed: bytes, thumbprint: str) -> bytes:
    """CMS EnvelopedData (RFC 5652) to the VM's own key, by the guest's openssl.

    :raise Failure: extension.settings-unreadable, extension.runtime-missing
    """
    base = os.path.join(agent_folder, thumbprint.upper())
    command = ["openssl", "cms", "-decrypt", "-inform", "DER"]
    command += ["-inkey", base + ".prv", "-recip", base + ".crt"]
    try:
        ran = subprocess.run(
            command,
            input=sealed,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=_OPENSSL_SECONDS,
        )
    except FileNotFoundError as error:
        raise Failure(
            "extension.runtime-missing",
            "The guest has no openssl, which the backup extension reads its settings with.",
            [Fact("openssl is not found", "guest", str(error))],
            "Install the distribution's openssl package.",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise _unreadable(thumbprint, "openssl did not end in time") from error
    if ran.returncode != 0:
        raise _unreadable(thumbprint, ran.stderr.decode("utf-8", "replace")[:2000])
    return ran.stdout


def _unreadable(thumbprint: str, raw: str) -> Failure:
    return Failure(
        "extension.settings-unreadable",
        "The protected settings cannot be decrypted with this VM's key.",
        [Fact("openssl cms -decrypt, certificate " + thumbprint, "guest", printable(raw))],
        retryable=True,
    )


def _instant(text: Any, path: str) -> float:
    if text in (None, ""):
        return 0.0
    try:
        return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))
    except (TypeError, ValueError) as error:
        raise _invalid(path, "deadline must look like 2026-01-31T23:59:59Z") from error


def _text(found: Dict[str, Any], key: str, path: str) -> str:
    value = found.get(key)
    value = "" if value is None else value
    if not isinstance(value, str):
        raise _invalid(path, key + " must be text")
    return value


def _json(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            return json.loads(file.read(_LARGEST_BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise _invalid(path, "it cannot be read") from error
    except ValueError as error:
        raise _invalid(path, "it is not JSON") from error


def _invalid(path: str, why: str) -> Failure:
    return Failure(
        "extension.settings-invalid",
        "The settings of the backup extension cannot be followed: {}.".format(why),
        [Fact(why, path)],
    )
