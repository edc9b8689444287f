"""Names of restored files, made from what the guest's administrator called the disks."""

from __future__ import annotations

from quiesce.service.restore import _file_names


def test_a_long_name_in_any_script_becomes_a_name_that_a_file_system_takes() -> None:
    names = _file_names(["漢" * 90, "漢" * 91], ".qcow2")
    assert len(set(names)) == 2
    assert all(name.startswith("漢" * 33) and len(name.encode()) < 120 for name in names)
