"""The metrics: a statsd server that counts. ``name:1|c`` adds to a counter; ``name?`` is answered with its value."""

import collections
import socket

if __name__ == "__main__":
    counters: collections.Counter[str] = collections.Counter()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", 8125))
        while True:
            datagram, client = server.recvfrom(512)
            text = datagram.decode(errors="replace")
            if text.endswith("?"):
                server.sendto(str(counters[text[:-1]]).encode(), client)
            elif text.endswith(":1|c"):
                counters[text.removesuffix(":1|c")] += 1
