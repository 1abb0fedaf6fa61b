"""Docker, Podman and Buildah as builders, by their command lines: those are what people's machines have."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graftbox.errors import TransportError, UnsupportedError

STDERR = 2
ENGINES = ("docker", "podman", "buildah")


@dataclass(frozen=True)
class Inspected:
    """An image in an engine; ``digest`` is that of its config."""

    digest: str
    labels: Mapping[str, str]


class Builder:
    """One of `ENGINES`. What it prints goes to standard error; standard output is for answers."""

    def __init__(self, engine: str) -> None:
        program = shutil.which(engine)
        if program is None:
            others = " or ".join(name for name in ENGINES if name != engine)
            raise UnsupportedError(
                f"The program {engine} is not here. Install it, or name another with --engine ({others}); "
                "graftbox graft needs none of them."
            )
        self.engine, self.program = engine, program

    def local(self, name: str) -> str:
        """The full name of an image made here. Podman and Buildah keep those under ``localhost``."""
        first = name.partition("/")[0]
        if self.engine == "docker" or ("/" in name and (set(first) & set(".:") or first == "localhost")):
            return name
        return f"localhost/{name}"

    def inspect(self, name: str) -> Inspected | None:
        """What the engine says about an image; None if it has none of this name."""
        words = ["inspect", "--type", "image"] if self.engine == "buildah" else ["image", "inspect"]
        done = subprocess.run([self.program, *words, name], capture_output=True, text=True)
        if done.returncode:
            return None
        found = json.loads(done.stdout)
        facts = found[0] if isinstance(found, list) else found
        digest = str(facts.get("Id") or facts.get("FromImageID") or "").removeprefix("sha256:")
        config = facts.get("Config") if isinstance(facts.get("Config"), dict) else None
        config = config or (facts.get("OCIv1") or {}).get("config") or {}
        return Inspected(f"sha256:{digest}", config.get("Labels") or {})

    def load(self, archive: Path) -> None:
        """Takes an image out of a tar file, under the name that it has there for Docker."""
        if self.engine == "docker":
            self._run("load", "--quiet", "--input", str(archive))
        else:
            # Their load would read the same file as an OCI archive, where the name is only a tag.
            self._run("pull", "--quiet", f"docker-archive:{archive}")

    def build(
        self, context: Path, names: Sequence[str], platform: str | None = None, options: Sequence[str] = ()
    ) -> None:
        """``build`` of the Dockerfile in ``context``; each of ``names`` then stands for the result."""
        # Podman's intermediate images fail on bases without a history, and ours are not worth keeping.
        command = {"docker": ["build"], "podman": ["build", "--layers=false"], "buildah": ["bud"]}[
            self.engine
        ]
        if platform:
            command += ["--platform", platform]
        self._run(*command, "--tag", names[0], *options, str(context))
        for name in names[1:]:
            self.tag(names[0], name)

    def tag(self, name: str, other: str) -> None:
        """Another name for an image."""
        self._run("tag", name, other)

    def _run(self, *arguments: str) -> None:
        done = subprocess.run([self.program, *arguments], stdout=STDERR, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise TransportError(
                f"{self.engine} {arguments[0]} failed with status {done.returncode}; what it said is above."
            )
