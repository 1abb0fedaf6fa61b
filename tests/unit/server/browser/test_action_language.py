"""BrowserGym's action language, as it is read."""

from __future__ import annotations

from typing import Any

import pytest

from graftbox.server.browser.actions import Call, parse

VALUES: tuple[Any, ...] = (None, True, (1, "a"), {"a": []})


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("noop()", [Call("noop")]),
        ("click('a51')", [Call("click", ("a51",))]),
        ("click('48', button=\"middle\", modifiers=['Shift'])", [
            Call("click", ("48",), {"button": "middle", "modifiers": ["Shift"]})
        ]),
        ('fill("1", """two\nlines""")', [Call("fill", ("1", "two\nlines"))]),
        ("scroll(-50.2, +1e2)", [Call("scroll", (-50.2, 100.0))]),
        ("select_option('a', ['x', 'y',],)", [Call("select_option", ("a", ["x", "y"]))]),
        ("goto('http://x/#a') # there\nnoop(5)", [Call("goto", ("http://x/#a",)), Call("noop", (5,))]),
        ("I will click(  '1' )noop(2) and be done", [Call("click", ("1",)), Call("noop", (2,))]),
        ("page.press('Enter')", [Call("press", ("Enter",))]),
        ("# noop(1)\nnoop(2)", [Call("noop", (2,))]),
        ("noop(None) noop(True) noop((1, 'a')) noop({'a': []})", [
            Call("noop", (each,)) for each in VALUES
        ]),
        (r"fill('1', 'a\n\'b\' \d')", [Call("fill", ("1", "a\n'b' \\d"))]),
        ("click('1' button='left')", [Call("click", ("1",), {"button": "left"})]),
    ],
)  # fmt: skip
def test_calls_are_found_in_any_text(text: str, calls: list[Call]) -> None:
    assert parse(text) == calls


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "noop",
        "noop(",
        "noop(x)",
        "click(bid)",
        "noop(1 + 1)",
        "fill('1', f'x')",
        "noop(*[1])",
        "noop('",
    ],
)
def test_what_is_no_call_with_literals_is_nothing(text: str) -> None:
    with pytest.raises(ValueError, match=r"^Received an empty action\.$"):
        parse(text)


def test_a_call_inside_another_is_read_alone() -> None:
    assert parse("click(noop(3))") == [Call("noop", (3,))]


@pytest.mark.parametrize("name", ["frob", "__import__", "eval", "open", "mouse_click", "keyboard_type"])
def test_only_the_actions_of_the_language_have_a_name(name: str) -> None:
    with pytest.raises(NameError, match=f"^Invalid action type '{name}'\\.$"):
        parse(f"noop()\n{name}('x')")


def test_a_parameter_is_given_once() -> None:
    with pytest.raises(SyntaxError, match="keyword argument repeated: bid"):
        parse("click(bid='1', bid='2')")


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(RecursionError):
        parse(f"noop({'[' * 5000}")
