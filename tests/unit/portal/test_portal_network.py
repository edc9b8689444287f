"""A probe and a setback as the portal shows them."""

from __future__ import annotations

from quiesce.diagnosis.phrases import goal_words, proxy_words, setback_title
from quiesce.model.failure import FailureReport
from quiesce.model.network import Hop, NetworkReport
from quiesce.model.policy import RoutePreference
from quiesce.model.vm import AgentKind
from quiesce.portal.network_card import hops_html
from quiesce.portal.words import route_words

EVIL = "<script>alert(1)</script>"


def test_what_a_guest_tells_in_a_probe_is_text_and_not_markup() -> None:
    shown = hops_html(
        NetworkReport(
            vm="web1",
            channel="waagent",
            endpoint=f"https://{EVIL}",
            hops=(Hop(EVIL, False, EVIL, 1.0, EVIL, EVIL),),
            setbacks=(FailureReport(EVIL, EVIL),),
        )
    )
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") == 6


def test_a_hop_that_failed_keeps_the_guests_own_words_and_one_not_tried_has_no_time() -> None:
    shown = hops_html(
        NetworkReport(
            "web1",
            "qga",
            "https://168.63.129.16",
            (
                Hop("dhcp-245", True, "168.63.129.16", 1.4, raw="not shown"),
                Hop("tcp", False, "no answer", 5000.0, "network.blocked", "timed out"),
                Hop("tls", None, "not tried"),
            ),
        )
    )
    good, bad, untried = shown.split("<tr>")[2:]
    assert "✓" in good
    assert "DHCP option 245" in good
    assert "not shown" not in good
    assert "✗" in bad
    assert "timed out" in bad
    assert "5000" in bad
    assert "–" in untried
    assert "0" not in untried


def test_the_route_that_failed_is_named_by_the_one_that_took_the_point() -> None:
    assert setback_title("host", 1) == "The guest route failed and was got round:"
    assert setback_title("guest", 1) == "The host route failed and was got round:"
    for route, setbacks in (("host", 2), (None, 1), ("offline", 1)):
        assert setback_title(route, setbacks) == "A route failed and was got round:"


def test_settings_are_told_in_a_few_words() -> None:
    assert route_words(RoutePreference.GUEST_THEN_HOST, AgentKind.BOTH) == "guest, then host"
    assert route_words(RoutePreference.GUEST_THEN_HOST, AgentKind.QGA) == "host"
    assert route_words(RoutePreference.GUEST, AgentKind.QGA) == "guest", "and every job fails"
    assert route_words(RoutePreference.HOST, AgentKind.WAAGENT) == "host"
    assert proxy_words("", "", "10.0.0.0/8") == "none"
    assert proxy_words("http://p:1", "http://p:1", "") == "http://p:1"
    assert proxy_words("", "http://p:1", "a,b") == "https by http://p:1, except for a,b"
    assert goal_words(0, 0) == ""
    assert goal_words(7, 7) == "7, acknowledged"
    assert goal_words(8, 7) == "8, acknowledged up to 7"
    assert goal_words(8, 0) == "8"
