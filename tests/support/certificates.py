"""Certificates made with the openssl command, and the files that name them."""

from __future__ import annotations

import os
import ssl
import subprocess
from pathlib import Path

import grpc

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


class Authority:
    """A certificate authority of its own, `ca.pem` in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.ca = directory / "ca.pem"
        openssl(
            directory,
            "req",
            "-x509",
            *_KEY,
            "-days",
            "2",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
            *_name("ca"),
        )
        (directory / "san").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")

    def issue(self, name: str) -> tuple[Path, Path]:
        """`NAME.key` and `NAME.pem`, for 127.0.0.1 and localhost."""
        openssl(self.directory, "req", *_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", *_name(name))
        sign = ["-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
        openssl(self.directory, "x509", "-req", *sign, "-out", f"{name}.pem", "-days", "2", "-extfile", "san")
        return self.directory / f"{name}.key", self.directory / f"{name}.pem"

    def client_context(self, name: str = "") -> ssl.SSLContext:
        """A client's context that trusts this authority, with the certificate of `name` if there is one."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if name:
            context.load_cert_chain(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        return context

    def channel(self, port: int, name: str = "") -> grpc.Channel:
        """A channel to a port of this machine that trusts this authority, with a certificate if named."""
        pair = [(self.directory / f"{name}.{end}").read_bytes() if name else None for end in ("key", "pem")]
        # Channels share their connections unless they differ.
        own = [("grpc.use_local_subchannel_pool", 1)]
        credentials = grpc.ssl_channel_credentials(self.ca.read_bytes(), *pair)
        return grpc.secure_channel(f"127.0.0.1:{port}", credentials, own)


def openssl(directory: Path, *arguments: str) -> None:
    """Run the command in a directory."""
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


def _name(name: str) -> list[str]:
    return ["-subj", f"/CN={name}"]


def ssl_config(key: object, certificate: object, ca: object = "", *, client_verify: bool = False) -> str:
    """The text of an SSLConfig; paths are named, bytes stand in it as they are."""
    lines = []
    for field, value in (("server_key", key), ("server_cert", certificate), ("custom_ca", ca)):
        if isinstance(value, bytes):
            lines.append(f"{field}: " + " ".join(f'"{line}\\n"' for line in value.decode().splitlines()))
        elif value:
            lines.append(f'{field}: "{value}"')
    return "\n".join([*lines, *(["client_verify: true"] if client_verify else [])]) + "\n"


class Secret:
    """A directory of files as Kubernetes mounts secrets: all are swapped at once, by a symbolic link."""

    def __init__(self, directory: Path, files: dict[str, bytes]) -> None:
        self.directory = directory
        self._count = 0
        directory.mkdir(parents=True)
        self.swap(files)
        for name in files:
            (directory / name).symlink_to(f"..data/{name}")

    def swap(self, files: dict[str, bytes]) -> None:
        """Put other contents in place."""
        self._count += 1
        stamped = self.directory / f"..{self._count}"
        stamped.mkdir()
        for name, content in files.items():
            (stamped / name).write_bytes(content)
        link = self.directory / "..data_tmp"
        link.symlink_to(stamped.name)
        os.replace(link, self.directory / "..data")
