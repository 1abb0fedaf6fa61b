"""When memory runs out the kernel ends the agent's programs before the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def test_the_agents_programs_come_first(client: Any) -> None:
    server = int(Path(f"/proc/{client.process.pid}/oom_score_adj").read_text())
    wanted = min(1000, server + 500)
    assert int(client.output("cat /proc/self/oom_score_adj")) == wanted
    shown = "sleep 0.2; cat /proc/self/oom_score_adj"
    status, job = client.ask("POST", "/v1/run", {"argv": ["sh", "-c", shown]})
    assert status == 200, job
    assert f"{wanted}" in str(job)
