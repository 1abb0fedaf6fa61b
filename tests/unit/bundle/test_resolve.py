from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pytest

from graftbox.bundle.debian import Catalog, PackageIndex
from graftbox.bundle.resolve import closure
from graftbox.errors import NotFoundError, UsageError


def catalog(*suites: dict[str, str]) -> Catalog:
    """Suites as ``{"name version": "fields"}``."""
    return Catalog(
        PackageIndex(
            "".join(
                f"Package: {key.split()[0]}\nVersion: {key.split()[1]}\nFilename: pool/{key.split()[0]}\n"
                f"Size: 1\nSHA256: {hashlib.sha256(key.encode()).hexdigest()}\n"
                f"{fields or 'Priority: optional'}\n\n"
                for key, fields in suite.items()
            ).encode(),
            "debian",
            "2026-11-01T00:00:00Z",
        )
        for suite in suites
    )


def names(found: Iterable[str]) -> str:
    return " ".join(found)


def test_everything_that_a_package_needs_comes_along_even_in_a_circle() -> None:
    known = catalog(
        {"a 1": "Depends: b\nPre-Depends: d", "b 1": "Depends: c", "c 1": "Depends: a", "d 1": "", "e 1": ""}
    )
    assert names(closure(["a"], [], known)) == "a b c d"


def test_the_first_alternative_that_exists_is_taken() -> None:
    known = catalog({"a 1": "Depends: nowhere | b | c", "b 1": "", "c 1": ""})
    assert names(closure(["a"], [], known)) == "a b"


def test_an_alternative_that_is_there_anyway_is_enough() -> None:
    packages = {"a 1": "Depends: b | c", "b 1": "", "c 1": ""}
    known = catalog(packages)
    assert names(closure(["a", "c"], [], known)) == "a c"


def test_a_virtual_package_is_satisfied_by_a_provider() -> None:
    known = catalog({"a 1": "Depends: awk", "mawk 1": "Provides: awk", "gawk 1": "Provides: awk"})
    assert names(closure(["a"], [], known)) == "a gawk"
    assert names(closure(["a", "mawk"], [], known)) == "a mawk"


def test_a_constraint_on_a_virtual_package_needs_a_versioned_provides() -> None:
    known = catalog({"a 1": "Depends: v (>= 2)", "b 1": "Provides: v", "c 1": "Provides: v (= 2)"})
    assert names(closure(["a"], [], known)) == "a c"


def test_cut_packages_and_what_only_they_need_stay_out() -> None:
    known = catalog({"a 1": "Depends: perl, b", "perl 1": "Depends: perl-base", "perl-base 1": "", "b 1": ""})
    assert names(closure(["a"], ["perl"], known)) == "a b"


def test_cutting_a_virtual_name_or_its_chosen_provider_cuts_the_dependency() -> None:
    known = catalog({"a 1": "Depends: debconf | debconf-2.0", "debconf 1": "Provides: debconf-2.0"})
    assert names(closure(["a"], ["debconf"], known)) == "a"
    assert names(closure(["a"], ["debconf-2.0"], known)) == "a"


def test_cutting_a_package_that_does_not_exist_is_a_mistake_in_the_recipe() -> None:
    with pytest.raises(UsageError, match="cuts 'pearl'"):
        closure(["a"], ["pearl"], catalog({"a 1": ""}))


def test_an_unmet_dependency_names_the_way_to_it() -> None:
    known = catalog({"a 1": "Depends: b", "b 1": "Depends: c (>= 2) | d", "c 1": ""})
    with pytest.raises(NotFoundError, match=r"b 1 depends on c \(>= 2\) \| d.*b <- a"):
        closure(["a"], [], known)


def test_an_unknown_root_package_is_named() -> None:
    with pytest.raises(NotFoundError, match="'nope'"):
        closure(["nope"], [], catalog({"a 1": ""}))


def test_a_pinned_older_version_stays_while_it_satisfies_everybody() -> None:
    known = catalog({"a 1": "Depends: b (>= 1)", "b 1": ""}, {"b 2": ""})
    pins = {"b": known.versions("b")[0]}
    assert closure(["a"], [], known, pins)["b"].version == "1"
    assert closure(["a"], [], known)["b"].version == "2"


def test_a_pin_that_a_new_version_forbids_is_given_up() -> None:
    known = catalog({"a 1": "Depends: b (= 1)", "b 1": ""}, {"a 2": "Depends: b (= 2)", "b 2": ""})
    found = closure(["a"], [], known, {"b": known.versions("b")[0]})
    assert (found["a"].version, found["b"].version) == ("2", "2")


def test_a_kept_package_that_needs_the_lost_version_moves_with_it() -> None:
    known = catalog({"a 1": "Depends: b (= 1)"}, {"a 2": "Depends: b (= 2)", "b 2": ""})
    found = closure(["a"], [], known, {"a": known.versions("a")[0]})
    assert (found["a"].version, found["b"].version) == ("2", "2")
