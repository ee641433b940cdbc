from __future__ import annotations

from pathlib import Path

import pytest
from tensorflow_serving.config import model_server_config_pb2

from app.config.text_proto import TextError, read
from app.errors import ServingError

GOOD = """# comment
model_config_list: {
  config { name: 'a', base_path: "/a"; model_platform: "tensorflow" }
}
"""


def failure(path: Path) -> str:
    with pytest.raises(ServingError) as raised:
        read(str(path), model_server_config_pb2.ModelServerConfig())
    return str(raised.value)


def test_the_whole_text_format_is_read(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text(GOOD)
    config = read(str(file), model_server_config_pb2.ModelServerConfig())
    assert [model.name for model in config.model_config_list.config] == ["a"]


def test_comments_alone_are_the_empty_message(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text("# nothing\n\n")
    assert read(str(file), model_server_config_pb2.ModelServerConfig()).WhichOneof("config") is None


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    assert failure(tmp_path / "no") == f"NOT_FOUND: {tmp_path}/no; No such file or directory"
    assert failure(tmp_path) == f"NOT_FOUND: {tmp_path}; No such device"
    assert failure(empty) == f"INVALID_ARGUMENT: {empty}; Invalid argument"


@pytest.mark.parametrize(
    ("text", "place"),
    [(b"model_config_list {\n  nope: 1\n}", "2:3"), (b"model_config_list {", "1:"), (b"\xff", "")],
)
def test_what_does_not_parse_is_named_with_line_and_column(
    tmp_path: Path, text: bytes, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "models.config"
    file.write_bytes(text)
    assert failure(file) == f"INVALID_ARGUMENT: Invalid protobuf file: '{file}'"
    (message,) = caplog.messages
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig" in message
    assert place in message
    assert str(file) in message


def test_an_error_knows_where_it_is(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("model_config_list {\n  nonsense: 1\n}")
    with pytest.raises(TextError) as caught:
        read(str(file), model_server_config_pb2.ModelServerConfig())
    assert (caught.value.path, caught.value.line, caught.value.column) == (str(file), 2, 3)
    assert "nonsense" in caught.value.cause
