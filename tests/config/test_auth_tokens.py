from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from app.config.auth_tokens import Group, Token, read_file
from app.errors import ServingError

DIGEST = hashlib.sha256(b"secret").digest()


def test_what_a_file_says(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(
        '# who\ntoken { name: "shop" value: "secret" allow: PREDICT }\n'
        f'token {{ sha256: "{"AB" * 32}" allow: [STATUS, ADMIN] allow: STATUS }}'
    )
    assert read_file(str(file)) == (
        Token("shop", DIGEST, frozenset({Group.PREDICT})),
        Token("", b"\xab" * 32, frozenset({Group.STATUS, Group.ADMIN})),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing\n", ": no token; nobody could ask for anything."),
        ("token { allow: PREDICT }", ": token 1 must have either value or sha256."),
        (
            f'token {{ name: "a" value: "x" sha256: "{"0" * 64}" allow: PREDICT }}',
            ": token 1 (`a`) must have either value or sha256.",
        ),
        ('token { value: "a b" allow: ADMIN }', ": token 1: value must be printable ASCII without blanks."),
        ('token { sha256: "abc" allow: ADMIN }', ": token 1: sha256 must have 64 hexadecimal digits."),
        ('token { value: "x" }', ": token 1: allow must name PREDICT, STATUS or ADMIN."),
        ('token { value: "x" allow: NONE }', ": token 1: allow must name PREDICT, STATUS or ADMIN."),
        ('token { value: "x" allow: 7 }', ": token 1: allow must name PREDICT, STATUS or ADMIN."),
        (
            f'token {{ value: "secret" allow: ADMIN }} token {{ sha256: "{DIGEST.hex()}" allow: STATUS }}',
            ": the same token is there twice; list all it allows in one place.",
        ),
        (
            "token {\n value: s3cret }",
            ":2:9: not a list of `token { name value|sha256 allow }`.",
        ),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(ServingError) as raised:
        read_file(str(file))
    assert str(raised.value) == f"INVALID_ARGUMENT: {file}{message}"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"NOT_FOUND: .*; No such file or directory"):
        read_file(str(tmp_path / "tokens"))
