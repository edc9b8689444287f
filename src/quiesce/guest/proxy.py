"""Which proxy a request takes, if any.

`no_proxy` is read as curl and Go read it: entries between commas or spaces; `*` is everything; a
name stands for itself and all below it, with or without a dot in front; addresses and networks
(`10.0.0.0/8`) compare with addresses, never with names; an entry may end in `:port`.
"""

import base64
import ipaddress
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import unquote, urlsplit

from .failure import Fact, Failure
from .mounts import printable


class Origin(NamedTuple):
    """Where requests end: `scheme` is http or https, `host` a name or an address without
    brackets, in lower case."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        host = "[{}]".format(self.host) if ":" in self.host else self.host
        return "{}:{}".format(host, self.port)

    def __str__(self) -> str:
        return "{}://{}".format(self.scheme, self.authority)


class ProxyServer(NamedTuple):
    """`authorization` is the value of Proxy-Authorization, a secret, or empty. As text it is shown
    without it."""

    host: str
    port: int
    authorization: str = ""

    def __str__(self) -> str:
        return Origin("http", self.host, self.port).authority


class ProxySettings(NamedTuple):
    """As the server sends them: URLs, which may hold a password, and the exceptions."""

    http: str = ""
    https: str = ""
    no_proxy: str = ""


def origin_of(url: str) -> Origin:
    """:raise Failure: extension.settings-invalid. The URL itself is a secret and is not shown."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _unusable("its host or port cannot be read") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _unusable("it is no http or https URL with a host")
    if any(ord(c) <= 32 or ord(c) > 126 for c in url):
        raise _unusable("it holds characters that no URL may hold")
    return Origin(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80))


def proxy_for(
    origin: Origin, settings: Optional[ProxySettings], always_direct: Sequence[str] = ()
) -> Optional[ProxyServer]:
    """The proxy on the way to `origin`; None when it is reached directly.

    `always_direct`: hosts that never go through a proxy, such as the host's own address.
    :raise Failure: extension.settings-invalid
    """
    if settings is None or origin.host in always_direct:
        return None
    url = settings.https if origin.scheme == "https" else settings.http
    if not url or _is_excepted(origin, settings.no_proxy):
        return None
    return _server(url if "://" in url else "http://" + url)


def _server(url: str) -> ProxyServer:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _unusable("the proxy's host or port cannot be read") from error
    if parts.scheme != "http" or not parts.hostname:
        raise _unusable(
            "the proxy must be given as http://host:port, not as {}://".format(
                printable(parts.scheme)
            )
        )
    if any(ord(c) <= 32 or ord(c) > 126 for c in parts.hostname):
        raise _unusable("the proxy's host holds characters that no host may hold")
    authorization = ""
    if parts.username is not None:
        pair = "{}:{}".format(unquote(parts.username), unquote(parts.password or ""))
        authorization = "Basic " + base64.b64encode(pair.encode("utf-8")).decode("ascii")
    return ProxyServer(parts.hostname, port or 80, authorization)


def _unusable(why: str) -> Failure:
    return Failure(
        "extension.settings-invalid",
        "The server sent an address that cannot be used: {}.".format(why),
        [Fact(why, "the extension's settings")],
        "Look at the server's storage and proxy settings.",
    )


def _is_excepted(origin: Origin, no_proxy: str) -> bool:
    return any(_matches(entry, origin) for entry in no_proxy.lower().replace(",", " ").split())


def _matches(entry: str, origin: Origin) -> bool:
    if entry == "*":
        return True
    name, port = _split_port(entry)
    if port and port != origin.port:
        return False
    try:
        address = ipaddress.ip_address(origin.host)
    except ValueError:
        bare = name.lstrip(".")
        return bool(bare) and (origin.host == bare or origin.host.endswith("." + bare))
    try:
        return address in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False  # a name, and names are not compared with addresses


def _split_port(entry: str) -> Tuple[str, int]:
    """`host:port`, `[v6]:port`, or an entry without a port, for which 0 is returned."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, int(rest[1:]) if rest[1:].isdigit() else 0
    name, colon, port = entry.rpartition(":")
    if colon and port.isdigit() and ":" not in name:
        return name, int(port)
    return entry, 0


def proxy_settings(found: Optional[Dict[str, Any]]) -> Optional[ProxySettings]:
    """From JSON; what is not text is left out."""
    if not isinstance(found, dict):
        return None
    texts = {key: found.get(key) for key in ProxySettings._fields}
    return ProxySettings(**{k: v for k, v in texts.items() if isinstance(v, str)})
