"""Wires the commands; each is its own module, imported only when it is called."""

from __future__ import annotations

import importlib
import sys

import click

from graftbox import __version__
from graftbox.cli.status import say
from graftbox.errors import GraftboxError

COMMANDS = {
    "bundle": "graftbox.cli.bundle:bundle",
    "cache": "graftbox.cli.cache:cache",
    "dockerfile": "graftbox.cli.dockerfile:dockerfile",
    "doctor": "graftbox.cli.doctor:doctor",
    "forward": "graftbox.cli.forward:forward",
    "graft": "graftbox.cli.graft:graft",
    "image": "graftbox.cli.image:image",
    "lock": "graftbox.cli.lock:lock",
    "logs": "graftbox.cli.sandboxes:logs",
    "mirror": "graftbox.cli.mirror:mirror",
    "package-browser": "graftbox.cli.package_browser:package_browser",
    "prune": "graftbox.cli.prune:prune",
    "ps": "graftbox.cli.sandboxes:ps",
    "rm": "graftbox.cli.sandboxes:rm",
    "run": "graftbox.cli.run:run",
    "sbom": "graftbox.cli.bundle:sbom",
    "start": "graftbox.cli.sandboxes:start",
    "stop": "graftbox.cli.sandboxes:stop",
    "tags": "graftbox.cli.tags:tags",
    "verify": "graftbox.cli.verify:verify",
}


class LazyGroup(click.Group):
    """A group whose commands are looked up in `COMMANDS`, so that start-up imports one module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="graftbox")
def app() -> None:
    """Turn any Linux container image into a sandbox for AI agents."""


def main() -> None:
    """The console script: errors raised on purpose become one message and an exit code."""
    try:
        app.main(standalone_mode=False)
    except GraftboxError as error:
        say(str(error))
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OSError as error:
        say(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        say("interrupted; nothing half-written was kept.")
        sys.exit(130)
