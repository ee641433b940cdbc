"""What `scripts/release` refuses before it makes anything, in clones of this repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from app import __version__

REPOSITORY = Path(__file__).resolve().parent.parent
CHANGELOG = f"# Changelog\n\n## [{__version__}] - 2026-01-31\n\n### Added\n\n- It.\n"


def git(directory: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository that a release could be made of, with nothing in it but what the script looks at."""
    directory = tmp_path / "checkout"
    for name in ("scripts/release", "app/__init__.py"):
        (directory / name).parent.mkdir(parents=True)
        (directory / name).write_bytes((REPOSITORY / name).read_bytes())
    (directory / "scripts" / "release").chmod(0o755)
    (directory / "CHANGELOG.md").write_text(CHANGELOG)
    git(directory, "init", "--quiet")
    commit(directory)
    return directory


def commit(directory: Path) -> None:
    git(directory, "add", "--all")
    git(directory, "commit", "--quiet", "--message", "A state")


def refusal(directory: Path) -> str:
    """The one message of a release that is refused; whatever it would run next does not exist here."""
    done = subprocess.run(["scripts/release"], cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert not done.stdout
    assert not (directory / "dist").exists()
    return done.stderr


def test_a_checkout_with_changes_is_refused(checkout: Path) -> None:
    (checkout / "new.py").touch()
    assert refusal(checkout) == "release: the checkout has changes; commit or remove them:\n?? new.py\n"


@pytest.mark.parametrize("heading", ["## [Unreleased]", f"## [{__version__}]", "## [9.9.9] - 2026-01-31"])
def test_a_version_without_a_dated_section_is_refused(checkout: Path, heading: str) -> None:
    (checkout / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n\n- It.\n")
    commit(checkout)
    section = f"## [{__version__}] - YYYY-MM-DD"
    assert refusal(checkout) == f"release: CHANGELOG.md has no section '{section}'; write one.\n"


def test_a_version_that_has_a_tag_is_refused(checkout: Path) -> None:
    git(checkout, "tag", f"v{__version__}")
    expected = f"release: the tag v{__version__} is there already; raise __version__ in app/__init__.py.\n"
    assert refusal(checkout) == expected


def test_a_version_that_is_none_is_refused(checkout: Path) -> None:
    (checkout / "app" / "__init__.py").write_text('__version__ = "1.0.dev1"\n')
    commit(checkout)
    assert "has version '1.0.dev1'" in refusal(checkout)


def test_the_changelog_has_a_section_for_this_version() -> None:
    headings = re.findall(r"^## (.*)$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d", headings[1])
