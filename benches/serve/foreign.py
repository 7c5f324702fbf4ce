#!/usr/bin/env python3
"""Requests under foreign names (`Host`) and from foreign pages (`Origin`), in every combination: each must be answered with 403.

    python3 benches/serve/foreign.py
"""

import http.client
import itertools
import socket
import sys

from common import Daemon

REQUESTS = [("GET", path) for path in ("/", "/docs", "/page/api.js", "/v1/status", "/metrics", "/livez", "/readyz", "/openapi.json", "/nowhere")]
REQUESTS += [("HEAD", "/v1/status"), ("OPTIONS", "/v1/status"), ("POST", "/v1/training/pause"), ("DELETE", "/v1/images/999999")]


def names(port):
    """Hosts and origins: those of the listener, then foreign ones. None: no such header."""
    own = [f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}", f"[::1]:{port}"]
    foreign = [None, "", "evil.example", f"evil.example:{port}", "0.0.0.0", f"0.0.0.0:{port}", "127.0.0.1", "localhost", "127.0.0.1:1",
               f"127.1:{port}", f"2130706433:{port}", f"localhost.:{port}", f"user@localhost:{port}", "localhost.evil.example",
               f"127.0.0.1.evil.example:{port}", "box.local", f"192.168.1.1:{port}"]
    pages = [None, f"http://127.0.0.1:{port}", f"http://localhost:{port}"]
    strange = ["", "null", "file://", "http://evil.example", f"https://127.0.0.1:{port}", "http://127.0.0.1", "http://127.0.0.1:1",
               "http://[::1]:1", f"http://localhost:{port}.evil.example"]
    return own, foreign, pages, strange


def status(port, method, path, host, origin):
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    link.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in (("Host", host), ("Origin", origin)):
        if value is not None:
            link.putheader(name, value)
    link.endheaders()
    answer = link.getresponse().status
    link.close()
    return answer


def raw(port, head):
    """The status of a head that no library would write."""
    with socket.create_connection(("127.0.0.1", port), 20) as link:
        link.sendall(head.replace("\n", "\r\n").encode())
        return int(link.recv(4096).split()[1])


with Daemon("device.kind=cpu", "learn.idle_steps_per_second=0") as daemon:
    port = int(daemon.address.rsplit(":", 1)[1])
    own, foreign, pages, strange = names(port)
    tried, wrong = 0, []
    for (method, path), host, origin in itertools.product(REQUESTS, own + foreign, pages + strange):
        is_foreign, answer = host in foreign or origin in strange, status(port, method, path, host, origin)
        tried += is_foreign
        if (answer == 403) != is_foreign:
            wrong.append((method, path, host, origin, answer))
    me, line = f"127.0.0.1:{port}", "GET /v1/status HTTP/1.1\n"
    heads = [f"{line}Host: {me}\nHost: evil.example\n\n", f"{line}Host: evil.example\nHost: {me}\n\n",
             f"GET http://evil.example/v1/status HTTP/1.1\nHost: {me}\n\n", f"GET http://{me}/v1/status HTTP/1.1\nHost: evil.example\n\n",
             f"{line}Host: {me}\nOrigin: http://{me}\nOrigin: http://evil.example\n\n", "GET /v1/status HTTP/1.0\n\n"]
    wrong += [(head, answer) for head in heads if (answer := raw(port, head)) != 403]
    print(f"{tried + len(heads)} foreign requests, {len(wrong)} not answered as they should be")
    for one in wrong[:20]:
        print("  ", one)
    sys.exit(bool(wrong))
