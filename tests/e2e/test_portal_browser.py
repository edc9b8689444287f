"""The portal in a real browser, over a real server with real jobs.

Four VMs: `web1` runs in a bare QEMU without an operating system, so nothing answers on its agent's
channel; `archive` is off and backed up from its image; `mail` has vanished, so its job fails;
`azure` has an Azure Linux agent that never comes.
Sets `QUIESCE_PICTURES` to a folder to keep the screenshots of the documentation.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from ports import free_port

expect.set_options(timeout=30_000)  # a busy machine is no defect of the page

CHROMIUM = shutil.which("chromium")
QEMU = shutil.which("qemu-system-x86_64")
PICTURES = os.environ.get("QUIESCE_PICTURES", "")

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and QEMU), reason="needs chromium and qemu-system-x86_64"
)


@dataclass(frozen=True)
class Server:
    url: str
    data: Path
    environment: dict[str, str]

    @property
    def password(self) -> str:
        return (self.data / "portal-password").read_text(encoding="ascii").strip()

    def cli(self, *words: str, expected: int = 0) -> Any:
        """A command's answer as JSON."""
        done = subprocess.run(
            [sys.executable, "-m", "quiesce.cli.main", *words, "--json"],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == expected, done.stdout + done.stderr
        return json.loads(done.stdout)


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Short enough for unix sockets, which pytest's tmp_path is not."""
    with tempfile.TemporaryDirectory(prefix="vms-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    data, port = folder / "data", free_port()
    environment = {
        **os.environ,
        "QUIESCE_DATA_FOLDER": str(data),
        "QUIESCE_PORT": str(port),
        "QUIESCE_AGENT_ADDRESS": "127.0.0.1",
        "QUIESCE_AGENT_PORT": str(free_port()),
        "QUIESCE_HOST_PLUGIN_PORT": str(free_port()),
        "QUIESCE_STORAGE_PORT": str(free_port()),
        "TZ": "Europe/Berlin",
    }
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "quiesce.cli.main", "server"],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, (folder / "server.log").read_text()
        try:
            return httpx.get(f"{url}/api/v1/health").is_success
        except httpx.HTTPError:
            return False

    try:
        wait_until(answers, "the server to answer", seconds=60)
        yield Server(url, data, environment)
    finally:
        process.terminate()
        process.wait(30)


def image(path: Path) -> Path:
    """A qcow2 disk of 1 GiB with 48 MiB of data that cannot be compressed."""
    raw = path.with_suffix(".raw")
    raw.write_bytes(os.urandom(48 << 20))
    os.truncate(raw, 1 << 30)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path], check=True)
    raw.unlink()
    return path


