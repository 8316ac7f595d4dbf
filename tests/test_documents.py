"""What the documents say of the code holds: folders, layers, terms, states, tests, recipes, version."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import dropwhile, takewhile
from pathlib import Path

import pytest

from agent import __version__
from tests.support.paths import ROOT

ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
PROMISE = (ROOT / "docs" / "promise.md").read_text()
THREATS = (ROOT / "docs" / "threat-model.md").read_text()
SECURITY = (ROOT / "SECURITY.md").read_text()

# Words of speech in place of a term of the field.
DIALECT = ("told", "tells", "nobody", "somebody", "anew")
DIALECT_ALLOWED = 0

_TOP = ("agent", "tests", "docs", "bench", "debian", "systemd", "fuzz", "monitoring")
_FOLDERS = "outbox|readers|snowpipe|uploader|service|clock|cli|log|keys|sql|config|emulator"


def section(document: str, title: str) -> str:
    """A section without its heading, up to the next heading of the same or a higher level."""
    found = re.search(
        rf"^(#+) (?:\d+\. )?{re.escape(title)}\n(.*?)(?=^#{{1,2}} |\Z)", document, re.MULTILINE | re.DOTALL
    )
    assert found is not None, title
    return found[2]


def table(text: str) -> list[list[str]]:
    """The rows of a section's first table, without its header."""
    lines = dropwhile(lambda line: not line.startswith("|"), text.splitlines())
    rows = list(takewhile(lambda line: line.startswith("|"), lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in rows[2:]]


def ticked(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def named_paths(document: str) -> list[str]:
    """Everything in a document that is written as a path of this tree, without patterns and test names."""
    words = ticked(document) + re.findall(r"\]\((?!https?:|#)([^)]+)\)", document)
    tops = tuple(f"{top}/" for top in _TOP)
    paths = {word.removeprefix("../").partition("::")[0] for word in words}
    return sorted(path for path in paths if path.startswith(tops) and not set(path) & set("<>* "))


@cache
def defined_names() -> frozenset[str]:
    """Every class, function, field and constant that agent/ defines, and every column of its tables."""
    names: set[str] = set()
    for path in (ROOT / "agent").rglob("*.py"):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                    names.add(node.name)
                case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                    names.add(name)
    return frozenset(names)


def prose(path: Path) -> Iterator[str]:
    """Docstrings and comments of a module."""
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


@pytest.mark.parametrize("document", ["ARCHITECTURE", "CONTRIBUTING", "CHANGELOG", "SECURITY", "THREATS"])
def test_every_path_a_document_names_exists(document: str) -> None:
    missing = [path for path in named_paths(globals()[document]) if not (ROOT / path).exists()]

    assert missing == []


@pytest.mark.parametrize("title", ["The path of a swipe", "The path of a committed token"])
def test_every_module_in_a_drawing_exists(title: str) -> None:
    drawn = re.findall(rf"\b((?:{_FOLDERS})/[\w/]+\.py)\b", section(ARCHITECTURE, title))

    assert drawn
    assert [module for module in drawn if not (ROOT / "agent" / module).exists()] == []


def test_the_layer_table_is_the_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")

    rows = table(section(ARCHITECTURE, "Layers"))

    assert [ticked(layer) for layer, *_ in rows] == [re.split(r" [|:] ", layer) for layer in layers]
    for layer, places, *_ in rows:
        names = [Path(place).name.removesuffix(".py") for place in ticked(places)]
        assert names == ticked(layer)


def test_every_term_of_the_glossary_is_a_name_in_the_code() -> None:
    rows = table(section(ARCHITECTURE, "Glossary"))
    terms = {term: ticked(name)[0] for term, _, name in rows}
    names = {name for name in terms.values() if "/" not in name}

    assert len(terms) == len(rows) >= 30
    assert list(terms) == sorted(terms, key=str.casefold)
    assert sorted(names - defined_names()) == []


def test_the_states_of_the_sender_are_those_of_the_code() -> None:
    module = ast.parse((ROOT / "agent" / "uploader" / "sender_state.py").read_text())
    (states,) = (
        node for node in module.body if isinstance(node, ast.ClassDef) and node.name == "SenderState"
    )
    members = [node.targets[0] for node in states.body if isinstance(node, ast.Assign)]

    rows = table(section(ARCHITECTURE, "States of the sender"))
    described = [ticked(state)[0] for state, *_ in rows]

    assert described == [member.id for member in members if isinstance(member, ast.Name)]


def test_every_class_a_document_names_exists() -> None:
    names = re.findall(r"`([A-Z][A-Za-z0-9]*[a-z]\w*)`", ARCHITECTURE + CONTRIBUTING)

    assert sorted(set(names) - defined_names()) == []


def test_every_fault_of_the_fault_model_has_a_test_that_exists() -> None:
    rows = table(section(ARCHITECTURE, "Fault model"))

    for fault, _, proof in rows:
        file, _, name = ticked(proof)[0].partition("::")
        assert re.search(rf"^\s*def {name}\(", (ROOT / file).read_text(), re.MULTILINE), fault


def test_every_line_of_the_threat_model_has_a_test_that_exists() -> None:
    proofs = re.findall(r"`(tests/[^`:]+)::(\w+)` \|$", THREATS, re.MULTILINE)

    assert len(proofs) == len(
        re.findall(r"^\| (?!attack|mistake|asset|---)[^|]+\|[^|]+\| `", THREATS, re.MULTILINE)
    )
    for file, name in proofs:
        assert re.search(rf"^\s*def {name}\(", (ROOT / file).read_text(), re.MULTILINE), name


def test_every_line_of_the_promise_has_a_test_that_exists() -> None:
    lines = [line for line in PROMISE.splitlines() if line.startswith("| ") and "test |" not in line]

    assert len(lines) > 30
    for line in lines:
        file, _, name = ticked(line)[-1].partition("::")
        assert re.search(rf"^\s*def {name}\(", (ROOT / file).read_text(), re.MULTILINE), line


def test_every_recipe_names_its_files() -> None:
    recipes = re.split(r"^### ", section(CONTRIBUTING, "Recipes"), flags=re.MULTILINE)[1:]

    assert len(recipes) == 7
    for recipe in recipes:
        assert len(named_paths(recipe)) >= 2, recipe.splitlines()[0]


def test_every_make_target_of_the_gates_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"(?:`|^    )make ([a-z-]+)", CONTRIBUTING, re.MULTILINE)

    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_the_changelog_has_the_version_of_the_program() -> None:
    assert f"## [{__version__}]" in CHANGELOG
    assert CHANGELOG.index("## [Unreleased]") < CHANGELOG.index(f"## [{__version__}]")


def test_docstrings_and_comments_are_free_of_dialect() -> None:
    word = re.compile(rf"\b(?:{'|'.join(DIALECT)})\b", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}: {' '.join(text.split())}"
        for path in sorted((ROOT / "agent").rglob("*.py"))
        for text in prose(path)
        for _ in word.findall(text)
    ]

    assert len(found) <= DIALECT_ALLOWED, "\n".join(found)
