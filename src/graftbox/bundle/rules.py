"""The byte patches that move Debian's programs into /openhands: a table, file by file.

Every patch keeps the length, so no offset inside a file changes. The count of matches is part of the rule:
another count means that the package has changed under us, and the build stops. ``{triplet}`` stands for
the architecture's library folder (``x86_64-linux-gnu``). How the loader's code was found is told in
docs/design.md, "Relocation".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
CPUS = {"amd64": "x64", "arm64": "arm64"}
LOADERS = {"amd64": "ld-linux-x86-64.so.2", "arm64": "ld-linux-aarch64.so.1"}
INTERPRETER = "/openhands/lib/ld.so"
# What the first line of an executable script names, and what it names instead.
SHEBANGS = {
    b"/bin/sh": b"/openhands/libexec/dash",
    b"/bin/bash": b"/openhands/libexec/bash",
    b"/usr/bin/python3.13": b"/openhands/libexec/python3.13",
}
NAMED_SHEBANGS = {
    b"/usr/bin/env sh": b"/openhands/libexec/dash",
    b"/usr/bin/env bash": b"/openhands/libexec/bash",
    b"/usr/bin/env node": b"/openhands/libexec/node",
}


@dataclass(frozen=True)
class Patch:
    """``what`` happens to each match of ``pattern`` (a regular expression over bytes), ``count`` times.

    ``replacement`` is as long as every match, or is put at the match's first group if there is one.
    """

    what: str
    pattern: bytes
    replacement: bytes
    count: int


def slashed(path: str, length: int) -> str:
    """``path`` below /openhands, stretched to ``length`` characters with slashes, which mean nothing."""
    rest = path.removeprefix("/openhands/")
    assert rest != path, path
    if len(path) > length:
        raise ValueError(f"{path} is longer than {length} characters")
    return "/openhands" + "/" * (length - len("/openhands") - len(rest)) + rest


def moved(old: str, new: str, count: int, then: bytes = b"") -> Patch:
    """A path that becomes another one of the same length; ``then`` must follow it."""
    return Patch(
        f"{old} -> {new}",
        b"(" + re.escape(old.encode()) + b")" + then,
        slashed(new, len(old)).encode(),
        count,
    )


def hidden(variable: str, count: int = 1) -> Patch:
    """An environment variable that the file no longer finds: its name begins with a byte that none has.

    Only the first byte changes, because a linker may let shorter strings share the tail of longer ones.
    """
    name = variable.encode()
    return Patch(f"ignore ${variable}", b"(?<=\0)(" + name[:1] + b")" + name[1:] + b"\0", b"\x01", count)


def _loader(arch: str) -> tuple[Patch, ...]:
    triplet = TRIPLETS[arch]
    table = [f"/lib/{triplet}/", f"/usr/lib/{triplet}/", "/lib/", "/usr/lib/"]
    ours = [slashed("/openhands/lib/", len(table[0])), slashed("/openhands/lib/", len(table[1]))]
    dead = ["/dev/", "/dev/////"]
    return (
        Patch(
            "default library folders",
            re.escape("\0".join(table).encode()) + b"(?=\0)",
            "\0".join(ours + dead).encode(),
            2,
        ),
        moved("/etc/ld.so.cache", "/openhands/ld.so", 1, b"\0"),
        moved("/etc/ld.so.preload", "/openhands/preload", 1, b"\0"),
        LD_VARIABLES[arch],
        # Other mentions, in lists of what set-user-ID programs must not inherit, stay.
        Patch("ignore $GLIBC_TUNABLES", rb"(?<!GETCONF_DIR)\0(G)LIBC_TUNABLES\0", b"\x01", 1),
    )


# _dl_next_ld_env_entry compares each variable's first bytes with L, D and _; the third can no longer match.
LD_VARIABLES = {
    "amd64": Patch(
        "ignore every LD_ variable",
        rb"\x80\x38\x4c\x75.\x80\x78\x01\x44\x75.\x80\x78\x02(\x5f)\x75",
        b"\x01",
        1,
    ),
    # cmp wN, #'L'; b.ne; ldrb; cmp wN, #'D'; b.ne; ldrb; cmp wN, #'_': the immediate is in bits 10 to 21.
    "arm64": Patch(
        "ignore every LD_ variable",
        rb"[\x1f\x3f\x5f\x7f\x9f\xbf\xdf\xff]\x30\x01\x71.{1,16}?[\x1f\x3f\x5f\x7f\x9f\xbf\xdf\xff]\x10\x01\x71"
        rb".{1,16}?[\x1f\x3f\x5f\x7f\x9f\xbf\xdf\xff](\x7c)\x01\x71",
        b"\x04",
        1,
    ),
}


# PyInstaller's program sets LD_LIBRARY_PATH and executes itself anew for it to count (pyi_main.c: the process
# has level -1, PARENT_NEEDS_RESTART). Our loader needs no such variable: with level 1, MAIN, from the start
# it is neither set nor seen by anyone.
PYINSTALLER_LEVEL = {
    "amd64": Patch(
        "neither LD_LIBRARY_PATH nor a second start",
        rb"\xc6\x83..\0\0(\xff\x41\xb9\xff\xff\xff\xff)\xe9",
        b"\x01\x41\xb9\x01\0\0\0",
        1,
    ),
    # mov w0, #-1; mov w5, #-1; strb w0, […]
    "arm64": Patch(
        "neither LD_LIBRARY_PATH nor a second start",
        rb"(\x00\x00\x80\x12\x05\x00\x80\x12)..\x00\x39",
        b"\x20\x00\x80\x52\x25\x00\x80\x52",
        1,
    ),
}


def patches(name: str, arch: str) -> tuple[Patch, ...]:
    """The patches for the file called ``name`` (a soname, or a program's name); none for most."""
    triplet = TRIPLETS[arch]
    usr_lib = f"/usr/lib/{triplet}"
    table: dict[str, tuple[Patch, ...]] = {
        "ld.so": _loader(arch),
        "libc.so.6": (
            moved("/usr/lib/locale", "/openhands/l", 2),
            moved(f"{usr_lib}/gconv", "/openhands/lib/gconv", 2),
            hidden("LOCPATH"),
            hidden("GCONV_PATH"),
        ),
        "libcrypto.so.3": (
            moved("/usr/lib/ssl", "/openhands/s", 6),
            moved(f"{usr_lib}/engines-3", "/openhands/lib/engines-3", 2),
            moved(f"{usr_lib}/ossl-modules", "/openhands/lib/ossl-modules", 2),
            hidden("OPENSSL_CONF"),
            hidden("OPENSSL_ENGINES"),
            hidden("OPENSSL_MODULES"),
        ),
        # Ours first, then what the base image has; a terminal that only the base knows still works.
        "libtinfo.so.6": (
            Patch(
                "terminfo folders",
                rb"/etc/terminfo:/lib/terminfo:/usr/share/terminfo(?=\0)",
                b"/openhands/terminfo:/etc/terminfo:/lib/terminfo",
                1,
            ),
            hidden("TERMINFO"),
            hidden("TERMINFO_DIRS"),
        ),
        # Our certificates, and besides them those in the base image's /etc/ssl/certs: libcurl reads both.
        "libcurl-gnutls.so.4": (
            moved("/etc/ssl/certs/ca-certificates.crt", "/openhands/s/cert.pem", 1, b"\0"),
        ),
        "libgnutls.so.30": (
            moved("/etc/gnutls/config", "/openhands/gnutls", 1, b"\0"),
            moved("/etc/gnutls/pkcs11.conf", "/openhands/pkcs11.conf", 1, b"\0"),
            moved("/etc/ssl/certs/ca-certificates.crt", "/openhands/s/cert.pem", 1, b"\0"),
            hidden("GNUTLS_SYSTEM_PRIORITY_FILE"),
        ),
        # Plugins of the base image would be foreign libraries in our programs. We have none.
        "libp11-kit.so.0": (
            moved("/etc/pkcs11/modules", "/openhands/none", 1),
            moved("/etc/pkcs11/pkcs11.conf", "/openhands/pkcs11.conf", 1),
            moved("/usr/share/p11-kit/modules", "/openhands/none", 1),
            moved(usr_lib, "/openhands/lib", 1),
        ),
        "libgssapi_krb5.so.2": (
            moved("/etc/gss/mech.d", "/openhands/none", 1),
            moved("/etc/gss/mech", "/openhands/no", 1, b"\0"),
            moved(usr_lib, "/openhands/lib", 1),
        ),
        "libkrb5.so.3": (moved(usr_lib, "/openhands/lib", 4),),
        "libsystemd.so.0": (moved(usr_lib, "/openhands/lib", 1),),
        "libsasl2.so.2": (moved(usr_lib, "/openhands/lib", 2),),
        # What Chromium's libraries would open of the base image's: foreign code in the browser.
        "libX11.so.6": (moved(usr_lib, "/openhands/lib", 1),),
        "libasound.so.2": (moved(usr_lib, "/openhands/lib", 1),),
        "libgbm.so.1": (moved(usr_lib, "/openhands/lib", 1), hidden("GBM_BACKENDS_PATH")),
        "libgio-2.0.so.0": (
            moved(usr_lib, "/openhands/lib", 2),
            hidden("GIO_MODULE_DIR"),
            hidden("GIO_EXTRA_MODULES"),
        ),
        # Only a table of character sets; amd64's code makes up the name in registers, out of two halves.
        "libglib-2.0.so.0": (moved(usr_lib, "/openhands/lib", {"amd64": 0, "arm64": 1}[arch]),),
        "libpulse.so.0": (moved(usr_lib, "/openhands/lib", 1),),
        # Files that its GPU process may open: on amd64 also drivers.
        "chromium-headless-shell": (moved(usr_lib, "/openhands/lib", {"amd64": 3, "arm64": 1}[arch]),),
        # The program's own copies of the names; in the data of its JavaScript their length is before them.
        "node": tuple(
            Patch(
                f"ignore ${name}",
                rb"(?<=\0)(?<!\x%02x\0\0\0)(%c)%b\0" % (len(name), name[0].encode(), name[1:].encode()),
                b"\x01",
                1,
            )
            for name in ("NODE_ICU_DATA", "NODE_OPTIONS", "NODE_REPL_EXTERNAL_MODULE", "OPENSSL_CONF")
        ),
        "git": (
            moved("/usr/lib/git-core", "/openhands/g", 1, b"\0"),
            Patch(
                "templates",
                rb"(?<=\0)share/git-core/templates(?=\0)",
                slashed("/openhands/g/templates", len("share/git-core/templates")).encode(),
                1,
            ),
        ),
    }
    table["git-remote-http"] = table["git"]
    # What CPython would put into LC_CTYPE of its environment, and so of its children's (PEP 538).
    table["python3.13"] = (
        Patch("coerce no locale", rb"(?<=\0)(C)\.UTF-8\0C\.utf8\0", b"\x01", 1),
        Patch("coerce no locale", rb"(?<=\0)(C)\.utf8\0", b"\x01", 1),
    )
    table["action-execution-server"] = (PYINSTALLER_LEVEL[arch],)
    return table.get(name, ())
