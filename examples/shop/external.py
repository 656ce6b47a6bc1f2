"""Stands in for the payments provider, which is outside the stack: a plain HTTP server, run where its address is."""

import argparse
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ADDRESS = "198.18.20.5"
PORT = 8080
# Of linux/in.h; Python does not name it.
IP_FREEBIND = 15


class Request(BaseHTTPRequestHandler):
    """``GET /rate`` and ``PUT /charges/JOB``."""

    def do_GET(self) -> None:
        """Tell the rate of the day."""
        self._answer("1.25")

    def do_PUT(self) -> None:
        """Charge a job."""
        job, _, terms = self.path.removeprefix("/charges/").partition("?")
        self._answer(f"receipt for {job} at {terms}")

    def _answer(self, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Keep quiet about requests; errors are logged all the same."""


class Server(ThreadingHTTPServer):
    """May be started before its address is there, as on a network that comes up with the stack."""

    def server_bind(self) -> None:
        """Listen at the address, whether or not this machine has it yet."""
        self.socket.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        super().server_bind()


def main() -> None:
    """Run from the command line, until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default=ADDRESS)
    parser.add_argument("--port", type=int, default=PORT)
    options = parser.parse_args()
    Server((options.address, options.port), Request).serve_forever()


if __name__ == "__main__":
    main()
