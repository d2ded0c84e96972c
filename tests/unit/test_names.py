"""Names are the field's: those of the shared package stand in the glossary or in the literature of what they are about."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]

# HTTP and OpenID Connect; Kafka and PostgreSQL; programs.
STANDARD: Final = frozenset(
    re.findall(
        "[a-z]+",
        """
        body bus caller gauge http keys limit problem provider readiness request requests role signed span token tokens tracing
        consumer discard discarded entry lost offsets partition partitions pooled progress record redriven release released
        retention retried retry route router rule running size topic writes
        allowed away bad caught changed context invalid money not outcome settings state stuck timers undecodable up waiting
        """,
    )
)

GONE: Final = frozenset(
    {
        *(
            "Told",
            "Desk",
            "AtDesk",
            "Asking",
            "Remembered",
            "spare_collector",
            "by_stretches",
            "in_turn",
            "let_more_come",
        ),
        *(
            "surroundings",
            "tell_broker",
            "woken",
            "knowing",
            "leash",
            "Sign",
            "Ground",
            "Borne",
            "Gone",
            "LookAt",
            "findable",
        ),
        *(
            "LoseSight",
            "Conclude",
            "BookedThere",
            "is_questioned",
            "Door",
            "Ticket",
            "visitor",
            "NOTED",
            "noted",
            "lanes",
        ),
    }
)
"""Words of a language of our own, which the field's have replaced."""


def words_of_the_glossary() -> set[str]:
    text = (ROOT / "docs/glossary.md").read_text()
    terms = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    return {word for term in terms for word in re.findall(r"[a-z]+", term.lower())}


def shared_classes() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "shared/src/shared").rglob("*.py")):
        if "contracts" in path.parts or "migrations" in path.parts:
            continue  # facts are listed in docs/domain.md
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield path.name, node.name


@pytest.mark.parametrize(("file", "name"), list(shared_classes()))
def test_a_class_that_all_services_use_is_named_by_words_of_the_glossary_or_of_the_field(file: str, name: str) -> None:
    words = {word.lower() for word in re.findall(r"[A-Z][a-z]*", name)}
    known = words_of_the_glossary() | STANDARD
    assert words <= known, f"{file}: {name} says {sorted(words - known)}"


def test_no_name_of_the_private_language_comes_back() -> None:
    found = set()
    for path in [*ROOT.glob("services/*/src/**/*.py"), *ROOT.glob("shared/src/**/*.py"), *ROOT.glob("ops/src/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "name", None)
            if isinstance(name, str) and name in GONE:
                found.add(f"{path.relative_to(ROOT)}: {name}")
    assert sorted(found) == []
