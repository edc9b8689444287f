"""A handler's folders as the Azure Linux agent lays them out, without the agent.

Layout and file contents: WALinuxAgent, ga/exthandlers.py (download, initialize, update_settings,
launch_command).
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

from quiesce.agent.package import ExtensionPackage, extension_package

NAME = "Quiesce.VmBackup"


class HandlerFolder:
    def __init__(self, agent_folder: Path, package: ExtensionPackage | None = None) -> None:
        package = package or extension_package()
        self.agent_folder = agent_folder
        self.base = agent_folder / f"{NAME}-{package.version}.1"
        with zipfile.ZipFile(io.BytesIO(package.content)) as archive:
            archive.extractall(self.base)
        for path in self.base.rglob("*"):
            path.chmod(path.stat().st_mode | 0o100)  # as the agent does
        self.config, self.status = self.base / "config", self.base / "status"
        self.config.mkdir(mode=0o700)
        self.status.mkdir(mode=0o700)
        places = {
            "logFolder": str(agent_folder / "log"),
            "configFolder": str(self.config),
            "statusFolder": str(self.status),
            "heartbeatFile": str(self.base / "heartbeat.log"),
        }
        environment = [{"name": NAME, "version": 1.0, "handlerEnvironment": places}]
        (self.base / "HandlerEnvironment.json").write_text(json.dumps(environment))
        self._thumbprint = self._make_key()

    def _make_key(self) -> str:
        new = self.agent_folder / "new"
        command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=LinuxTransport"
        subprocess.run(
            [*command.split(), "-keyout", f"{new}.prv", "-out", f"{new}.crt"],
            check=True,
            capture_output=True,
        )
        shown = subprocess.run(
            ["openssl", "x509", "-in", f"{new}.crt", "-noout", "-fingerprint", "-sha1"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        thumbprint = shown.strip().partition("=")[2].replace(":", "")
        for kind in ("prv", "crt"):
            Path(f"{new}.{kind}").rename(self.agent_folder / f"{thumbprint}.{kind}")
        return thumbprint

    def settings(self, sequence: int, public: object, protected: object = None) -> None:
        """Write `config/<sequence>.settings`; `protected` is encrypted to this VM's key."""
        handler: dict[str, Any] = {"publicSettings": public}
        if protected is not None:
            sealed = subprocess.run(
                [
                    *("openssl", "cms", "-encrypt", "-binary", "-outform", "DER", "-des3"),
                    str(self.agent_folder / f"{self._thumbprint}.crt"),
                ],
                input=json.dumps(protected).encode(),
                check=True,
                capture_output=True,
            ).stdout
            handler["protectedSettings"] = base64.b64encode(sealed).decode()
            handler["protectedSettingsCertThumbprint"] = self._thumbprint
        text = json.dumps({"runtimeSettings": [{"handlerSettings": handler}]})
        (self.config / f"{sequence}.settings").write_text(text)

    def call(
        self, action: str, sequence: int | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """As the agent calls a command of the manifest."""
        environment = dict(os.environ, **variables)
        if sequence is not None:
            environment["ConfigSequenceNumber"] = str(sequence)
        return subprocess.run(
            self._command(action),
            shell=True,
            cwd=self.base,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def begin(self, action: str) -> int:
        """The same without waiting for its end; returns its process group."""
        return subprocess.Popen(
            self._command(action),
            shell=True,
            cwd=self.base,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ).pid

    def _command(self, action: str) -> str:
        manifest = json.loads((self.base / "HandlerManifest.json").read_text())
        return f"{self.base}/{manifest[0]['handlerManifest'][f'{action}Command']}"

    def file(self, sequence: int) -> dict[str, Any]:
        """`status` of the status file."""
        path = self.status / f"{sequence}.status"
        assert path.stat().st_size <= 128 * 1024
        (found,) = json.loads(path.read_text())
        assert isinstance(found["status"], dict)
        return found["status"]

    def report(self, sequence: int) -> dict[str, Any]:
        (inner,) = self.file(sequence)["substatus"]
        assert inner["name"] == "quiesce"
        text = inner["formattedMessage"]["message"]
        assert len(text) <= 64 * 1024
        found = json.loads(text)
        assert isinstance(found, dict)
        return found

    def await_stage(self, sequence: int, *stages: str, seconds: float = 40.0) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while True:
            path = self.status / f"{sequence}.status"
            if path.exists() and (found := self.report(sequence))["stage"] in stages:
                return found
            assert time.monotonic() < until, f"not {stages}: {path.exists() and found}"
            time.sleep(0.02)

    def everything_written(self) -> str:
        """All that the extension has put into its folder, to look for secrets in."""
        return "\n".join(path.read_text() for path in self.status.iterdir())
