"""kill -9 of the server at any moment: after a restart the job ends right and nothing is left."""

from __future__ import annotations

from pathlib import Path

import pytest
from paper_machine import PaperMachine, RunningServer, eventually
from paper_vm import PaperHypervisor


@pytest.mark.parametrize("stage", ["prepare", "pre-script", "frozen", "take", "open", "release"])
def test_backup_completes_after_the_server_was_killed(
    server: RunningServer, machine: PaperMachine, stage: str
) -> None:
    machine.hold(stage)
    job_id = server.api.post("/vms/web/backup").json()["id"]
    machine.reached(stage)

    server.kill()
    machine.let_go(stage)
    server.start()

    job = server.ended(job_id)
    assert job["status"] == "Completed", job
    assert machine.clean
    assert [point["job_id"] for point in server.api.get("/points").json()] == [job_id]


def test_transfer_goes_on_from_the_open_snapshot_after_the_server_was_killed(
    server: RunningServer, machine: PaperMachine, tmp_path: Path
) -> None:
    machine.hold("read")
    job_id = server.api.post("/vms/web/backup").json()["id"]
    machine.reached("read")
    (machine.folder / "vda.disk").write_bytes(b"written after the snapshot")

    server.kill()
    machine.let_go("read")
    server.start()

    job = server.ended(job_id)
    assert job["status"] == "Completed", job
    snapshot_log = [line["text"] for line in job["log"] if "The point was taken" in line["text"]]
    assert len(snapshot_log) == 1, "the finished snapshot was taken again"
    target = tmp_path / "restored.img"
    restore = server.api.post("/restores", json={"point": job["point_id"], "to": str(target)})
    assert server.ended(restore.json()["id"])["status"] == "Completed"
    assert target.read_bytes() == machine.content
    assert machine.clean


def test_transfer_fails_with_its_reason_when_the_snapshot_is_gone_after_the_restart(
    server: RunningServer, machine: PaperMachine
) -> None:
    machine.hold("read")
    job_id = server.api.post("/vms/web/backup").json()["id"]
    machine.reached("read")

    server.kill()
    machine.let_go("read")
    PaperHypervisor(machine.folder).release(job_id, committed=False)
    server.start()

    job = server.ended(job_id)
    assert [task["status"] for task in job["tasks"]] == ["Completed", "Failed"]
    assert job["failure"]["code"] == "vm.gone"
    assert server.api.get("/points").json() == []
    assert machine.clean


def test_a_cancellation_survives_the_kill(server: RunningServer, machine: PaperMachine) -> None:
    machine.hold("frozen")
    job_id = server.api.post("/vms/web/backup").json()["id"]
    machine.reached("frozen")
    assert server.api.post(f"/jobs/{job_id}/cancel").status_code == 202

    server.kill()
    machine.let_go("frozen")
    server.start()

    assert server.ended(job_id)["status"] == "Cancelled"
    assert machine.clean


def test_leftovers_of_tasks_that_nobody_knows_are_released_at_the_start(
    server: RunningServer, machine: PaperMachine
) -> None:
    server.kill()
    (machine.folder / "sessions" / "0123456789ab").mkdir(parents=True)
    server.start()

    eventually(lambda: machine.clean, "the sweep")


def test_a_stop_does_not_wait_for_the_transfer_which_goes_on_at_the_next_start(
    server: RunningServer, machine: PaperMachine
) -> None:
    machine.hold("read")
    job_id = server.api.post("/vms/web/backup").json()["id"]
    machine.reached("read")

    assert server.stop() == 0
    machine.let_go("read")
    server.start()

    assert server.ended(job_id)["status"] == "Completed"
    assert machine.clean


def test_every_log_line_of_a_job_carries_its_id_and_no_line_a_secret(
    server: RunningServer, tmp_path: Path
) -> None:
    job_id = server.api.post("/vms/web/backup").json()["id"]
    server.ended(job_id)

    texts = {line["text"] for line in server.job(job_id)["log"]}
    logged = {line["event"] for line in server.lines() if line.get("job") == job_id}
    assert texts <= logged
    data = tmp_path / "data"
    for secret in ("api-token", "portal-password", "vault.key"):
        assert (data / secret).read_text().strip() not in server.log.read_text()
        assert (data / secret).stat().st_mode & 0o777 == 0o600
