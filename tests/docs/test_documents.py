"""The documents: short where they must be, up to date with the code, every link and every command real."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from fedmm_cli.app import app
from fedmm_cli.old_options import OLD_OPTIONS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OWN_NAMES = ("--install-completion", "--help", "--version")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert len(text.encode()) <= 12_000


def test_generated_pages_say_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.docs", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r": ([\w/-]+\.md)$", navigation, flags=re.MULTILINE))
    assert named == {path.relative_to(ROOT / "docs").as_posix() for path in PAGES if ROOT / "docs" in path.parents}


def anchors(path: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"(?<!\\)\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def commands_in(page: Path) -> list[str]:
    """The command lines in fences, in indented blocks and in the running text."""
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```(?:bash)?\n(.*?)```", text, flags=re.DOTALL))
    lines = [*blocks.splitlines(), *re.findall(r"^    (.*)$", text, flags=re.MULTILINE)]
    lines = [part.strip() for line in lines for part in line.split("&&")]
    return [*(line for line in lines if line.startswith("fedmm ")), *re.findall(r"`(fedmm [a-z][^`]*)`", text)]


def options_of(words: list[str]) -> tuple[str, set[str]]:
    """The command that the words name, and its options; raises KeyError for a command that is not there."""
    command, named = get_command(app), "fedmm"
    for word in words[1:]:
        if not hasattr(command, "commands"):
            break
        command, named = command.commands[word], f"{named} {word}"
    return named, {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name == "decisions"], ids=name_of)
def test_every_decision_has_its_date_its_evidence_and_the_command_that_repeats_it(page: Path) -> None:
    """Or says that none does."""
    _, *decisions = re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert decisions
    for decision in decisions:
        heading = decision.splitlines()[0]
        assert re.search(r"^\*20\d\d-\d\d-\d\d\*$", decision, flags=re.MULTILINE), heading
        assert "**Evidence.**" in decision, heading
        _, _, command = decision.partition("**Command.**")
        assert "`" in command or "not kept" in command, heading
        assert [path for path in re.findall(r"\btests/[\w/.]+\w", command) if not (ROOT / path).exists()] == [], heading


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_option_exists(page: Path) -> None:
    for line in commands_in(page):
        for part in re.split(r"&&|\||;|>", line.split("  #")[0].replace("...", "")):
            words = shlex.split(part.strip(), comments=True)
            if words[:1] != ["fedmm"] or words[1:2] in ([], ["COMMAND"]) or "[OPTIONS]" in words:
                continue
            if words[1] in OWN_NAMES:
                continue
            named, known = options_of(words)
            given = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert given - known - set(OWN_NAMES) - set(OLD_OPTIONS) == set(), f"{named}: {line}"
