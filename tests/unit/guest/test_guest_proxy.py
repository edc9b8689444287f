"""Which requests of the extension go through a proxy, and which do not."""

from __future__ import annotations

import base64

import pytest

from quiesce.guest.failure import Failure
from quiesce.guest.proxy import ProxySettings, origin_of, proxy_for, proxy_settings

PROXY = "http://proxy.lan:3128"


def goes_through(url: str, no_proxy: str = "", direct: tuple[str, ...] = ()) -> bool:
    settings = ProxySettings(http=PROXY, https=PROXY, no_proxy=no_proxy)
    return proxy_for(origin_of(url), settings, direct) is not None


@pytest.mark.parametrize(
    ("no_proxy", "url"),
    [
        ("*", "https://storage.example:443"),
        ("storage.example", "https://storage.example"),
        ("STORAGE.example", "https://Storage.Example"),
        ("example", "https://storage.example"),
        (".example", "https://storage.example"),
        ("a.b, storage.example", "https://storage.example"),
        ("storage.example:443", "https://storage.example"),
        ("10.1.2.3", "https://10.1.2.3:8443"),
        ("10.0.0.0/8", "https://10.1.2.3"),
        ("10.1.2.3:8443", "https://10.1.2.3:8443"),
        ("fd00::/8", "https://[fd00::5]"),
        ("[fd00::5]:443", "https://[fd00::5]"),
        ("fd00::5", "https://[fd00::5]"),
    ],
)
def test_an_exception_is_reached_directly(no_proxy: str, url: str) -> None:
    assert not goes_through(url, no_proxy)


@pytest.mark.parametrize(
    ("no_proxy", "url"),
    [
        ("", "https://storage.example"),
        ("other.example", "https://storage.example"),
        ("ample", "https://storage.example"),
        ("storage.example.org", "https://storage.example"),
        ("storage.example:8443", "https://storage.example"),
        ("10.0.0.0/8", "https://11.1.2.3"),
        ("10.0.0.0/8", "https://storage.example"),
        ("1.2.3", "https://10.1.2.3"),
        ("10.0.0.0/99", "https://10.1.2.3"),
        (".", "https://storage.example"),
        ("fd00::/8", "https://10.1.2.3"),
    ],
)
def test_everything_else_goes_through_the_proxy(no_proxy: str, url: str) -> None:
    assert goes_through(url, no_proxy)


def test_the_hosts_own_address_never_goes_through_a_proxy() -> None:
    assert not goes_through("https://168.63.129.16", direct=("168.63.129.16",))


def test_each_scheme_has_its_own_proxy() -> None:
    only_http = ProxySettings(http=PROXY)
    assert proxy_for(origin_of("https://storage.example"), only_http) is None
    assert proxy_for(origin_of("http://storage.example"), only_http) is not None


def test_user_and_password_are_sent_and_not_shown() -> None:
    settings = ProxySettings(https="http://back%40up:p%3Ass@proxy.lan:3128")
    server = proxy_for(origin_of("https://storage.example"), settings)
    assert server is not None
    sent = base64.b64decode(server.authorization.partition(" ")[2])
    assert sent == b"back@up:p:ss"
    assert str(server) == "proxy.lan:3128"


def test_a_proxy_may_be_written_without_a_scheme() -> None:
    settings = ProxySettings(https="proxy.lan:3128")
    server = proxy_for(origin_of("https://storage.example"), settings)
    assert server is not None
    assert (server.host, server.port) == ("proxy.lan", 3128)


@pytest.mark.parametrize(
    "url",
    ["ftp://x", "https://", "https://a:99999", "https://a b/", "https://[::1", "", "/x?sig=SECRET"],
)
def test_an_address_that_cannot_be_used_is_said_without_showing_it(url: str) -> None:
    with pytest.raises(Failure) as caught:
        origin_of(url)
    assert caught.value.code == "extension.settings-invalid"
    assert "SECRET" not in str(caught.value.as_json())


@pytest.mark.parametrize("proxy", ["socks5://p:1", "https://p:1", "http://:1", "http://p:x"])
def test_a_proxy_that_cannot_be_used_is_said_without_its_password(proxy: str) -> None:
    settings = ProxySettings(https=proxy.replace("//", "//user:SECRET@"))
    with pytest.raises(Failure) as caught:
        proxy_for(origin_of("https://storage.example"), settings)
    assert caught.value.code == "extension.settings-invalid"
    assert "SECRET" not in str(caught.value.as_json())


@pytest.mark.parametrize("found", [None, [], "x", {}, {"https": 5}, {"https": None}])
def test_settings_without_a_proxy_are_no_proxy(found: object) -> None:
    settings = proxy_settings(found)  # type: ignore[arg-type]
    assert proxy_for(origin_of("https://storage.example"), settings) is None
