from __future__ import annotations

from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_serving.config import model_server_config_pb2

from app.tools.positions import Position, positions

TEXT = """# head
model_config_list {
  config { name: "a # no comment {" base_path: '/m' }
  config: [ < name: "b"
    model_version_policy { specific { versions: [1, 22] } } >, { name: "c" } ]
}
"""


def test_every_field_has_its_line_and_column() -> None:
    found = positions(TEXT)
    text_format.Parse(TEXT, model_server_config_pb2.ModelServerConfig())
    top = "model_config_list[0]"
    assert found[top,] == Position(2, 1, "")
    assert found[top, "config[0]", "name[0]"] == Position(3, 12, '"a # no comment {"')
    assert found[top, "config[0]", "base_path[0]"] == Position(3, 37, "'/m'")
    assert found[top, "config[1]"] == Position(4, 13, "")
    specific = (top, "config[1]", "model_version_policy[0]", "specific[0]")
    assert found[(*specific, "versions[0]")] == Position(5, 50, "1")
    assert found[(*specific, "versions[1]")] == Position(5, 53, "22")
    assert found[top, "config[2]", "name[0]"] == Position(5, 66, '"c"')


@given(st.lists(st.tuples(st.text(max_size=5), st.sets(st.integers(0, 99), max_size=3)), max_size=4))
def test_fields_are_numbered_as_the_parser_numbers_them(models: list[tuple[str, set[int]]]) -> None:
    proto = model_server_config_pb2.ModelServerConfig()
    for name, versions in models:
        config = proto.model_config_list.config.add(base_path=name + "/")
        config.model_version_policy.specific.versions.extend(sorted(versions))
    text = text_format.MessageToString(proto)
    found = positions(text)
    for number, (name, versions) in enumerate(models):
        block = ("model_config_list[0]", f"config[{number}]")
        place = found[(*block, "base_path[0]")]
        line = text.split("\n")[place.line - 1]
        assert line[place.column - 1 :].startswith("base_path: ")
        assert text_format.Parse(
            f"base_path: {place.text}", model_server_config_pb2.ModelConfig()
        ).base_path == (name + "/")
        policy = (*block, "model_version_policy[0]", "specific[0]")
        texts = [found[(*policy, f"versions[{index}]")].text for index in range(len(versions))]
        assert texts == [str(version) for version in sorted(versions)]
