"""The queue: a TCP server with a line protocol. ``PUSH text``, ``POP`` and ``LEN`` each get one line back."""

import collections
import socketserver
import threading

CAPACITY = 1000

_jobs: collections.deque[str] = collections.deque()
_lock = threading.Lock()


def answer(line: str) -> str:
    """Carry out one request."""
    verb, _, text = line.partition(" ")
    with _lock:
        if verb == "PUSH" and len(_jobs) < CAPACITY:
            _jobs.append(text)
            return "OK"
        if verb == "POP":
            return f"JOB {_jobs.popleft()}" if _jobs else "EMPTY"
        if verb == "LEN":
            return str(len(_jobs))
    return "FULL" if verb == "PUSH" else "ERROR say PUSH text, POP or LEN"


class Conversation(socketserver.StreamRequestHandler):
    """One client, until it leaves."""

    def handle(self) -> None:
        """Answer line by line."""
        try:
            for line in self.rfile:
                self.wfile.write(f"{answer(line.decode().strip())}\n".encode())
        except ConnectionError:
            return


class Server(socketserver.ThreadingTCPServer):
    """Every client has a thread."""

    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    with Server(("0.0.0.0", 7000), Conversation) as server:
        server.serve_forever()
