"""The page of runs, live: read from their folders whenever a browser asks for it."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from stable_ssl.schema import ConfigError
from stable_ssl.tools.page import document

EVERY = 10  # seconds after which a browser asks again
ONE = threading.Lock()  # what warns is caught for the whole process: one answer at once


class Handler(BaseHTTPRequestHandler):
    """Answer a browser of this machine with the page as it is now."""

    def __init__(self, roots: Sequence[str | Path], *arguments: object):
        self.roots = roots
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Send the page, or why there is none."""
        if self.path != "/":
            self.send_error(404)
            return
        try:
            with ONE, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the page has them
                text, status = document(self.roots), 200
        except ValueError as error:
            text, status = f"{error}\n", 503
        content = text.encode("utf-8", "replace")
        self.send_response(status)
        kind = "html" if status == 200 else "plain"
        self.send_header("Content-Type", f"text/{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Refresh", str(EVERY))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Print nothing: the terminal says where the page is."""


def serve(roots: Sequence[str | Path], port: int) -> None:
    """Serve the page to this machine alone, until Ctrl-C.

    Args:
        roots: run folders, or folders that hold some.
        port: where; 0 is any that is free.

    Raises:
        ConfigError: the port is taken.
    """
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, roots))
    except OSError as error:
        raise ConfigError(
            f"--serve {port}: {error.strerror}; give another port"
        ) from error
    with server:
        print(f"http://127.0.0.1:{server.server_port}/  (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(file=sys.stderr)
