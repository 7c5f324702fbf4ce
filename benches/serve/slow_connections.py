#!/usr/bin/env python3
"""1,000 connections that send a byte now and then, and what they do to those who ask properly.

    python3 benches/serve/slow_connections.py [SECONDS [CONNECTIONS THAT ARE TAKEN]]
"""

import socket
import sys
import threading
import time

from common import Daemon, at_rate, fill, line, picture

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 20
TAKEN = sys.argv[2] if len(sys.argv) > 2 else "2048"
SLOW = 1000


def slow(address, stop, closed):
    host, port = address.rsplit(":", 1)
    links = []
    for _ in range(SLOW):
        link = socket.socket()
        link.settimeout(5)
        try:
            link.connect((host, int(port)))
            link.sendall(b"GET /v1/status HTTP/1.1\r\nHost: " + address.encode() + b"\r\nX-Slow: ")
        except OSError:
            closed.append(1)
            continue
        links.append(link)
    while not stop.wait(1):
        for link in list(links):
            try:
                link.sendall(b"x")
            except OSError:
                closed.append(1)
                links.remove(link)
                link.close()


with Daemon("device.kind=cpu", "learn.idle_steps_per_second=0", f"serve.max_connections={TAKEN}") as daemon:
    fill(daemon, 600)
    ask = lambda link: daemon.ask("POST", "/v1/query?k=10", picture(7_000_000), connection=link)[0]
    at_rate(daemon, 50, 3, ask)
    idle = line("nobody else", *at_rate(daemon, 100, SECONDS, ask))
    stop, closed = threading.Event(), []
    thread = threading.Thread(target=slow, args=(daemon.address, stop, closed))
    thread.start()
    time.sleep(3)
    beside = line(f"beside {SLOW} slow ones", *at_rate(daemon, 100, SECONDS, ask))
    time.sleep(2)
    stop.set()
    thread.join()
    print(f"ratio of p99: {beside / idle:.2f}; {len(closed)} of {SLOW} slow connections were closed within {SECONDS + 5:.0f} s")
