from __future__ import annotations

import pytest

from app.lifecycle.version import Handle, Version, close


class Servable:
    def close(self) -> None:
        raise RuntimeError("stuck")


def test_what_cannot_be_closed_is_told_and_gone_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    close(Servable())
    assert "A version could not be closed properly" in caplog.text
    assert "stuck" in caplog.text


def test_a_handle_is_released_at_the_end_of_its_block_whatever_happens() -> None:
    version, servable = Version[Servable]("m", 3, "/3"), Servable()
    released: list[Version[Servable]] = []
    handle = Handle(version, servable, released.append)
    assert (handle.model, handle.version, handle.servable) == ("m", 3, servable)

    def use() -> None:
        with handle as entered:
            assert entered is handle
            assert released == []
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        use()
    assert released == [version]


def test_the_name_of_a_version_in_texts() -> None:
    assert Version[Servable]("m", 3, "/3").id == "{name: m version: 3}"
