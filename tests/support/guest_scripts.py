"""The operator's own scripts in a guest, configured as existing backup products want it."""

from __future__ import annotations

import json

from quiesce.lab.guest import LabGuest

CONFIGURATION = "/etc/azure/VMSnapshotScriptPluginConfig.json"


def put_scripts(guest: LabGuest, *, pre: str, post: str, **settings: object) -> None:
    """`pre` and `post` are the bodies of shell scripts, `settings` further keys of the file."""
    config = {
        "pluginName": "ScriptRunner",
        "preScriptLocation": "/opt/pre.sh",
        "postScriptLocation": "/opt/post.sh",
        "preScriptParams": ["", ""],
        "postScriptParams": ["", ""],
        "preScriptNoOfRetries": 0,
        "postScriptNoOfRetries": 0,
        "timeoutInSeconds": 30,
        "continueBackupOnFailure": False,
        "fsFreezeEnabled": True,
        **settings,
    }
    write = 'mkdir -p /etc/azure /opt && printf %s "$2" > "$1" && chmod "$3" "$1"'
    for path, text, mode in (
        ("/opt/pre.sh", f"#!/bin/sh\n{pre}\n", "0700"),
        ("/opt/post.sh", f"#!/bin/sh\n{post}\n", "0700"),
        (CONFIGURATION, json.dumps(config), "0600"),
    ):
        guest.run(["sh", "-c", write, "put", path, text, mode])


def forget_scripts(guest: LabGuest) -> None:
    guest.run(f"rm -f {CONFIGURATION} /opt/pre.sh /opt/post.sh")
