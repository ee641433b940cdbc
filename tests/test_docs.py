from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from app.options import Support, flags
from app.tools.cli import ferry

REPOSITORY = Path(__file__).resolve().parent.parent


def test_the_page_of_flags_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("flags_doc", REPOSITORY / "scripts" / "flags_doc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (REPOSITORY / "docs" / "flags.md").read_text() == module.render(), (
        "run python scripts/flags_doc.py"
    )


PAGES = (
    "README.md",
    "docs/architecture.md",
    "docs/deploy.md",
    "docs/differences.md",
    "docs/metrics.md",
    "docs/operations.md",
    "docs/scaling.md",
    "docs/tools.md",
    "CHANGELOG.md",
)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere_and_flags_exist(page: str) -> None:
    text = (REPOSITORY / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert ((REPOSITORY / page).parent / target).exists(), target
    docker = {"rm", "entrypoint", "read-only", "tmpfs", "user", "gpus", "runtime", "cpus", "cpuset-cpus"}
    docker |= {"cap-drop", "security-opt", "network", "memory", "pids-limit", "internal"}
    docker |= {"change", "image", "secret-rm", "secret-add", "osv-url"}
    options = (option for command in ferry.commands.values() for option in command.params)
    tools = {name.lstrip("-") for option in options for name in option.opts}
    known = {flag.name for flag in flags()} | docker | tools | {"name", "version", "help"}
    for name in re.findall(r"--([a-z][a-z_0-9-]+)", text):
        assert name in known, name


def anchors(page: Path) -> set[str]:
    """What a link into `page` can name: its headings, as forges write them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_into_pages_name_a_heading(page: str) -> None:
    here = REPOSITORY / page
    for file, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", here.read_text()):
        assert anchor in anchors(here.parent / file if file else here), f"{file}#{anchor}"


def test_every_room_of_the_house_is_in_the_architecture() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    for module in (REPOSITORY / "app").rglob("*.py"):
        if module.name != "__init__.py":
            assert module.stem in text, module


def test_every_stack_starts_with_a_word_and_is_told() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    told = (REPOSITORY / "docs" / "deploy.md").read_text()
    for stack in (REPOSITORY / "compose").glob("*.yml"):
        word = stack.stem if stack.stem == "swarm" else f"compose-{stack.stem}"
        assert f"\n{word}: " in makefile
        assert f"\n{word}-down: " in makefile
        assert f"(../compose/{stack.name})" in told


def test_operators_find_every_flag_that_acts() -> None:
    text = (REPOSITORY / "docs" / "operations.md").read_text()
    section = text.partition("## Flags\n")[2].partition("\n## ")[0]
    named = re.findall(r"`([a-z][a-z_0-9]+)`", section)
    assert len(named) == len(set(named)), "each in one row"
    acts = {flag.name for flag in flags() if flag.support is Support.ACTS}
    assert acts - {"version"} == set(named)
