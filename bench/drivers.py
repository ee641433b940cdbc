"""HTTP load: so many POSTs over so many connections that are kept, by h2load, by wrk, or by Python.

Whichever is installed, in this order. One more request, whose answer is compared in full, comes before each
round; during it h2load's and wrk's totals tell of answers that have another status or length.
"""

from __future__ import annotations

import asyncio
import http.client
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_WRK = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local file = io.open("{body}", "rb"); wrk.body = file:read("*a"); file:close()
"""
_WRK_SECONDS = 2


@dataclass(frozen=True)
class Post:
    """What to send and what must come back.

    Attributes:
        port: on the loopback address.
        path: of the URL.
        body: a file.
        expected: the answer's body.
        connections: at a time.
    """

    port: int
    path: str
    body: Path
    expected: bytes
    connections: int

    @property
    def url(self) -> str:
        """As a client writes it."""
        return f"http://127.0.0.1:{self.port}{self.path}"


def driver() -> str:
    """The name of the one that is used."""
    return next((name for name in ("h2load", "wrk") if shutil.which(name)), "python")


def send(post: Post, requests: int) -> int:
    """Send about so many requests; return how many were answered rightly, which is all of them.

    Raises:
        AssertionError: for any other answer.
    """
    check_one(post)
    way = {"h2load": _h2load, "wrk": _wrk, "python": _python}[driver()]
    return 1 + way(post, requests)


def check_one(post: Post) -> None:
    """Compare one answer in full."""
    connection = http.client.HTTPConnection("127.0.0.1", post.port, timeout=60)
    connection.request("POST", post.path, post.body.read_bytes(), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    if (response.status, answer) != (200, post.expected):
        raise AssertionError(f"{response.status} {answer[:200]!r} in place of {post.expected[:200]!r}")


def _h2load(post: Post, requests: int) -> int:
    # A single thread: one of two CPUs is the server's.
    command = ["h2load", "--h1", "-t1", f"-c{post.connections}", f"-n{requests}", f"-d{post.body}"]
    output = _run([*command, "-Hcontent-type: application/json", post.url])
    (good,) = re.findall(r"status codes: (\d+) 2xx", output)
    (data,) = re.findall(r"\((\d+)\) data", output)
    if int(good) != requests or int(data) != requests * len(post.expected):
        raise AssertionError(output)
    return requests


def _wrk(post: Post, requests: int) -> int:  # wrk counts time, not requests
    del requests
    script = post.body.with_suffix(".lua")
    script.write_text(_WRK.format(body=post.body))
    command = ["wrk", "-t1", f"-c{post.connections}", f"-d{_WRK_SECONDS}s", f"-s{script}", post.url]
    output = _run(command)
    if "Non-2xx" in output or "Socket errors" in output:
        raise AssertionError(output)
    (count,) = re.findall(r"(\d+) requests in", output)
    return int(count)


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _python(post: Post, requests: int) -> int:
    return asyncio.run(_connections(post, requests))


async def _connections(post: Post, requests: int) -> int:
    share = requests // post.connections
    await asyncio.gather(*(_connection(post, share) for _ in range(post.connections)))
    return share * post.connections


async def _connection(post: Post, requests: int) -> None:
    body = post.body.read_bytes()
    head = f"POST {post.path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", post.port)
    for _ in range(requests):
        writer.write(head + body)
        head_back = await reader.readuntil(b"\r\n\r\n")
        (length,) = re.findall(rb"(?i)content-length: (\d+)", head_back)
        answer = await reader.readexactly(int(length))
        if b" 200 " not in head_back or answer != post.expected:
            raise AssertionError(head_back + answer)
    writer.close()
    await writer.wait_closed()
