"""An HTTPS server in the storage endpoint's place that gives every request the same answer.

    python -m quiesce.lab.stand_in FOLDER NAME ADDRESS STATUS CODE

FOLDER holds the authority's key as `quiesce.storage.authority` keeps it; empty, another authority
is made. NAME is what it is called by. It says `ready` once it serves.
"""

from __future__ import annotations

import http.server
import sys
from pathlib import Path

from quiesce.storage.authority import Authority

_BODY = '<?xml version="1.0" encoding="utf-8"?><Error><Code>{}</Code><Message>{}</Message></Error>'


def _handler(status: int, code: str) -> type[http.server.BaseHTTPRequestHandler]:
    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = _BODY.format(code, f"The stand-in says {code}.").encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("x-ms-error-code", code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's
            print(format % args, file=sys.stderr, flush=True)

    return Answer


def main() -> None:
    folder, name, address, status, code = sys.argv[1:]
    context = Authority(Path(folder), (name,)).tls_context()
    handler = _handler(int(status), code)
    with http.server.ThreadingHTTPServer((address, 443), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
