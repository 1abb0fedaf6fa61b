from __future__ import annotations

from pathlib import Path

import pytest

from graftbox.bundle import recipe
from graftbox.bundle.recipe import Recipe
from graftbox.errors import NotFoundError, UsageError

GOOD = """
[debian]
suites = ["trixie"]
[python]
version = "3.13"
[component.core]
packages = ["bash"]
without = ["perl"]
wheels = ["h11"]
[component.core.stage]
anything = [1, {deep = true}]
"""


def parse(text: str) -> Recipe:
    return recipe.parse(text.encode(), Path("/r/my.toml"))


def test_a_recipe_says_what_is_in_each_component() -> None:
    parsed = parse(GOOD)
    core = parsed.component("core")
    assert (core.packages, core.without, core.wheels) == (("bash",), ("perl",), ("h11",))
    assert core.stage == {"anything": [1, {"deep": True}]}
    assert (parsed.suites, parsed.sections, parsed.python) == (("trixie",), ("main",), "3.13")
    assert parsed.lock_path == Path("/r/my.lock.json")
    assert parsed.keyring == Path("/r/debian-archive-keyring.gpg")


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("[debian]", "[debain]", "unknown key debain"),
        ("without", "witout", "unknown key component.core.witout"),
        ('["trixie"]', '"trixie"', "debian.suites must be a list of strings"),
        ('["trixie"]', "[]", "debian.suites must be a list of at least one suite"),
        ('"3.13"', '"3.13.5"', "python.version must be a minor version"),
        ('version = "3.13"', "", "python.version must be set"),
        ('["bash"]', "[1]", "component.core.packages must be a list of strings"),
        ("component.core", "component.Core", "component.Core must be named"),
        ("[debian]", "[debian", "not a TOML file"),
        ("[component.core.stage]\nanything", "stage", "component.core.stage must be a table"),
    ],
)
def test_a_mistake_is_told_with_its_file_and_key(before: str, after: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(GOOD.replace(before, after))
    assert "/r/my.toml" in str(caught.value)
    assert complaint in str(caught.value)


def test_a_recipe_without_components_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="component must be at least one table"):
        parse('[debian]\nsuites = ["trixie"]')


def test_staging_and_order_do_not_ask_for_a_new_lock_but_packages_do() -> None:
    digest = parse(GOOD).resolution_digest
    assert parse(GOOD.replace("deep = true", "deep = false")).resolution_digest == digest
    assert parse(GOOD.replace('"bash"', '"dash"')).resolution_digest != digest
    assert parse(GOOD.replace("deep = true", "deep = false")).digest != parse(GOOD).digest


@pytest.mark.parametrize("name", ["openhands", "tools"])
def test_the_built_in_recipes_are_sound(name: str) -> None:
    parsed = Recipe.builtin(name)
    assert parsed.keyring.is_file()
    assert Recipe.find(name) == parsed


def test_an_unknown_recipe_or_component_is_named_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"openhands, .*tools"):
        Recipe.find("nope")
    with pytest.raises(NotFoundError, match="it has core"):
        parse(GOOD).component("browser")
    with pytest.raises(NotFoundError, match="Cannot read the recipe"):
        Recipe.find(str(tmp_path / "none.toml"))


def test_an_optional_component_is_only_in_bundles_that_ask_for_it() -> None:
    parsed = parse(
        '[debian]\nsuites = ["trixie"]\n'
        "[component.core]\n[component.mcp]\n[component.fonts]\noptional = true\n"
    )
    assert parsed.defaults == parsed.chosen(()) == parsed.chosen(["default"]) == ("core", "mcp")
    assert parsed.chosen(["fonts"]) == ("core", "fonts")
    assert parsed.chosen(["fonts", "default"]) == ("core", "mcp", "fonts")
    with pytest.raises(NotFoundError, match="'default' is all but the optional ones"):
        parsed.chosen(["nope"])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("component = 3", "component must be a table"),
        ("component = []", "component must be a table"),
        ("[component]\ncore = 3", "component.core must be a table"),
        ("[component.core]\nstage = 3", "component.core.stage must be a table"),
        ("[component.core]\nwheels = [3]", "component.core.wheels must be a list of strings"),
    ],
)
def test_a_mistake_in_what_changes_a_built_in_recipe_is_told_too(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse(f'extends = "openhands"\n{text}')
