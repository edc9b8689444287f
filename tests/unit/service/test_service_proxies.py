"""Proxies: refused when a guest could not use them, shown without their passwords, and excepted by
the very rules that the guest goes by."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiesce.guest import proxy as guest
from quiesce.model.failure import InputFailure
from quiesce.model.network import Proxy
from quiesce.service.proxies import checked, excepted, place, redacted

HOSTS = st.sampled_from(
    ["storage.example", "sub.storage.example", "example", "10.1.2.3", "192.0.2.1", "fd00::7", "a.b"]
)
ENTRIES = st.sampled_from(
    ["*", "example", ".example", "storage.example", "10.0.0.0/8", "10.1.2.3", "192.0.2.1:443",
     "storage.example:443", "example:80", "fd00::/8", "[fd00::7]:443", "[fd00::7]", "fd00::7", "b"]
)  # fmt: skip


@given(
    HOSTS, st.sampled_from([80, 443, 8443]), st.lists(ENTRIES, max_size=3), st.sampled_from(", ")
)
def test_server_and_guest_agree_on_what_is_reached_without_the_proxy(
    host: str, port: int, entries: list[str], separator: str
) -> None:
    no_proxy = separator.join(entries)
    settings = guest.ProxySettings(https="http://proxy:3128", no_proxy=no_proxy)

    by_guest = guest.proxy_for(guest.Origin("https", host, port), settings) is None

    assert excepted(host, port, no_proxy) == by_guest
    checked(Proxy(no_proxy=no_proxy))


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_a_password_is_never_shown(password: str) -> None:
    secret = f"SECRET{password}SECRET"
    proxy = Proxy(https=f"http://user:{quote(secret, safe='')}@proxy.example:3128")

    shown = redacted(checked(proxy))

    assert "SECRET" not in repr(shown)
    assert shown.https == "http://user:***@proxy.example:3128"
    assert place(proxy.https) == ("proxy.example", 3128)


@given(st.text(st.characters(min_codepoint=1, max_codepoint=0x2FF), max_size=20))
def test_whatever_is_accepted_is_shown_and_the_refused_is_not_repeated(text: str) -> None:
    proxy = Proxy(http=f"http://user:SECRET{text}@proxy:1")
    try:
        said = repr(redacted(checked(proxy)))
    except InputFailure as refused:
        said = repr(refused.report())
    assert "SECRET" not in said


@pytest.mark.parametrize(
    "url",
    ["https://proxy:1", "socks5://proxy:1", "proxy:3128", "http://", "http://:80", "http://proxy:0",
     "http://proxy:99999", "http://proxy/path", "http://proxy?x", "http://pro xy:1",
     "http://u:p/x@proxy:1", "http://u:***@proxy:1", "http://proxy\n:1", "http://1.2.3:80"],
)  # fmt: skip
def test_a_proxy_that_no_guest_could_use_is_refused(url: str) -> None:
    with pytest.raises(InputFailure) as refused:
        checked(Proxy(https=url))
    assert refused.value.code == "input.proxy-invalid"
    assert refused.value.evidence[0].fact.startswith("https ")


@pytest.mark.parametrize("names", ["10.0.0.0/33", "a b/c", "http://x", "a;b", "x" * 3000])
def test_an_exception_that_means_nothing_is_refused(names: str) -> None:
    with pytest.raises(InputFailure):
        checked(Proxy(no_proxy=names))
