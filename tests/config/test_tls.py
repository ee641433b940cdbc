from __future__ import annotations

import os
import re
import ssl
from pathlib import Path

import pytest

from app.config.tls import TlsConfig, read_file
from app.errors import Code, ServingError
from tests.support.certificates import Authority, openssl, ssl_config


def config(tmp_path: Path, text: str) -> str:
    file = tmp_path / "ssl.config"
    file.write_text(text)
    return str(file)


def failure(path: str) -> ServingError:
    with pytest.raises(ServingError) as raised:
        read_file(path).context()
    return raised.value


def test_pem_text_and_paths_mean_the_same(tmp_path: Path, authority: Authority) -> None:
    key, certificate, ca = (authority.directory / name for name in ("server.key", "server.pem", "ca.pem"))
    expected = TlsConfig("", key.read_bytes(), certificate.read_bytes(), ca.read_bytes(), True)
    contents = [path.read_bytes() for path in (key, certificate, ca)]
    relative = [os.path.relpath(path, tmp_path) for path in (key, certificate, ca)]
    for values in ([key, certificate, ca], contents, relative):
        path = config(tmp_path, ssl_config(*values, client_verify=True))
        found = read_file(path)
        assert found == TlsConfig(path, *list(vars(expected).values())[1:])
        assert found.context().verify_mode is ssl.CERT_REQUIRED
    assert "PRIVATE" not in repr(found)


def test_clients_need_no_certificate_unless_they_are_verified(tmp_path: Path, authority: Authority) -> None:
    for ca in ("", authority.ca):
        text = ssl_config(authority.directory / "server.key", authority.directory / "server.pem", ca)
        context = read_file(config(tmp_path, text)).context()
        assert context.verify_mode is ssl.CERT_NONE
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert all(
            "GCM" in cipher["name"] or "CHACHA20" in cipher["name"] for cipher in context.get_ciphers()
        )


def test_missing_parts(tmp_path: Path, authority: Authority) -> None:
    key, certificate = authority.directory / "server.key", authority.directory / "server.pem"
    path = config(tmp_path, ssl_config("", certificate))
    assert failure(path).message == (
        f"{path}: server_key is missing; give it as PEM, or the path of a PEM file."
    )
    config(tmp_path, ssl_config(key, ""))
    assert failure(path).message.startswith(f"{path}: server_cert is missing;")
    config(tmp_path, ssl_config(key, certificate, client_verify=True))
    assert failure(path).message.startswith(f"{path}: client_verify needs custom_ca,")
    missing = tmp_path / "no.key"
    config(tmp_path, ssl_config(missing, certificate))
    assert str(failure(path)) == f"NOT_FOUND: {path}: server_key names {missing}, which does not exist."
    config(tmp_path, ssl_config(tmp_path, certificate))
    assert failure(path).code is Code.PERMISSION_DENIED
    assert (
        f"server_key names a file that cannot be read. {tmp_path}: Is a directory." in failure(path).message
    )


def test_parts_that_cannot_be_used(tmp_path: Path, authority: Authority) -> None:
    key, certificate = authority.directory / "server.key", authority.directory / "server.pem"
    encrypted, nonsense = tmp_path / "encrypted.key", tmp_path / "nonsense.pem"
    openssl(tmp_path, "ec", "-in", str(key), "-out", str(encrypted), "-aes128", "-passout", "pass:x")
    nonsense.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    path, other = str(tmp_path / "ssl.config"), authority.directory / "other.key"
    for text, reason in (
        (
            ssl_config(other, certificate),
            "server_key does not belong to server_cert.",
        ),
        (ssl_config(key, nonsense), "server_cert holds no certificate in PEM form."),
        (ssl_config(nonsense, certificate), "server_key or server_cert cannot be used: no key in PEM form."),
        (ssl_config(encrypted, certificate), "server_key is encrypted, and there is nobody to ask; "),
        (ssl_config(key, certificate, nonsense), "custom_ca holds no certificate in PEM form."),
        ('server_key: "a\\nb" server_cert: "c"', "server_key is neither PEM nor the path of a PEM file."),
    ):
        config(tmp_path, text)
        assert failure(path).code is Code.INVALID_ARGUMENT
        assert failure(path).message.startswith(f"{path}: {reason}"), failure(path).message


def test_errors_in_the_text_name_file_line_and_column(tmp_path: Path) -> None:
    path = config(tmp_path, '# mine\nserver_kee: "x"\n')
    assert failure(path).message.startswith(f"{path}:2:1: ")
    assert "server_kee" in failure(path).message
    assert str(failure(str(tmp_path / "no"))) == f"NOT_FOUND: {tmp_path}/no; No such file or directory"


def test_errors_in_the_text_quote_no_key(tmp_path: Path, authority: Authority) -> None:
    lines = (authority.directory / "server.key").read_text().splitlines()
    path = config(tmp_path, "\n".join(lines[1:-1]))
    assert re.search(r":\d+:\d+: ", failure(path).message)
    assert not any(line[:32] in failure(path).message for line in lines[1:-1])
