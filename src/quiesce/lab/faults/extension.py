"""The backup extension in the guest: damaged, gone, stuck, without Python; and its scripts."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

from quiesce.lab import waagent
from quiesce.lab.faults.fault import Fault, Scene, fault
from quiesce.lab.faults.misfortunes import EXTENSION_FILES, FLIP
from quiesce.model.snapshot import Consistency

EXTENSION = "extension"
SCRIPT = "script"
CONFIGURATION = "/etc/azure/VMSnapshotScriptPluginConfig.json"


@fault("extension-corrupt", EXTENSION, "extension.manifest-invalid", first=True)
def extension_corrupt(scene: Scene) -> Iterator[None]:
    """Every file of the unpacked extension and its package has some bytes flipped."""
    scene.hand.run(["python3", "-c", FLIP, *EXTENSION_FILES])
    yield
    _forget_extension(scene)


@fault("extension-code-corrupt", EXTENSION, "extension.package-corrupt", first=True)
def extension_code_corrupt(scene: Scene) -> Iterator[None]:
    """The extension's own code has some bytes flipped; its manifest and handler are whole."""
    folder = f"{waagent.FOLDER}/Quiesce.VmBackup-*"
    # Python would go on with what it has compiled of a source whose time and size are the same.
    scene.hand.run(["python3", "-c", FLIP, f"{folder}/*.py", f"{folder}/__pycache__/*"])
    yield
    _forget_extension(scene)


@fault("extension-deleted", EXTENSION, "", first=True)
def extension_deleted(scene: Scene) -> Iterator[None]:
    """The folder of the installed extension was deleted once: its agent unpacks it again."""
    scene.hand.run(f"rm -r {waagent.FOLDER}/Quiesce.VmBackup-*/")
    yield
    _forget_extension(scene)


_STOPPER = """
import glob, json, os, time
begun = time.time()
while time.time() - begun < 120:
    for path in glob.glob("/run/quiesce/*/state.json"):
        try:
            state, driver = json.load(open(path)), json.load(open("/run/quiesce/driver"))
        except (OSError, ValueError):
            continue
        if state["state"] == "frozen":
            os.kill(driver["pid"], {number})
            open("/run/stopped", "w").write(str(driver["pid"]))
            raise SystemExit
    time.sleep(0.002)
"""
"""Sends a signal to the extension's process as soon as its session says that all is frozen. It runs
before, since no program starts from a frozen disk."""


def _when_frozen(scene: Scene, number: int) -> None:
    scene.hand.put("/run/stopper.py", _STOPPER.format(number=int(number)))
    scene.hand.run(
        "rm -f /run/stopped; systemd-run --quiet --collect --unit=stopper python3 /run/stopper.py"
    )


@fault(
    "extension-stuck",
    EXTENSION,
    "extension.stuck",
    first=True,
    policy={"hold_seconds": 4.0},
)
def extension_stuck(scene: Scene) -> Iterator[None]:
    """The extension's process stands still while the guest is frozen (SIGSTOP)."""
    _when_frozen(scene, signal.SIGSTOP)
    yield
    scene.hand.run(
        "systemctl stop stopper 2>/dev/null; kill -KILL $(cat /run/stopped) 2>/dev/null; true"
    )


@fault("extension-killed", EXTENSION, "extension.crashed", first=True)
def extension_killed(scene: Scene) -> Iterator[None]:
    """The extension's process is killed while the guest is frozen."""
    _when_frozen(scene, signal.SIGKILL)
    yield
    scene.hand.run("systemctl stop stopper 2>/dev/null; true")


_ANTIVIRUS = """
while sleep 0.2; do
    for file in /var/lib/waagent/Quiesce.VmBackup* /var/lib/quiesce/*.zip; do
        test -e "$file" && rm -rf "$file"
    done
done
"""


@fault(
    "extension-deleted-again-and-again",
    EXTENSION,
    "extension.deleted-by-antivirus",
    accepted=("extension.package-corrupt", "extension.manifest-invalid"),
    because="caught in the middle, some of its files are there and others are not",
    first=True,
    heals=False,
)
def extension_deleted_again(scene: Scene) -> Iterator[None]:
    """Something like an antivirus program deletes the extension wherever it appears."""
    scene.hand.put("/run/antivirus", _ANTIVIRUS)
    scene.hand.run("systemd-run --quiet --unit=antivirus sh /run/antivirus; sleep 1")
    yield
    scene.hand.run("systemctl stop antivirus")
    _forget_extension(scene)


