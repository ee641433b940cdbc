"""Remote stores on loopback: a real S3 server, and a proxy before it that fails as it is told."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3

from tests.support.process import accepts, free_port, wait_until

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "ferry", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
_LOOK_SECONDS = 0.01  # how long a server may take to notice that it is to end
_OWN_HEADERS = ("connection", "content-length", "transfer-encoding", "server", "date")


class S3Server:
    """moto's S3 server as a process, and a client for it.

    Attributes:
        endpoint: its URL.
    """

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        wait_until(lambda: accepts(self.port), f"the S3 server answers; see {log}")
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=CREDENTIALS["AWS_REGION"],
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )

    def environment(self, endpoint: str = "") -> dict[str, str]:
        """What a server needs to read it, as users of TensorFlow Serving set it."""
        address = urlsplit(endpoint or self.endpoint).netloc
        return {**CREDENTIALS, "S3_ENDPOINT": address, "S3_USE_HTTPS": "0"}

    def upload(self, directory: Path, bucket: str, prefix: str) -> None:
        """Put every file below `directory` under `prefix`."""
        for file in sorted(path for path in directory.rglob("*") if path.is_file()):
            key = f"{prefix}/{file.relative_to(directory).as_posix()}"
            self.client.put_object(Bucket=bucket, Key=key, Body=file.read_bytes())

    def remove(self, bucket: str, prefix: str) -> None:
        """Delete every object under `prefix`."""
        for item in self.client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", []):
            self.client.delete_object(Bucket=bucket, Key=item["Key"])

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self.client.close()


class Proxy:
    """Passes requests on to another server, except where it is told to fail.

    Attributes:
        endpoint: its URL.
        fault: called with each path that is read; answers what is to go wrong with it: "" for nothing,
            `cut` to end the connection in the middle of the body, `damage` to change a byte and keep no
            checksum but the tag, `refuse`
            for 403, `error` for 503, `hang` to answer only when the proxy is closed.
        paths: what was read.
    """

    def __init__(self, server: str) -> None:
        self.fault: Callable[[str], str] = lambda _: ""
        self.paths: list[str] = []
        self.closing = threading.Event()
        host = urlsplit(server).netloc
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                proxy.paths.append(path)
                fault = proxy.fault(path)
                if fault == "hang":
                    proxy.closing.wait(60)
                    self.close_connection = True
                    return
                if fault in ("refuse", "error"):
                    self.send_response(403 if fault == "refuse" else 503)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                upstream = http.client.HTTPConnection(host, timeout=30)
                upstream.request(self.command, self.path, headers=dict(self.headers.items()))
                answer = upstream.getresponse()
                body = answer.read()
                upstream.close()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    is_checksum = name.lower().startswith("x-amz-checksum")
                    if name.lower() not in _OWN_HEADERS and not (is_checksum and fault == "damage"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(body))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                if fault == "damage":
                    body = bytes([body[0] ^ 1]) + body[1:]
                self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
                self.close_connection = fault == "cut"

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(_LOOK_SECONDS,), daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


class WebServer:
    """Python's own web server, with its index pages, for a directory."""

    def __init__(self, directory: Path) -> None:
        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=str(directory))

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(_LOOK_SECONDS,), daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
