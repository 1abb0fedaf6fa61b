"""``graftbox run``: starts a sandbox from an image."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graftbox.cli.options import Amount, checked_user, component_option, flavor_option
from graftbox.cli.registries import registry_options
from graftbox.store import Store

if TYPE_CHECKING:
    from graftbox.image.transports import Access
    from graftbox.sandbox.engines import Engine
    from graftbox.sandbox.spec import Sandbox, SandboxSpec


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": True})
@click.argument("base")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD...]")
@click.option(
    "--engine",
    type=click.Choice(["auto", "embedded", "docker", "podman"]),
    default="auto",
    envvar="GRAFTBOX_ENGINE",
    show_default=True,
    help="auto: a running docker, else a running podman, else embedded.",
)
@click.option(
    "--deliver",
    type=click.Choice(["mount", "graft"]),
    default="mount",
    show_default=True,
    help="Mount /openhands beside the untouched base, or make a runtime image.",
)
@component_option
@flavor_option
@click.option("--detach", "-d", is_flag=True, help="Print where it is and leave it running.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--name", help="A name for it; a random one otherwise.")
@click.option("--port", type=click.IntRange(1, 65535), help="The loopback port; any free one otherwise.")
@click.option(
    "--env", "-e", "env", multiple=True, metavar="NAME[=VALUE]", help="A variable; may be repeated."
)
@click.option("--volume", "-v", "volumes", multiple=True, metavar="HOST:PATH[:ro]", help="May be repeated.")
@click.option("--workdir", "-w", help="The working directory instead of the image's.")
@click.option(
    "--user", "-u", callback=checked_user, help="The user (name, uid, uid:gid) instead of the image's."
)
@click.option("--network", type=click.Choice(["bridge", "host", "none"]), help="none: by Unix socket only.")
@click.option("--read-only", is_flag=True, help="The image's files cannot be changed.")
@click.option("--tmpfs", multiple=True, metavar="PATH", help="A folder in memory; may be repeated.")
@click.option("--cap-drop", multiple=True, metavar="CAP", help="A capability to drop, or ALL.")
@click.option(
    "--security-opt", type=click.Choice(["no-new-privileges"]), multiple=True, help="As docker has it."
)
@click.option(
    "--locked-down",
    is_flag=True,
    help="--read-only --tmpfs /tmp --network none --cap-drop ALL --security-opt no-new-privileges",
)
@click.option("--timeout", type=Amount(), help="Seconds to wait for CMD; no limit otherwise.")
@click.option("--start-timeout", type=Amount(), default=60, help="Seconds until alive [60].")
@click.option(
    "--tree",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    help="A folder with an unpacked bundle instead of the built one.",
)
@registry_options
def run(
    base: str,
    command: tuple[str, ...],
    engine: str,
    deliver: str,
    components: tuple[str, ...],
    flavor: str,
    detach: bool,
    as_json: bool,
    timeout: float | None,
    start_timeout: float,
    tree: Path | None,
    access: Access,
    **options: Any,
) -> None:
    """Start a sandbox from the image BASE: the server runs in it, the image itself stays as it is.

    With CMD: run it in the sandbox's shell, print its output, exit with its code, delete the sandbox. One
    word is a line of shell, several are a program and its arguments. Without CMD or --detach the sandbox
    lives until Ctrl-C.
    """
    from graftbox.cli import bases, engines

    if command and (detach or as_json):
        raise click.UsageError("CMD runs and ends; it goes with neither --detach nor --json.")
    if tree is not None and tree.name == "openhands":
        tree = tree.parent
    if tree is not None and not (tree / "openhands" / "bin").is_dir():
        raise click.UsageError(
            f"{tree} holds no openhands/bin; --tree takes what `graftbox bundle path` prints."
        )
    store = Store()
    chosen = engines.choose(engine, store)
    ready = bases.prepare(chosen, base, deliver, components, tree, store, flavor, access)
    if chosen.name == "podman":
        (store.folder() / "podman-used").touch()
    with _sandbox(chosen, specification(ready, options), start_timeout, keep=detach) as sandbox:
        if command:
            sys.exit(_run_command(sandbox, command, timeout))
        announce(sandbox, as_json)
        if not detach:
            _wait(chosen, sandbox)


def specification(ready: Any, options: dict[str, Any]) -> SandboxSpec:
    """The options as facts."""
    from graftbox.sandbox.spec import (
        Network,
        SandboxSpec,
        Volume,
        absolute,
        checked_name,
        new_key,
        temporary_folder,
        variable,
    )

    if options.pop("locked_down"):
        options |= {"read_only": True, "network": options["network"] or "none", "cap_drop": ("ALL",)}
        options |= {"security_opt": ("no-new-privileges",)}
        options["tmpfs"] = options["tmpfs"] or ("/tmp",)
    variables = (variable(text, os.environ) for text in options["env"])
    return SandboxSpec(
        name=checked_name(options["name"]),
        key=new_key(),
        label=ready.image,
        base=ready.base,
        tree=ready.tree,
        env=tuple(pair for pair in variables if pair is not None),
        user=options["user"],
        working_dir=None if options["workdir"] is None else absolute(options["workdir"], "--workdir"),
        volumes=tuple(Volume.parse(text) for text in options["volumes"]),
        tmpfs=tuple(map(temporary_folder, options["tmpfs"])),
        read_only=options["read_only"],
        network=Network(options["network"]) if options["network"] else None,
        cap_drop=tuple(options["cap_drop"]),
        no_new_privileges=bool(options["security_opt"]),
        port=options["port"],
    )


@contextlib.contextmanager
def _sandbox(engine: Engine, spec: SandboxSpec, seconds: float, *, keep: bool) -> Iterator[Sandbox]:
    """A sandbox that is alive; deleted in the end unless it is to be kept, and always after a failure."""
    with _interruptible():
        sandbox = engine.start(spec)
        try:
            wait_until_alive(engine, sandbox, seconds)
            yield sandbox
        except BaseException:
            engine.remove(spec.name, force=True)
            raise
        if not keep:
            engine.remove(spec.name, force=True)


def wait_until_alive(engine: Engine, sandbox: Sandbox, seconds: float) -> None:
    """Returns when the server answers; raises `TransportError`, with the end of its log, if it does not."""
    from graftbox.sandbox.client import Client, ended_early
    from graftbox.sandbox.engines import log_tail

    if not sandbox.url:  # it ended before its port could be read
        raise ended_early(lambda: log_tail(engine, sandbox.name))
    with Client(sandbox.url, sandbox.key) as client:
        client.wait_until_alive(
            seconds,
            running=lambda: _runs(engine, sandbox.name),
            log_tail=lambda: log_tail(engine, sandbox.name),
        )


def _runs(engine: Engine, name: str) -> bool:
    found = engine.find(name)
    return found is not None and found.status == "running"


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ends on SIGTERM and SIGHUP as on Ctrl-C: with what was started undone."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_command(sandbox: Sandbox, command: tuple[str, ...], timeout: float | None) -> int:
    """Runs the command, prints its output and returns its exit code (124 if the time was up)."""
    from graftbox.sandbox.client import Client

    line = command[0] if len(command) == 1 else shlex.join(command)
    with Client(sandbox.url, sandbox.key) as client:
        # In a shell of its own, so that `exit` ends the command and not the sandbox's shell; with no input,
        # as nobody could type it.
        outcome = client.run(f"(\n{line}\n) </dev/null", timeout)
    if outcome.output:
        sys.stdout.write(outcome.output + "\n")
        sys.stdout.flush()
    if outcome.exit_code < 0:
        within = "" if timeout is None else f" within {timeout:g} s (--timeout)"
        print(f"graftbox: the command did not end{within} and was killed.", file=sys.stderr)
        return 124
    return outcome.exit_code


def announce(sandbox: Sandbox, as_json: bool) -> None:
    """Prints where a sandbox is and its key."""
    if as_json:
        print(json.dumps(sandbox.public()), flush=True)
    else:
        print(f"{sandbox.name}  {sandbox.url}  key {sandbox.key}", flush=True)


def _wait(engine: Engine, sandbox: Sandbox) -> None:
    """Shows the server's log until it ends or the user has had enough."""
    print("graftbox: Ctrl-C ends and deletes the sandbox", file=sys.stderr)
    try:
        for piece in engine.logs(sandbox.name, follow=True):
            sys.stderr.buffer.write(piece)
            sys.stderr.buffer.flush()
    except KeyboardInterrupt:
        return
    print(f"graftbox: the sandbox {sandbox.name} has ended", file=sys.stderr)
