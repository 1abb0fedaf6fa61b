from __future__ import annotations

import lzma

import pytest

from graftbox.bundle.debian import (
    Catalog,
    PackageIndex,
    Relation,
    decompressed,
    parse_relations,
    version_key,
)
from graftbox.errors import FormatError


# Pairs in ascending order, from Debian Policy 5.6.12 and dpkg's own test suite.
@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("1.0~~", "1.0~~a"),
        ("1.0~~a", "1.0~"),
        ("1.0~", "1.0"),
        ("1.0", "1.0a"),
        ("1.0~rc1-1", "1.0-1"),
        ("1.9", "1.10"),
        ("1.0-1", "1.0-1+b1"),
        ("1.0-1", "1.0-1.1"),
        ("2.41-12+deb13u3", "2.41-12+deb13u4"),
        ("2.41-12~deb13u1", "2.41-12"),
        ("9.0", "1:1.0"),
        ("1:1.3.dfsg+really1.3.1-1", "1:1.3.dfsg+really1.3.1-1+deb13u1"),
        ("1.0a", "1.0+"),
        ("0.5.12-9", "0.5.12-12"),
        ("1-2-3", "1-10-1"),
    ],
)
def test_versions_sort_as_dpkg_sorts_them(lower: str, higher: str) -> None:
    assert version_key(lower) < version_key(higher)


@pytest.mark.parametrize(
    ("one", "other"), [("1.0", "1.0-0"), ("0:1", "1"), ("1.00", "1.0"), ("1.01-1", "1.1-1")]
)
def test_versions_that_differ_only_in_spelling_are_equal(one: str, other: str) -> None:
    assert version_key(one) == version_key(other)


@pytest.mark.parametrize("bad", ["", "a:1", "-1"])
def test_a_malformed_version_is_refused(bad: str) -> None:
    with pytest.raises(FormatError, match="not a Debian version"):
        version_key(bad)


def test_relations_keep_alternatives_and_constraints_and_drop_architecture_qualifiers() -> None:
    found = parse_relations("libc6 (>= 2.38), python3:any, awk | mawk (<< 2) , libstdc++6(>>1)")
    assert [" | ".join(map(str, group)) for group in found] == [
        "libc6 (>= 2.38)",
        "python3",
        "awk | mawk (<< 2)",
        "libstdc++6 (>> 1)",
    ]


@pytest.mark.parametrize("bad", ["a b", "A", "a (~ 1)", "a | "])
def test_a_malformed_relation_is_refused(bad: str) -> None:
    with pytest.raises(FormatError, match="not a dependency"):
        parse_relations(bad)


@pytest.mark.parametrize(
    ("operator", "allowed"),
    [("<<", "1"), ("<=", "12"), ("=", "2"), (">=", "23"), (">>", "3"), ("", "123")],
)
def test_a_constraint_allows_the_versions_it_names(operator: str, allowed: str) -> None:
    relation = Relation("a", operator, "2" if operator else "")
    assert "".join(v for v in "123" if relation.allows(v)) == allowed


def stanza(name: str, version: str, extra: str = "") -> str:
    return (
        f"Package: {name}\nVersion: {version}\nFilename: pool/{name}\nSize: 3\nSHA256: {'0' * 64}\n{extra}\n"
    )


def index(text: str) -> PackageIndex:
    return PackageIndex(text.encode(), "debian", "2026-11-01T00:00:00Z")


def test_the_highest_version_of_all_suites_counts() -> None:
    catalog = Catalog([index(stanza("a", "1.9")), index(stanza("a", "1.10")), index(stanza("b", "1"))])
    best = catalog.best("a")
    assert best is not None
    assert best.version == "1.10"
    assert len(catalog.versions("a")) == 2
    assert catalog.best("c") is None


def test_a_package_knows_its_source_and_what_it_provides() -> None:
    catalog = Catalog(
        [index(stanza("a", "1+b1", "Source: src (1)\nProvides: v (= 2), w\n") + stanza("b", "3"))]
    )
    a, b = catalog.best("a"), catalog.best("b")
    assert a is not None
    assert b is not None
    assert (a.source, b.source) == ("src (1)", "b (3)")
    assert catalog.providers("v") == catalog.providers("w") == ["a"]


def test_a_stanza_without_a_hash_is_an_error_when_it_is_used() -> None:
    catalog = Catalog([index("Package: a\nVersion: 1\nFilename: x\nSize: 1\n")])
    with pytest.raises(FormatError, match="SHA256"):
        catalog.best("a")


def test_something_else_than_a_packages_file_is_refused() -> None:
    with pytest.raises(FormatError, match="does not begin with"):
        index("<html>\n")


def test_index_files_are_decompressed_by_their_name() -> None:
    assert decompressed(lzma.compress(b"x"), "Packages.xz") == b"x"
    assert decompressed(b"x", "Packages") == b"x"
    with pytest.raises(FormatError, match="cannot be decompressed"):
        decompressed(b"nonsense", "Packages.gz")