@fault("python-missing", EXTENSION, "extension.runtime-missing", first=True, heals=False)
def python_missing(scene: Scene) -> Iterator[None]:
    """Python was removed while the Azure Linux agent goes on with the one it has in memory."""
    scene.hand.run("mkdir -p /root/aside; mv /usr/bin/python3* /root/aside/")
    yield
    scene.hand.run("mv /root/aside/python3* /usr/bin/")


def _forget_extension(scene: Scene) -> None:
    """As an administrator ends it who has had enough: the agent unpacks it anew."""
    scene.hand.run(f"rm -rf {waagent.FOLDER}/Quiesce.VmBackup* ; systemctl restart {waagent.UNIT}")


# --- scripts


def _scripts(scene: Scene, *, pre: str = "true", post: str = "true", **settings: object) -> None:
    config = {
        "pluginName": "ScriptRunner",
        "preScriptLocation": "/opt/pre.sh",
        "postScriptLocation": "/opt/post.sh",
        "preScriptParams": [""],
        "postScriptParams": [""],
        "preScriptNoOfRetries": 0,
        "postScriptNoOfRetries": 0,
        "timeoutInSeconds": 30,
        "continueBackupOnFailure": True,
        "fsFreezeEnabled": True,
        **settings,
    }
    scene.hand.put("/opt/pre.sh", f"#!/bin/sh\n{pre}\n", mode="0700")
    scene.hand.put("/opt/post.sh", f"#!/bin/sh\n{post}\n", mode="0700")
    scene.hand.put(CONFIGURATION, json.dumps(config, indent=1))


def _script_row(
    name: str,
    expected: str,
    words: str,
    *,
    then: str = "true",
    quick: bool = False,
    pre: str = "true",
    post: str = "true",
    **settings: object,
) -> Fault:
    """`then` is what befalls the files, as a command in the guest. Quiesce writes nobody's scripts
    anew: no such row is healed, whatever the point is worth otherwise."""

    def injector(scene: Scene) -> Iterator[None]:
        _scripts(scene, pre=pre, post=post, **settings)
        scene.hand.run(then)
        yield
        scene.hand.run(f"rm -rf {CONFIGURATION} /opt/pre.sh /opt/post.sh")

    made = fault(
        name,
        SCRIPT,
        expected,
        words=words,
        least=Consistency.APPLICATION,
        heals=False,
        quick=quick,
    )
    return made(injector)


SCRIPT_ROWS = (
    _script_row(
        "pre-script-fails",
        "script.pre-failed",
        "The pre-script ends with 1, and the backup may go on.",
        pre="echo no licence >&2; exit 1",
        quick=True,
    ),
    _script_row(
        "pre-script-forbids",
        "script.pre-failed",
        "The pre-script ends with 1, and forbids the backup by that.",
        pre="echo no licence >&2; exit 1",
        continueBackupOnFailure=False,
    ),
    _script_row(
        "post-script-fails",
        "script.post-failed",
        "The post-script ends with 1.",
        post="echo cannot resume >&2; exit 1",
    ),
    _script_row(
        "script-too-slow",
        "script.timeout",
        "The pre-script does not end within its time limit.",
        pre="sleep 60",
        timeoutInSeconds=2,
    ),
    _script_row(
        "script-not-found",
        "script.not-found",
        "The configured pre-script is not there.",
        then="rm /opt/pre.sh",
    ),
    _script_row(
        "script-not-executable",
        "script.permissions",
        "The pre-script may not be executed.",
        then="chmod 0600 /opt/pre.sh",
    ),
    _script_row(
        "script-of-another-owner",
        "script.permissions",
        "The pre-script belongs to somebody else than root.",
        then="chown 1000 /opt/pre.sh",
    ),
    _script_row(
        "script-config-not-json",
        "script.config-invalid",
        "The scripts' configuration is no valid JSON: a comma is missing.",
        then=f"sed -i '3s/,$//' {CONFIGURATION}",
    ),
    _script_row(
        "script-config-open-to-others",
        "script.permissions",
        "Everybody may write the scripts' configuration.",
        then=f"chmod 0666 {CONFIGURATION}",
    ),
    _script_row(
        "script-config-of-another-owner",
        "script.permissions",
        "The scripts' configuration belongs to somebody else than root.",
        then=f"chown 1000 {CONFIGURATION}",
    ),
)
