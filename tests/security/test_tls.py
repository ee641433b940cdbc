from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.errors import ServingError
from app.security import tls
from app.security.tls import LiveContext
from tests.support.certificates import Authority, Secret, ssl_config


def mounted(authority: Authority, name: str) -> dict[str, bytes]:
    """A secret's files, with the certificate of `name`."""
    return {
        "tls.key": (authority.directory / f"{name}.key").read_bytes(),
        "tls.crt": (authority.directory / f"{name}.pem").read_bytes(),
        "ca.crt": authority.ca.read_bytes(),
    }


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """The client's end of a connection in memory."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends: Sequence[ssl.SSLObject] = (
        client.wrap_bio(back, there, server_hostname="localhost"),
        server.wrap_bio(there, back, server_side=True),
    )
    waiting = list(ends)
    while waiting:
        for end in tuple(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
    return ends[0]


def name_of(connection: ssl.SSLObject) -> str:
    certificate = connection.getpeercert()
    assert certificate is not None
    subject: object = certificate["subject"]
    return str(subject).split("'commonName', '")[1].split("'")[0]


@pytest.fixture
def secret(tmp_path: Path, authority: Authority) -> Secret:
    return Secret(tmp_path / "secret", mounted(authority, "server"))


@pytest.fixture
def path(secret: Secret) -> Path:
    file = secret.directory.parent / "ssl.config"
    file.write_text(ssl_config("secret/tls.key", "secret/tls.crt", "secret/ca.crt"))
    return file


def test_a_new_certificate_serves_new_connections(authority: Authority, secret: Secret, path: Path) -> None:
    watched = tls.watch("ssl_config_file", str(path))
    context, client = LiveContext.of(watched, "h2"), authority.client_context()
    client.set_alpn_protocols(["h2", "http/1.1"])
    old = handshake(context, client)
    assert (name_of(old), old.selected_alpn_protocol()) == ("server", "h2")
    secret.swap(mounted(authority, "other"))
    watched.look()
    assert name_of(handshake(context, client)) == "other"
    assert name_of(old) == "server"


def test_a_pair_that_does_not_match_is_not_used(
    authority: Authority, secret: Secret, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched = tls.watch("ssl_config_file", str(path))
    context = LiveContext.of(watched)
    half = {**mounted(authority, "server"), "tls.crt": (authority.directory / "other.pem").read_bytes()}
    for files in (half, {**half, "tls.crt": b"-----BEGIN CERTIFICATE-----\nhal"}, {**half, "tls.crt": b""}):
        secret.swap(files)
        watched.look()
        watched.look()
        assert name_of(handshake(context, authority.client_context())) == "server"
    assert [message.rpartition(": ")[2] for message in caplog.messages] == [
        "server_key does not belong to server_cert.",
        "server_cert holds no certificate in PEM form.",
    ]


def test_new_roots_are_in_force_and_old_ones_are_not(
    tmp_path: Path, authority: Authority, secret: Secret, path: Path
) -> None:
    path.write_text(ssl_config("secret/tls.key", "secret/tls.crt", "secret/ca.crt", client_verify=True))
    watched = tls.watch("ssl_config_file", str(path))
    context = LiveContext.of(watched)
    second = Authority(tmp_path / "second")
    second.issue("client")
    theirs = authority.client_context()
    theirs.load_cert_chain(second.directory / "client.pem", second.directory / "client.key")
    handshake(context, authority.client_context("client"))
    with pytest.raises(ssl.SSLError):
        handshake(context, theirs)
    with pytest.raises(ssl.SSLError):
        handshake(context, authority.client_context())
    secret.swap({**mounted(authority, "server"), "ca.crt": second.ca.read_bytes()})
    watched.look()
    handshake(context, theirs)
    with pytest.raises(ssl.SSLError):
        handshake(context, authority.client_context("client"))


def test_whether_clients_are_verified_does_not_change(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watched = tls.watch("ssl_config_file", str(path))
    path.write_text(ssl_config("secret/tls.key", "secret/tls.crt", "secret/ca.crt", client_verify=True))
    watched.look()
    assert not watched.value.client_verify
    assert "a change of client_verify needs a restart." in caplog.text


def test_old_versions_of_tls_are_refused(authority: Authority, path: Path) -> None:
    context = LiveContext.of(tls.watch("ssl_config_file", str(path)))
    client = authority.client_context()
    with pytest.warns(DeprecationWarning, match="deprecated"):
        client.minimum_version, client.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        handshake(context, client)


def test_what_cannot_be_used_at_the_start_is_refused(authority: Authority, path: Path) -> None:
    path.write_text(ssl_config(authority.directory / "other.key", "secret/tls.crt"))
    with pytest.raises(ServingError, match="does not belong"):
        tls.watch("ssl_config_file", str(path))
