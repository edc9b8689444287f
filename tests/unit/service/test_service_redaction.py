"""No secret leaves in a log bundle."""

from __future__ import annotations

import string
from xml.sax.saxutils import escape

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from quiesce.service.redaction import redacted, redacted_json

LETTERS = string.ascii_letters + string.digits
PEM = "-----BEGIN {0}PRIVATE KEY-----\n{1}\n-----END {0}PRIVATE KEY-----"

# Where secrets stand, with the characters beside letters and digits that they may hold there.
PLACES: dict[str, tuple[str, str]] = {
    "https://st.example/c/d?sv=2020-04-08&sig={}&se=2026": ("%-._~+/=", "sv=2020-04-08"),
    "[https://st.example/c?sig={}]\nsecond line": ("%-._~+/=", "second line"),
    "GET /c?comp=page&url=https%3A%2F%2Fx%3Fsig%3D{}": ("%-._~", "comp=page"),
    "https_proxy=http://web:{}@10.0.0.3:3128": ("%-._~!$*+,;=:@/", "@10.0.0.3:3128"),
    "https_proxy=web:{}@10.0.0.3:3128": ("%-._~!$*+,;=:@/", "@10.0.0.3:3128"),
    "proxies http://a:b@first:1,http://web:{}@second:2/": ("%-._~!$*+;=", "@second:2/"),
    '{{"password": "{}", "user": "web"}}': ("%-._~!$*+,;=:@/#&<>' ", '"user": "web"'),
    '"settings": "{{\\"token\\":\\"{}\\",\\"a\\":1}}"': ("%-._~!$*+,;=:@/#& ", '\\"a\\":1'),
    '{{"protectedSettings": "{}", "publicSettings": "shown"}}': ("+/=", "shown"),
    "{{&quot;protectedSettings&quot;:&quot;{}&quot;,&quot;a&quot;:1}}": ("+/=", "a&quot;:1"),
    '{{"protectedSettings": {{"a": [{{"b": "{}"}}]}}, "other": 1}}': ("%-._~ +,:@", '"other": 1'),
    "<ns1:UserPassword>{}</ns1:UserPassword><Next/>": ("%-._~!$*+,;=:@/#& '\"", "<Next/>"),
    "<Data>{}</Data><Format>Pkcs7</Format>": ("+/=\n", "Pkcs7"),
    "DefaultEndpointsProtocol=https;AccountKey={};EndpointSuffix=core": ("+/=", "=core"),
    "DB_PASSWORD={}\nPATH=/bin": ("%-._~!$*+,;=:@/#&", "PATH=/bin"),
    "client_secret: {}\nuser: web": ("%-._~!$*+,=:@/#&", "user: web"),
    "Authorization: SharedKey account:{}\nHost: x": ("%-._~!$*+,;=:@/#& '\"", "Host: x"),
    "'Proxy-Authorization': 'Basic {}'\nnext": ("+/=", "next"),
    "got header Bearer {} from": ("-._~+/=", "from"),
    "Cookie: session={}\nnext": ("%-._~!$*+,;=", "next"),
    "backup --password {} --quick": ("%._~!$*+,;=:@/#&", "--quick"),
    "curl -u web:{} https://x": ("%-._~!$*+,;=@/#&", "https://x"),
    "curl --proxy-user web:{}": ("%-._~!$*+,;=@/#&", "curl"),
    "kept\n" + PEM.format("RSA ", "MII\n{}\nxx") + "\nkept too": ("+/=", "kept too"),
    PEM.format("", "{}").split("\n", 1)[1] + "\nkept": ("+/=", "kept"),
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3B\n{}": ("+/=\n", "OPENSSH"),
}


@pytest.mark.parametrize("place", PLACES)
@settings(deadline=None)
@given(data=st.data())
def test_a_planted_secret_never_survives_and_what_stands_beside_it_does(
    place: str, data: st.DataObject
) -> None:
    others, beside = PLACES[place]
    secret = data.draw(st.text(LETTERS + others, min_size=8, max_size=60).filter(_is_secret))
    assume(secret not in place)  # else it stands beside itself
    written = escape(secret) if place.startswith("<ns1") else secret
    shown = redacted(place.format(written))
    assert secret not in shown
    assert written not in shown
    assert beside in shown


def _is_secret(text: str) -> bool:
    """No secret begins or ends with what ends one, and none is a word of the place itself."""
    return text[0] in LETTERS and text[-1] in LETTERS and len(set(text)) > 4


@settings(deadline=None)
@given(
    secret=st.text(LETTERS + "%-._~!$*+,;=:@/#& ", min_size=4, max_size=40),
    before=st.text(max_size=50),
    after=st.text(max_size=50),
)
def test_a_secret_that_is_known_is_gone_wherever_it_stands(
    secret: str, before: str, after: str
) -> None:
    shown = redacted(f"{before}{secret}{after}", [secret])
    assert secret not in shown or secret in "***" or secret in before + "***" + after


@pytest.mark.parametrize(
    "harmless",
    [
        "Extensions.Enabled=n",
        "HttpProxy.Host=10.0.0.3",
        "http://10.0.0.3:3128/path?mail=x@y",
        "2026-03-01 INFO ExtHandler Downloading https://168.63.129.16:443/x?sv=1&se=2",
        "ActiveState=inactive",
        '{"code": 0, "message": "the agent has no certificate"}',
        "<Incarnation>7</Incarnation>",
        "mail to root@localhost, signal=15",
    ],
)
def test_what_is_no_secret_stays(harmless: str) -> None:
    assert redacted(harmless) == harmless


def test_json_keeps_its_form_and_loses_the_secrets_in_it() -> None:
    value = {"raw": ['x password="hush" y', 7, None, True], "proxy": {"url": "http://u:hush@p:1"}}
    assert redacted_json(value) == {
        "raw": ['x password="***" y', 7, None, True],
        "proxy": {"url": "http://u:***@p:1"},
    }


@settings(deadline=None)
@given(st.text())
def test_redacting_twice_changes_no_more(text: str) -> None:
    assert redacted(redacted(text)) == redacted(text)


@pytest.mark.parametrize(
    "piece",
    ['password="', "password", "-----BEGIN PRIVATE KEY-----", "<password", "http://", "eyJ",
     "protectedSettings:{", "http://a:b/", "--password ", "password=\\\\'", " ", "sig=",
     "-----END PRIVATE KEY", "authorization:", "proxy=a:", "-",
     "&quot;token&quot;:&quot;", "a.b-c_d"],
)  # fmt: skip
def test_no_text_of_a_guest_makes_it_slow(piece: str) -> None:
    # Quadratic time would be minutes here, which the test's own time limit ends.
    redacted(piece * (1024 * 1024 // len(piece)))


@pytest.mark.parametrize("secret", ["000012/3", "12/34567", "3128/@x"])
def test_digits_before_a_slash_are_no_port_when_a_host_with_one_follows(secret: str) -> None:
    assert secret not in redacted(f"https_proxy=http://web:{secret}@10.0.0.3:3128")


def test_a_port_and_a_path_with_an_at_sign_are_no_password() -> None:
    assert redacted("https://reg:5000/@scope/pkg") == "https://reg:5000/@scope/pkg"
