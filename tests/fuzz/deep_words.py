"""What may stand in a request or in a document, for the fuzzer to put in."""

VALUES = [
    *("", "*", "0", "1", "-1", "511", "512", "1024", "18446744073709551616", "4194816", "PageBlob"),
    *(
        "bytes=0-511",
        "bytes=9-",
        "update",
        "clear",
        "%",
        "%00",
        "%ff",
        "\xff",
        "a=b",
        "a,b",
        "x" * 300,
    ),
    *(
        "Sun, 22 Nov 2026 23:01:02 GMT",
        "Mon, 1 Jan 0001 00:00:00 +2359",
        "31 Feb 2026",
        "2026-11-22",
    ),
    *("2026-11-22T23:01:02.1234560Z", "::1", "::ffff:127.0.0.11", "0.0.0.0-255.255.255.255", "b,c"),
]
WORDS = [
    *("comp=", "snapshot=", "pagelist", "metadata", "properties", "page", "prevsnapshot=", "sip="),
    *("marker=", "maxresults=", "timeout=", "rsct=", "st=", "se=", "sp=", "sr=bs", "sv=", "spr="),
    *("Range: bytes=", "x-ms-range: ", "x-ms-page-write: ", "x-ms-blob-content-length: "),
    *("If-Match: ", "If-None-Match: *", "If-Modified-Since: ", "If-Unmodified-Since: "),
    *("Content-MD5: ", "x-ms-meta-", "x-ms-blob-content-type: ", "x-ms-lease-id: ", "\r\n"),
    *("x-ms-version: ", "x-ms-client-request-id: ", "x-ms-containerid: ", "{CONTAINER}"),
    *("{INCARNATION}", "{TOKEN}", "{SIG}", "%2e%2e", "%00", "%ff", "/..", "\n====\n", "[::1]:80"),
    *("versionid=", "restype=", "rscc=", "ss=", "si=", "sr=", "Authorization: ", "Expect: "),
    *("x-ms-structured-body: ", "x-ms-meta-: ", "x-ms-blob-type: ", "Content-Type: "),
    *("x-ms-artifact-location: ", "Host: ", "http://[", "certificates", "extensionsConfig"),
    *("<?xml version='1.0' encoding='", "?>", "<!DOCTYPE x [", "<!ENTITY a 'b'>", "&a;", "&#0;"),
    *("<![CDATA[", "]]>", "<State>", "Ready", "utf-16", "latin-1", "utf-7", "xmlns:a='b'"),
    *("NaN", "Infinity", "-1", "1e999", "18446744073709551616", "null", "\\ud800", "\\u0000"),
]
