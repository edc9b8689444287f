"""The operator's script configuration: the known format, and what is said when it is wrong."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiesce.guest import scripts
from quiesce.guest.failure import Failure
from quiesce.guest.scripts import Script, parse_config, read_config, run

TEMPLATE = b"""{
    "pluginName" : "ScriptRunner",
    "preScriptLocation" : "/etc/azure/pre.sh",
    "postScriptLocation" : "",
    "preScriptParams" : ["", ""],
    "postScriptParams" : ["", ""],
    "preScriptNoOfRetries" : 2,
    "postScriptNoOfRetries" : 0,
    "timeoutInSeconds" : 30,
    "continueBackupOnFailure" : false,
    "fsFreezeEnabled" : true,
    "ScriptsExecutionPollTimeSeconds" : 2
}
"""


def test_the_known_template_is_understood() -> None:
    found = parse_config(TEMPLATE)
    assert found.pre == Script("/etc/azure/pre.sh", (), 2, 30)
    assert found.post is None
    assert found.configured
    assert not found.continue_on_failure
    assert found.freeze


def test_no_file_means_no_scripts(tmp_path: Path) -> None:
    assert not read_config(str(tmp_path / "none.json")).configured


@pytest.mark.parametrize(
    ("raw", "line", "said"),
    [
        (b"\xef\xbb\xbf{}", 1, "byte order mark"),
        ("{}".encode("utf-16"), 1, "UTF-16"),
        (b'{\n"a": "\xff"}', 2, "not UTF-8"),
        (b'{\n\n"a" 1}', 3, "not JSON"),
        (b"[]", 1, "one object"),
        (TEMPLATE.replace(b": 30", b": 1801"), 9, "from 0 to 1800"),
        (TEMPLATE.replace(b"false", b'"maybe"'), 10, "true or false"),
        (TEMPLATE.replace(b'"/etc/azure/pre.sh"', b'"pre.sh"'), 3, "absolute path"),
        (TEMPLATE.replace(b'["", ""]', b'"-v"', 1), 5, "list of texts"),
    ],
)
def test_a_wrong_configuration_is_named_with_its_line(raw: bytes, line: int, said: str) -> None:
    with pytest.raises(Failure) as caught:
        parse_config(raw, "/etc/azure/x.json")
    assert caught.value.code == "script.config-invalid"
    assert f"/etc/azure/x.json line {line} is not valid: " in caught.value.message
    assert said in caught.value.message


@given(st.binary(max_size=400))
def test_any_bytes_are_understood_or_refused_with_the_code(raw: bytes) -> None:
    assert _code_of(raw) in ("", "script.config-invalid")


_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=4)


@given(st.dictionaries(st.sampled_from(sorted(json.loads(TEMPLATE))), _JSON))
def test_any_values_are_understood_or_refused_with_the_code(found: dict[str, object]) -> None:
    assert _code_of(json.dumps(found).encode()) in ("", "script.config-invalid")


def _code_of(raw: bytes) -> str:
    """The code that a configuration is refused with, "" when it is understood."""
    try:
        parse_config(raw)
    except Failure as failure:
        return failure.code
    return ""


def test_a_configuration_that_others_may_read_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(TEMPLATE)
    path.chmod(0o644)
    with pytest.raises(Failure) as caught:
        read_config(str(path))
    assert caught.value.code == "script.permissions"
    assert f"chmod 600 '{path}'" in caught.value.remedy


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script's path. These tests need no root, so who owns the file is looked away from."""
    monkeypatch.setattr(scripts, "check", lambda script: None)
    return tmp_path / "script.sh"


def _write(path: Path, body: str) -> str:
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(0o700)
    return str(path)


def test_a_failing_script_is_named_with_its_status_and_its_words(script: Path) -> None:
    ran, failure = run(Script(_write(script, "echo 'disk on fire' >&2; exit 3")), "pre")
    assert ran.exit_code == 3
    assert "disk on fire" in ran.stderr
    assert failure is not None
    assert failure.code == "script.pre-failed"


def test_a_script_is_tried_again_as_often_as_configured(script: Path) -> None:
    count = script.with_name("count")
    body = f"echo x >> {count}; [ $(wc -l < {count}) -ge 3 ]"
    ran, failure = run(Script(_write(script, body), retries=2), "post")
    assert failure is None
    assert ran.exit_code == 0
    assert count.read_text().count("x") == 3


def test_a_script_over_its_time_is_ended_with_its_children(script: Path) -> None:
    pid = script.with_name("pid")
    body = f"sh -c 'trap \"\" TERM; echo $$ > {pid}; while :; do sleep 0.1; done' & wait"
    ran, failure = run(Script(_write(script, body), timeout_seconds=2), "pre")
    assert ran.exit_code is None
    assert failure is not None
    assert failure.code == ran.code == "script.timeout"
    deadline = time.monotonic() + 60
    while _lives(int(pid.read_text())):
        assert time.monotonic() < deadline, "a child of the script outlived it"
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    """A zombie that nobody has collected yet does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_that_keeps_standard_error_open_does_not_hold_the_backup_up(script: Path) -> None:
    began = time.monotonic()
    ran, failure = run(Script(_write(script, "sleep 60 & exit 0"), timeout_seconds=40), "pre")
    assert failure is None
    assert ran.exit_code == 0
    assert time.monotonic() - began < 30


def test_a_script_that_floods_standard_error_leaves_only_the_end(script: Path) -> None:
    body = "head -c 3000000 /dev/zero | tr '\\0' x >&2; echo END >&2"
    ran, _ = run(Script(_write(script, body)), "pre")
    assert len(ran.stderr) == 4096
    assert ran.stderr.endswith("END\n")


def test_a_missing_script_is_not_found(tmp_path: Path) -> None:
    ran, failure = run(Script(str(tmp_path / "none")), "pre")
    assert ran.exit_code is None
    assert failure is not None
    assert failure.code == "script.not-found"
