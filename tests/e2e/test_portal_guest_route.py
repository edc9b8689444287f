"""Agent, extension, network and setbacks in a real browser; the guest's answers are of paper."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect
from ports import free_port
from test_portal_browser import (
    CHROMIUM,
    Browser,
    browser,
    folder,
    log_in,
    opened,
    picture,
    wait_until,
)
from test_portal_browser import Server as PortalServer

__all__ = ["browser", "folder"]
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs chromium")


@pytest.fixture(scope="module")
def portal(folder: Path) -> Iterator[PortalServer]:
    data, port = folder / "data", free_port()
    script = Path(__file__).with_name("portal_on_paper.py")
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(script), str(data), str(port)], stdout=log, stderr=log
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
        yield PortalServer(url, data, {})
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def page(browser: Browser, portal: PortalServer) -> Iterator[Page]:
    page = opened(browser, portal)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    log_in(page, portal.password)
    page.get_by_role("link", name="paper", exact=True).click()
    yield page
    page.context.close()
    assert errors == []


def card(page: Page, title: str) -> Locator:
    return page.locator(".card", has=page.get_by_role("heading", name=title, exact=True))


def test_an_agent_tells_how_it_is_and_how_far_it_has_come(page: Page) -> None:
    agent = card(page, "Azure Linux agent")
    expect(agent.locator(".chip")).to_have_text("ready")
    for words in ("2.7.3.0", "debian 12", "8, acknowledged up to 7", "Quiesce.VmBackup 0.2.0.1"):
        expect(agent).to_contain_text(words)
    expect(page.get_by_text("guest, then host")).to_be_visible()


def test_the_extension_of_one_agent_is_reinstalled_and_uninstalled(page: Page) -> None:
    by_qga = page.locator(".channel", has_text="QEMU guest agent")
    expect(by_qga).to_contain_text("0.2.0+old, the next backup brings 0.2.0+new")
    by_qga.get_by_role("button", name="Reinstall").click()
    page.get_by_role("dialog").get_by_role("button", name="Reinstall").click()
    expect(by_qga).not_to_contain_text("0.2.0+old")
    by_qga.get_by_role("button", name="Uninstall").click()
    page.get_by_role("dialog").get_by_role("button", name="Uninstall").click()
    expect(by_qga).to_contain_text("The next backup installs it.")
    expect(page.locator(".channel", has_text="Azure Linux agent")).to_contain_text("0.2.0.1")


def test_a_reinstallation_that_fails_says_why_and_the_card_stays(page: Page) -> None:
    by_waagent = page.locator(".channel", has_text="Azure Linux agent")
    by_waagent.get_by_role("button", name="Reinstall").click()
    page.get_by_role("dialog").get_by_role("button", name="Reinstall").click()
    expect(page.get_by_role("dialog").locator(".failure")).to_contain_text("agent.stale")
    expect(by_waagent).to_contain_text("0.2.0.1")


def test_a_network_test_shows_each_hop_and_where_it_breaks(page: Page) -> None:
    page.get_by_role("button", name="Test the network").click()
    network = card(page, "Network")
    rows = network.locator(".hops tbody tr")
    expect(rows).to_have_count(5)
    expect(rows.nth(1)).to_contain_text("✓")
    expect(rows.nth(1)).to_contain_text("DHCP option 245")
    expect(rows.nth(2)).to_contain_text("–")
    expect(rows.nth(3)).to_contain_text("✗")
    expect(rows.nth(3)).to_contain_text("5013")
    expect(network.locator(".failure")).to_contain_text("network.blocked")
    expect(network.locator(".failure")).to_contain_text("quiesce network allowlist VM")
    picture(page, "portal-network", full=True)


def test_the_doctor_shows_lights_and_mends_after_its_plan_was_seen(page: Page) -> None:
    doctor = card(page, "Doctor")
    doctor.get_by_role("button", name="Examine").click()
    expect(doctor.locator(".card-head .chip").first).to_have_text("red")
    expect(doctor.locator(".checks tr")).to_have_count(3)
    expect(doctor).to_contain_text("/mnt/<i>loop")
    expect(doctor.locator(".failure")).to_contain_text("is stopped in the guest")
    picture(page, "portal-doctor", full=True)
    doctor.get_by_role("button", name="Mend …").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Restart the agent through the other one.")
    dialog.get_by_role("button", name="Mend", exact=True).click()
    expect(doctor).to_contain_text("qemu-guest-agent.service is active.")
    expect(doctor.locator(".mends .chip")).to_have_text("done")
    expect(doctor.get_by_role("button", name="Mend …")).to_be_hidden()
    expect(doctor.locator(".failure")).to_have_count(0)


def test_a_policys_route_and_what_it_leaves_to_people_are_changed(page: Page) -> None:
    page.get_by_label("Policy").click()
    page.get_by_role("option", name="daily").click()
    page.get_by_role("button", name="Change …").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("host, then guest").click()
    dialog.get_by_text("Restart the agent through the other one.").click()
    dialog.get_by_role("button", name="Save").click()
    expect(page.locator(".fact", has_text="Route")).to_contain_text("host, then guest")
    mends = page.locator(".fact", has_text="Mends by itself")
    expect(mends).to_contain_text("not: restart-agent")


def test_a_job_shows_its_route_and_why_it_was_not_the_other(
    page: Page, portal: PortalServer
) -> None:
    page.goto(f"{portal.url}/job/2872b897b881")
    setback = page.locator(".setback")
    expect(setback).to_contain_text("The guest route failed and was got round:")
    for words in (
        "network.blocked",
        "A firewall between the guest and the storage endpoint",
        "proven",
        "ExtensionSnapshotFailedNoNetwork",
        "<i>timed out</i>",
        "ActiveState=<b>inactive",
        "Next step",
        "network.no-route",
    ):
        expect(setback).to_contain_text(words)
    expect(card(page, "Done by itself")).to_contain_text("The host route took the point.")
    route = page.locator(".fact", has_text="Route")
    expect(route).to_contain_text("host")
    picture(page, "portal-diagnosis", full=True)
