"""Plugins in bases that have nothing for them, locked down and in a hostile environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.integration.bases import HOSTILE
from tests.integration.test_base_matrix import LOCKED_DOWN, sandbox

from graftbox.sandbox.client import Client

MANIFEST = """
name = "page"
start = ["{python}", "-I", "{folder}/page.py", "{socket}"]
on_demand = true
kernel = "PAGE = 'known to the kernel'"
[serve]
socket = "{socket}"
health = "/health"
"""
PROGRAM = """
import json, os, sys
from http.server import BaseHTTPRequestHandler
from socketserver import UnixStreamServer

class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/end":
            os._exit(3)
        seen = {"path": self.path, "uid": os.getuid(), "pid": os.getpid(), "environment": dict(os.environ)}
        body = json.dumps(seen).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        print(self.path, flush=True)

UnixStreamServer(sys.argv[1], Page).serve_forever()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "page").mkdir()
    (tmp_path / "page/plugin.toml").write_text(MANIFEST)
    (tmp_path / "page/page.py").write_text(PROGRAM)
    tmp_path.chmod(0o755)
    return tmp_path


def get(client: Client, path: str) -> Any:
    return client._request("GET", path).json()


@pytest.mark.parametrize("base", ["scratch", "hostile"])
def test_a_plugin_runs_locked_down_in_any_base(base: str, folder: Path) -> None:
    mounted = ("-v", f"{folder}:/plugins:ro", "-e", "GRAFTBOX_PLUGINS=/plugins")
    with sandbox(base, "--engine", "embedded", *LOCKED_DOWN.split(), *mounted) as client:
        seen = get(client, "/v1/proxy/page/some/path?a=b")
        assert (seen["path"], seen["uid"]) == ("/some/path?a=b", 12345)
        assert not [name for name in seen["environment"] if name.startswith(("GRAFTBOX", "SESSION_API"))]
        if base == "hostile":
            assert {name: seen["environment"][name] for name in HOSTILE} == HOSTILE
        with pytest.raises(Exception, match="before it had answered"):
            get(client, "/v1/proxy/page/end")
        again = get(client, "/v1/proxy/page/")
        assert again["pid"] != seen["pid"]
        assert "/some/path?a=b" in get(client, "/v1/plugins/page/log")["text"]
        assert get(client, "/v1/capabilities")["plugins"]["page"]["state"] == "running"
        answer = client.execute({"action": "run_ipython", "args": {"code": "PAGE", "include_extra": False}})
        assert answer["content"] == "'known to the kernel'", answer
        stopped = client._request("POST", "/v1/plugins/page/stop").json()
        assert stopped["state"] == "stopped"
        left = client.run(PROCESSES)
        assert "page.py" not in left.output


PROCESSES = 'for each in /proc/[0-9]*/cmdline; do while read -rd "" word; do echo "$word"; done <$each; done'
"""Without any program."""