@pytest.fixture(scope="module")
def running_vm(folder: Path) -> Iterator[tuple[Path, Path]]:
    """A QEMU without an operating system: (QMP socket, agent socket that nobody answers)."""
    qmp, agent = folder / "web1.qmp", folder / "web1.qga"
    disk = image(folder / "web1.qcow2")
    process = subprocess.Popen(
        [
            str(QEMU), "-machine", "q35", "-accel", "tcg", "-m", "64", "-display", "none",
            "-nodefaults",
            "-blockdev", f"driver=file,filename={disk},node-name=f0",
            "-blockdev", "driver=qcow2,file=f0,node-name=system",
            "-device", "virtio-blk,drive=system,id=system",
            "-chardev", f"socket,path={agent},server=on,wait=off,id=qga0",
            "-device", "virtio-serial",
            "-device", "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0",
            "-qmp", f"unix:{qmp},server=on,wait=off",
        ],
    )  # fmt: skip
    try:
        wait_until(qmp.exists, "QEMU's monitor")
        yield qmp, agent
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def jobs(server: Server, folder: Path, running_vm: tuple[Path, Path]) -> dict[str, Any]:
    """One ended job of each VM, by VM."""
    qmp, agent = running_vm
    server.cli("policy", "create", "nightly", "--at", "02:30", "--zone", "Europe/Berlin")
    server.cli("vm", "add", "web1", "--qmp", str(qmp), "--qga", str(agent))
    disk = image(folder / "archive.qcow2")
    server.cli("vm", "add", "archive", "--qmp", str(folder / "off.qmp"), "--disk", f"vda={disk}")
    server.cli("vm", "add", "mail", "--qmp", str(folder / "mail.qmp"))
    server.cli(
        "vm", "add", "azure", "--qmp", str(folder / "azure.qmp"), "--agent", "waagent",
        "--proxy-https", "http://azure:hush@10.0.0.3:3128",
    )  # fmt: skip
    server.cli("protect", "web1", "--policy", "nightly")
    server.cli("protect", "mail", "--policy", "nightly")
    return {
        "mail": server.cli("backup", "mail", "--wait", expected=3),
        "archive": server.cli("backup", "archive", "--wait"),
        "web1": server.cli("backup", "web1", "--wait", expected=4),
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield chromium
        chromium.close()


def opened(browser: Browser, server: Server, *, dark: bool = False) -> Page:
    context = browser.new_context(
        viewport={"width": 1180, "height": 760}, color_scheme="dark" if dark else "light"
    )
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.goto(server.url)
    return page


@pytest.fixture
def page(browser: Browser, server: Server, jobs: dict[str, Any]) -> Iterator[Page]:
    """A browser that has logged in, and that must not meet a script error."""
    page = opened(browser, server)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    log_in(page, server.password)
    yield page
    page.context.close()
    assert errors == []


def log_in(page: Page, password: str) -> None:
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def picture(page: Page, name: str, *, full: bool = False) -> None:
    if PICTURES:
        path = Path(PICTURES) / f"{name}.png"
        page.screenshot(path=path, full_page=full, animations="disabled")
        assert path.stat().st_size < 300_000


def test_the_password_opens_the_list_of_vms(page: Page) -> None:
    expect(page.get_by_role("heading", name="VMs")).to_be_visible()
    row = page.get_by_role("row", name="web1")
    expect(row).to_contain_text("nightly")
    expect(row).to_contain_text("Completed with warning")
    expect(page.get_by_role("row", name="mail")).to_contain_text("Failed")
    picture(page, "portal-vms")


def test_a_failed_job_shows_its_cause_evidence_and_next_step(
    page: Page, server: Server, jobs: dict[str, Any]
) -> None:
    page.goto(f"{server.url}/job/{jobs['mail']['id']}")
    failure = page.locator(".failure")
    expect(failure).to_contain_text(jobs["mail"]["failure"]["code"])
    expect(failure).to_contain_text(jobs["mail"]["failure"]["message"])
    for fact in jobs["mail"]["failure"]["evidence"]:
        expect(failure).to_contain_text(fact["fact"])
    expect(failure).to_contain_text("Next step")
    picture(page, "portal-job-failed", full=True)
    failure.get_by_role("link", name=jobs["mail"]["failure"]["code"]).click()
    expect(page.get_by_text("quiesce vm list")).to_be_visible()


def test_a_completed_job_shows_both_tasks_and_why_the_point_is_no_better(
    page: Page, server: Server, jobs: dict[str, Any]
) -> None:
    page.goto(f"{server.url}/job/{jobs['web1']['id']}")
    expect(page.get_by_text("Take snapshot")).to_be_visible()
    transfer = page.locator(".task", has_text="Transfer data to vault")
    expect(transfer).to_contain_text("Completed")
    expect(transfer).to_contain_text("48.0 MiB")
    expect(page.get_by_text("crash – ")).to_be_visible()
    picture(page, "portal-job", full=True)


def test_a_vm_shows_its_points_and_that_its_agent_does_not_answer(page: Page) -> None:
    page.get_by_role("link", name="web1", exact=True).click()
    points = page.locator(".card", has_text="Recovery points")
    expect(points.get_by_role("row").nth(1)).to_contain_text("crash")
    extension = page.locator(".card", has_text="Backup extension")
    expect(extension).to_contain_text("agent.", timeout=30_000)
    picture(page, "portal-vm", full=True)


def test_a_vm_shows_what_is_known_of_its_azure_agent(page: Page) -> None:
    page.get_by_role("link", name="azure", exact=True).click()
    agent = page.locator(".card", has=page.get_by_role("heading", name="Azure Linux agent"))
    expect(agent).to_contain_text("never seen")
    expect(page.get_by_text("http://azure:***@10.0.0.3:3128")).to_be_visible()
    assert "hush" not in page.content()
    extension = page.locator(".card", has_text="Backup extension")
    expect(extension).to_contain_text("agent.never-seen")
    expect(extension.get_by_role("button")).to_have_count(0)


def test_a_network_test_that_cannot_be_run_says_why(page: Page) -> None:
    page.get_by_role("link", name="azure", exact=True).click()
    page.get_by_role("button", name="Test the network").click()
    expect(page.get_by_text("The guest is probing …")).to_be_visible()
    failure = page.get_by_role("dialog").locator(".failure")
    expect(failure).to_contain_text("agent.never-seen", timeout=60_000)
    expect(failure).to_contain_text("Next step")
    failure.get_by_role("button", name="Close").click()
    expect(page.get_by_text("The probe could not be run.")).to_be_visible()


def test_a_backup_started_in_the_portal_runs_to_its_end_before_ones_eyes(page: Page) -> None:
    page.get_by_role("row", name="archive").get_by_role("button", name="Back up now").click()
    expect(page.get_by_role("heading", name="Backup of archive")).to_be_visible()
    expect(page.locator("h1 + .chip, .chip").first).to_have_text("Completed", timeout=60_000)


def test_a_disk_restored_from_the_portal_is_the_disk_of_the_point(page: Page, folder: Path) -> None:
    target = folder / "restored.raw"
    page.get_by_role("link", name="archive", exact=True).click()
    page.get_by_role("button", name="Restore …").first.click()
    page.get_by_label("Folder on the server's host; for one disk also the file").fill(str(target))
    page.get_by_role("button", name="Restore", exact=True).click()
    expect(page.get_by_role("heading", name="Restore of archive")).to_be_visible()
    expect(page.locator(".chip").first).to_have_text("Completed", timeout=60_000)
    compared = subprocess.run(
        ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", target, folder / "archive.qcow2"],
        check=False,
    )
    assert compared.returncode == 0


def test_a_refused_restore_says_why(page: Page, folder: Path) -> None:
    page.get_by_role("link", name="archive", exact=True).click()
    page.get_by_role("button", name="Restore …").first.click()
    page.get_by_label("Folder on the server's host; for one disk also the file").fill(
        "not/absolute"
    )
    page.get_by_role("button", name="Restore", exact=True).click()
    expect(page.locator(".q-dialog .failure")).to_contain_text("input.path-invalid")


def test_the_jobs_page_lists_every_job_and_the_vault_page_its_figures(page: Page) -> None:
    page.get_by_role("link", name="Jobs", exact=True).click()
    expect(page.get_by_role("row", name="web1")).to_be_visible()
    picture(page, "portal-jobs")
    page.get_by_role("link", name="Vault", exact=True).click()
    expect(page.get_by_text("Protected", exact=True)).to_be_visible()


def test_a_damaged_point_is_marked_and_its_ranges_are_named(page: Page, server: Server) -> None:
    packs = (server.data / "vault" / "packs").glob("*/*")
    pack = max(packs, key=lambda path: path.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.write_bytes(data)
    page.get_by_role("link", name="Vault", exact=True).click()
    page.get_by_role("button", name="Verify").click()
    expect(page.locator(".chip").first).to_have_text("Failed", timeout=60_000)
    report = server.cli("vault", "status")["damage"]
    (lost, *_) = report["points"][0]["disks"][0]["ranges"]
    told = f"{lost['offset_bytes']} + {lost['length_bytes']} (heals)"
    expect(page.locator(".failure .damage")).to_contain_text(told)
    page.get_by_role("link", name="Vault", exact=True).click()
    expect(
        page.get_by_text("Damage was noticed: 0 packs are missing, 1 are damaged")
    ).to_be_visible()
    damage = page.locator(".failure", has=page.locator(".damage"))
    expect(damage).to_contain_text(told)
    picture(page, "portal-vault-damaged", full=True)
    damage.get_by_role("link", name=report["points"][0]["vm"]).first.click()
    mark = page.locator(".card", has_text="Recovery points").locator(".chip.tone-bad").first
    expect(mark).to_have_text("Damaged, heals")
    page.get_by_role("button", name="Restore …").first.click()
    expect(page.get_by_text("This point is damaged:")).to_be_visible()


def test_nothing_is_shown_without_the_password(browser: Browser, server: Server) -> None:
    page = opened(browser, server, dark=True)
    expect(page.get_by_label("Password")).to_be_visible()
    picture(page, "portal-login")
    page.goto(f"{server.url}/jobs")
    assert page.url == f"{server.url}/login?next=%2Fjobs"
    log_in(page, server.password)
    assert page.url == f"{server.url}/jobs"
    page.context.close()


def test_logging_out_ends_the_session_for_good(browser: Browser, server: Server) -> None:
    page = opened(browser, server)
    log_in(page, server.password)
    cookies = page.context.cookies()
    assert [cookie["httpOnly"] for cookie in cookies] == [True]
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Password")).to_be_visible()
    page.context.add_cookies([{k: cookies[0][k] for k in ("name", "value", "domain", "path")}])
    page.goto(f"{server.url}/jobs")
    expect(page.get_by_label("Password")).to_be_visible()
    page.context.close()


def test_dark_follows_the_system_and_can_be_chosen(
    browser: Browser, server: Server, jobs: dict[str, Any]
) -> None:
    page = opened(browser, server, dark=True)
    log_in(page, server.password)
    ground = "getComputedStyle(document.querySelector('.card')).backgroundColor"
    expect(page.get_by_role("row", name="web1")).to_be_visible()
    assert page.evaluate(ground) == "rgb(23, 30, 34)"
    picture(page, "portal-dark")
    page.get_by_role("button", name="Light or dark").click()
    page.get_by_role("button", name="Light or dark").click()
    page.wait_for_function(f"{ground} === 'rgb(255, 255, 255)'")
    page.context.close()
