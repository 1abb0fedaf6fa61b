"""What the doctor sees in images that users have."""

from __future__ import annotations

from typing import Any

import pytest

from graftbox.image.inspection import Diagnosis, Level, diagnose
from graftbox.image.reference import parse
from graftbox.store import Store

GLIBC = b"\0GNU C Library (Debian GLIBC 2.36-9+deb12u13) stable release version 2.36.\n\0" * 3


def examine(layout: Any, store: Store, **options: Any) -> Diagnosis:
    return diagnose(parse(f"oci:{layout.folder}:base"), store, arch="amd64", **options)


def text(diagnosis: Diagnosis, topic: str) -> str:
    return next(finding.text for finding in diagnosis.findings if finding.topic == topic)


def level(diagnosis: Diagnosis, topic: str) -> Level:
    return next(finding.level for finding in diagnosis.findings if finding.topic == topic)


DEBIAN = {
    "bin": "-> usr/bin",
    "lib": "-> usr/lib",
    "usr/bin/bash": b"ELF",
    "usr/bin/apt-get": b"ELF",
    "usr/lib/x86_64-linux-gnu/libc.so.6": GLIBC,
    "etc/os-release": "-> ../usr/lib/os-release",
    "usr/lib/os-release": b'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "etc/ssl/certs/ca-certificates.crt": b"",
    "etc/passwd": b"root:x:0:0::/root:/bin/bash\njo:x:1000:1000::/home/jo:/bin/bash\n",
}


def test_a_debian_image(layout: Any, store: Store) -> None:
    layout.image([DEBIAN], process={"User": "jo", "Entrypoint": ["/e"], "Env": ["LD_PRELOAD=/x.so", "A=b"]})
    found = examine(layout, store)
    assert found.usable
    assert found.platforms == ("linux/amd64",)
    assert "glibc 2.36" in text(found, "libc")
    assert text(found, "shell") == "/bin/bash"
    assert text(found, "packages") == "apt"
    assert text(found, "system") == "Debian GNU/Linux 12 (bookworm)"
    assert "found in /etc/passwd" in text(found, "user")
    assert "LD_PRELOAD: harmless" in text(found, "environment")
    assert "'/e' is recorded" in text(found, "entrypoint")
    assert found.bytes_read > 0


def test_an_old_glibc_behind_a_link(layout: Any, store: Store) -> None:
    old = GLIBC.replace(b"2.36", b"2.31")
    layout.image(
        [{"lib/x86_64-linux-gnu/libc-2.31.so": old, "lib/x86_64-linux-gnu/libc.so.6": "-> libc-2.31.so"}]
    )
    assert "glibc 2.31" in text(examine(layout, store), "libc")


def test_a_musl_image(layout: Any, store: Store) -> None:
    musl = {"lib/ld-musl-x86_64.so.1": b"\0musl libc (x86_64)\nVersion %s\n\0" + b"1.2.4\0"}
    layout.image([{**musl, "bin/busybox": b"", "bin/sh": "-> /bin/busybox", "sbin/apk": b""}])
    found = examine(layout, store)
    assert "musl 1.2.4" in text(found, "libc")
    assert text(found, "shell") == "/bin/sh"
    assert text(found, "packages") == "apk"


def test_what_a_later_layer_removes_is_gone(layout: Any, store: Store) -> None:
    layout.image([DEBIAN, {"usr/bin/.wh.bash": b"", "etc/ssl/.wh..wh..opq": b""}])
    found = examine(layout, store)
    assert "bundled bash" in text(found, "shell")
    assert level(found, "certificates") is Level.NOTE


def test_a_user_without_a_passwd_entry_is_a_problem_and_a_number_is_none(layout: Any, store: Store) -> None:
    layout.image([{"a": b""}], process={"User": "nobody-here"})
    found = examine(layout, store)
    assert not found.usable
    assert "--user" in text(found, "user")
    layout.image([{"a": b""}], tag="number", process={"User": "12345"})
    assert diagnose(parse(f"oci:{layout.folder}:number"), store, arch="amd64").usable


def test_quick_reads_no_layer(layout: Any, store: Store) -> None:
    layout.image([DEBIAN])
    found = examine(layout, store, quick=True)
    assert found.usable
    assert found.bytes_read == 0


@pytest.mark.parametrize("facts", [{"arch": "s390x"}, {"os": "windows"}])
def test_another_platform_is_a_problem(layout: Any, store: Store, facts: dict[str, str]) -> None:
    layout.image([{"a": b""}], **facts)
    found = examine(layout, store)
    assert not found.usable
    assert level(found, "platform") is Level.PROBLEM


def test_an_index_without_this_platform_names_those_it_has(layout: Any, store: Store) -> None:
    layout.index({"linux/s390x": layout.image([], tag=None, arch="s390x")})
    found = examine(layout, store)
    assert not found.usable
    assert found.platforms == ("linux/s390x",)


def test_scratch_is_usable(store: Store) -> None:
    found = diagnose(parse("scratch"), store)
    assert found.usable
    assert "brings its own" in text(found, "libc")
