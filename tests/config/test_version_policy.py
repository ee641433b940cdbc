from __future__ import annotations

from app.config.version_policy import VersionPolicy


def test_the_default_is_the_latest_version() -> None:
    assert VersionPolicy().select([3, 10, 9]) == {10}
    assert VersionPolicy().select([]) == set()


def test_latest_n_all_and_specific() -> None:
    assert VersionPolicy(latest=2).select([3, 10, 9]) == {9, 10}
    assert VersionPolicy(latest=None).select([3, 10]) == {3, 10}
    assert VersionPolicy(latest=None, specific=frozenset({3, 4})).select([3, 10]) == {3}
