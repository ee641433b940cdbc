"""The tools against a server that wants certificates and a token on both ports."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.errors import ServingError
from app.tools.access import Access
from app.tools.inspect import report, targets
from tests.support.certificates import Authority, ssl_config
from tests.support.process import ServerProcess
from tests.tools.conftest import ferry_json, run_ferry

TOKEN = "only-in-its-file"
QUICK = ("--seconds", "0.3", "--warm-seconds", "0", "--concurrency", "1,3")


@dataclass(frozen=True)
class Secured:
    """A server of half_plus_two, and what it wants to see."""

    rest: str
    grpc: str
    access: Access

    @property
    def options(self) -> tuple[str, ...]:
        """The same for the command line."""
        given = self.access
        return (
            *("--ca", given.ca, "--cert", given.cert, "--key", given.key),
            *("--token-file", given.token_file),
        )

    def address(self, protocol: str) -> str:
        return self.rest if protocol == "rest" else self.grpc


@pytest.fixture(scope="module")
def secured(zoo: Path, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("secured tools")
    made = authority.directory
    config = ssl_config(made / "server.key", made / "server.pem", made / "ca.pem", client_verify=True)
    (directory / "tls.config").write_text(config)
    (directory / "token").write_text(f"{TOKEN}\n")
    (directory / "tokens").write_text(f'token {{ name: "t" value: "{TOKEN}" allow: [PREDICT, STATUS] }}\n')
    flags = [
        f"--ssl_config_file={directory}/tls.config",
        f"--rest_ssl_config_file={directory}/tls.config",
        f"--auth_tokens_file={directory}/tokens",
    ]
    server = ServerProcess(zoo / "half", directory / "log", name="half", flags=flags)
    try:
        server.wait_ready()
        yield Secured(
            f"https://localhost:{server.rest_port}",
            f"grpcs://localhost:{server.grpc_port}",
            Access(
                ca=str(authority.ca),
                cert=str(made / "client.pem"),
                key=str(made / "client.key"),
                token_file=str(directory / "token"),
            ),
        )
    finally:
        server.kill()


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_bench_loads_it(secured: Secured, protocol: str) -> None:
    address = secured.address(protocol)
    found = ferry_json("bench", address, "--model", "half", *QUICK, *secured.options)
    assert found["servers"][0]["protocol"] == address.partition(":")[0]
    for step in found["steps"]:
        assert step["errors"] == {}
        assert step["answers"] > 0


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_without_one_of_them_nobody_is_let_in(secured: Secured, protocol: str) -> None:
    address = secured.address(protocol)
    ca, certificate, token = secured.options[:2], secured.options[2:6], secured.options[6:]
    refused = "HTTP 401" if protocol == "rest" else "token"
    unverified = "CERTIFICATE_VERIFY_FAILED" if protocol == "rest" else "localhost"
    for options, said in (
        ((*ca, *certificate), refused),
        ((*ca, *certificate, "--header", "X-API-Key: other"), refused),
        ((*certificate, *token), unverified),
        ((*ca, *token), ""),
    ):
        done = run_ferry("bench", address, "--model", "half", "--timeout", "5", *QUICK, *options)
        assert done.returncode == 1, options
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert TOKEN not in done.stderr


def test_a_port_with_tls_is_told_to_those_who_forget_it(secured: Secured) -> None:
    done = run_ferry("inspect", secured.grpc.replace("grpcs", "grpc"), "--model", "half", *secured.options)
    assert done.returncode == 1
    assert "If it has TLS, write grpcs://" in done.stderr


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_what_inspect_writes_is_answered(secured: Secured, protocol: str) -> None:
    (target,) = targets(secured.address(protocol), model="half", access=secured.access)
    told = report(target, rest=secured.rest, grpc=secured.grpc, run=True, access=secured.access)
    entry = told["signatures"]["serving_default"]
    assert entry["run"] == "OK"
    assert TOKEN not in json.dumps(told)
    answer = subprocess.run(["bash", "-c", entry["curl"]], capture_output=True, check=True, timeout=60)
    assert json.loads(answer.stdout) == {"predictions": [2.5]}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(entry["grpc"], "snippet", "exec"), {})
    assert "float_val: 2.5" in printed.getvalue()


def test_headers_are_checked_and_sent(tmp_path: Path) -> None:
    assert Access(header=("X-Api-Key: a b ", "y:")).headers() == {"x-api-key": "a b", "y": ""}
    assert Access(header=("X: it's",)).curl("http://h") == "-H 'X: it'\"'\"'s' "
    for wrong in ("no colon", ": empty", "a b: space", "x: two\nlines"):
        with pytest.raises(ServingError, match="write NAME: VALUE"):
            Access(header=(wrong,)).headers()
    with pytest.raises(ServingError, match="--token-file"):
        Access(token_file=str(tmp_path / "none")).headers()


def test_files_are_checked_before_anything_is_asked(tmp_path: Path, authority: Authority) -> None:
    for options, said in (
        (("--ca", str(tmp_path / "none")), "none"),
        (("--cert", str(authority.ca)), "TLS is not possible with"),
        (("--key", str(authority.ca)), "--key goes with"),
    ):
        done = run_ferry("bench", "https://localhost:1", "--model", "half", *options)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
