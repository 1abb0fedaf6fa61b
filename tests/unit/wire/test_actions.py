"""The wire's actions: what is understood, and what is said about the rest."""

from __future__ import annotations

import pytest

from graftbox.wire.actions import InvalidActionError, Read, Run, Write, parse
from graftbox.wire.observations import RunResult, truncated


def test_a_run_has_the_protocols_defaults() -> None:
    action = parse({"action": "run", "args": {"command": "ls"}, "timeout": 5})
    assert action == Run("ls", timeout=5.0)
    assert parse({"action": "read", "args": {"path": "f", "view_range": [1, 2]}}) == Read(
        "f", view_range=(1, 2)
    )
    assert parse({"action": "write", "args": {"path": "f", "content": ""}, "id": 3}) == Write("f", "")


def test_arguments_of_older_clients_are_accepted() -> None:
    args = {"command": "ls", "keep_prompt": True, "is_confirmed": "rejected", "thought": None}
    assert parse({"action": "run", "args": args}) == Run("ls", confirmation_state="rejected")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ([], "not a JSON object"),
        ({}, "'action' key is not found"),
        ({"observation": "null"}, "400: Invalid action type"),
        ({"action": "frobnicate"}, "'action['action']='frobnicate'' is not defined. Available actions: "),
        ({"action": "think", "args": {}}, "'ActionExecutor' object has no attribute 'think'"),
        ({"action": "run", "args": {"nope": 1}}, "unexpected keyword argument 'nope'"),
        ({"action": "write", "args": {}}, "missing 2 required positional arguments: 'path' and 'content'"),
        ({"action": "run", "args": {"command": "x", "timeout": 1}}, "unexpected keyword argument 'timeout'"),
        ({"action": "run", "args": {"command": "x"}, "timeout": float("nan")}, "number of seconds"),
        ({"action": "run", "args": {"command": "x", "blocking": 1}}, "must be true or false"),
    ],
)
def test_what_is_wrong_is_named(message: object, said: str) -> None:
    with pytest.raises(InvalidActionError) as caught:
        parse(message)
    assert said in str(caught.value)


def test_long_output_is_cut_in_the_middle_unless_hidden() -> None:
    text = "a" * 20_000 + "b" * 20_000
    assert (
        truncated(text) == "a" * 15_000 + "\n[... Observation truncated due to length ...]\n" + "b" * 15_000
    )
    assert RunResult(text, "x", hidden=True).to_json()["content"] == text
    assert truncated("x" * 30_000) == "x" * 30_000
