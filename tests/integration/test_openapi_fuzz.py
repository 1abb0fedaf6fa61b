"""Requests made up from the OpenAPI document: none is a 5xx, and every answer is as the document says.

The server runs in a namespace where everything but one temporary folder is read-only, where no other
process is seen and nothing is privileged, so that whatever a made-up command does stays in there.
``GRAFTBOX_FUZZ_EXAMPLES`` sets the number of requests for each operation.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from schemathesis.config import (
    CacheConfig,
    ChecksConfig,
    CoveragePhaseConfig,
    GenerationConfig,
    PhasesConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
)
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from tests.integration.conftest import program, shown_below_tmp

from graftbox.server import openapi, routes

FEW = 5
EXAMPLES = int(os.environ.get("GRAFTBOX_FUZZ_EXAMPLES", FEW))
SOURCE = Path(__file__).parents[2] / "src"
KEY = "fuzz"
_EVENT = re.compile(r"[0-9]{1,16}-[0-9]{1,16}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What is valid but can't be done here is refused with these: no such user, program, folder or shell.
# 502 and 504: a page that can't be loaded, or not in time.
_ACCEPTED = ["2xx", "304", "400", "403", "404", "409", "410", "412", "416", "429", "501", "502", "504"]
_REFUSED = ["400", "403", "404", "405", "409", "410", "412", "413", "416", "422", "429", "501"]
_CHECKS = ChecksConfig.from_dict(
    {
        "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "501", "502", "504"]},
        "positive_data_acceptance": {"expected-statuses": _ACCEPTED},
        "negative_data_rejection": {"expected-statuses": _REFUSED},
    }
)


def _described() -> dict[str, Any]:
    document = openapi.document(routes.ROUTES, routes.OPEN, "1")
    # The protocol wants a 500 for every action that is not valid.
    del document["paths"]["/execute_action"]
    return document


schema = schemathesis.openapi.from_dict(
    _described(),
    config=SchemathesisConfig(
        cache=CacheConfig(enabled=False),
        projects=ProjectsConfig(
            default=ProjectConfig(
                checks=_CHECKS,
                max_stream_events=1,
                phases=PhasesConfig(coverage=CoveragePhaseConfig(enabled=EXAMPLES > FEW)),
                generation=GenerationConfig(
                    max_examples=EXAMPLES, deterministic=EXAMPLES == FEW, no_shrink=True, database="none"
                ),
            )
        ),
    ),
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("work").resolve()
    command = [program("bwrap", "bubblewrap"), "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    command += [
        "--tmpfs",
        "/tmp",
        *shown_below_tmp(),
        "--bind",
        str(folder),
        str(folder),
        "--chdir",
        str(folder),
    ]
    command += [
        "--unshare-user",
        "--uid",
        "1000",
        "--unshare-pid",
        "--unshare-ipc",
        "--die-with-parent",
        "--new-session",
    ]
    command += [sys.executable, "-B", "-m", "graftbox.server", "0", "--working-dir", str(folder)]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(SOURCE),
        "SESSION_API_KEY": KEY,
        "GRAFTBOX_HOST": "127.0.0.1",
    }
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("Listening on"):
            break
    else:
        pytest.fail(f"the server did not start: {''.join(said)}")
    yield f"http://127.0.0.1:{line.strip().rsplit(':', 1)[1]}"
    process.terminate()
    process.communicate(timeout=60)


def _hasten(case: Any) -> None:
    """No request of this one waits long, and no command runs long."""
    longest = {"wait": 600, "timeout": 60 if case.path.startswith("/v1/files/") else 2**31 - 1}
    for name, most in (("wait", 0.05), ("timeout", 0.3)):
        for values in (case.query, case.body):
            given = values.get(name) if isinstance(values, dict) else None
            if isinstance(given, int | float) and most < given <= longest[name]:
                values[name] = most
    if isinstance(case.body, dict) and case.path.endswith("/run") and case.body.get("timeout", 1) is None:
        case.body["timeout"] = 0.3
    # The coverage phase takes "0" for something that matches this header's pattern.
    of_two = case.path == "/v1/commands/{id}/events" and "Last-Event-ID" in (case.headers or {})
    if of_two and not _EVENT.fullmatch(case.headers["Last-Event-ID"]):
        del case.headers["Last-Event-ID"]
    # The same key with another request is refused, which another test shows.
    if 0 < len((case.headers or {}).get("Idempotency-Key", "")) < 256:
        case.headers["Idempotency-Key"] = os.urandom(8).hex()


def _aim(case: Any, address: str) -> None:
    """Half of the requests for a session or command are for one that exists."""
    if case.meta is None or case.meta.generation.mode is GenerationMode.NEGATIVE:
        return
    place = case.path_parameters or {}
    name, number = place.get("name"), place.get("id")
    if isinstance(name, str) and _NAME.fullmatch(name) and len(name) % 2:
        _ask(address, "/v1/sessions", {"name": "fuzz"})
        place["name"] = "fuzz"
        if isinstance(number, str) and number.isalnum():
            place["id"] = _ask(address, "/v1/sessions/fuzz/run", {"command": "echo x"}).get("id", number)
    elif isinstance(place.get("page"), str) and len(place["page"]) % 2:
        place["page"] = _page(address) or place["page"]
    elif isinstance(number, str) and number.isalnum() and case.path.startswith("/v1/commands"):
        order = {"command": r"printf 'a\377b'; sleep 0.2", "timeout": 5}
        place["id"] = _ask(address, "/v1/commands", order).get("id", number)


def _page(address: str) -> str | None:
    """A page of the browser, if this machine has one."""
    request = urllib.request.Request(f"{address}/v1/browser", headers={"X-Session-API-Key": KEY})
    with urllib.request.urlopen(request, timeout=60) as answer:
        pages = json.load(answer)["pages"]
    page = pages[0] if pages else _ask(address, "/v1/browser/pages", {})
    return page.get("id") if isinstance(page, dict) else None


def _ask(address: str, path: str, body: object) -> Any:
    headers = {"X-Session-API-Key": KEY}
    request = urllib.request.Request(address + path, json.dumps(body).encode(), headers)
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
    return {}


@schema.parametrize()
def test_every_answer_is_as_the_document_says(case: Any, address: str) -> None:
    _hasten(case)
    _aim(case, address)
    # The protocol of the model is lenient with what it does not know.
    lenient = [] if case.path.startswith("/v1/") else [negative_data_rejection]
    if case.path == "/v1/files/grep":
        # No schema can say what a regular expression is.
        lenient.append(positive_data_acceptance)
    # A session's own events have no end.
    patience = 3 if case.path == "/v1/sessions/{name}/events" else 20
    case.call_and_validate(
        base_url=address, headers={"X-Session-API-Key": KEY}, timeout=patience, excluded_checks=lenient
    )
