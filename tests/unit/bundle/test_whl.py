from __future__ import annotations

import pytest

from graftbox.bundle import whl


@pytest.mark.parametrize(
    ("name", "used"),
    [
        ("tornado/web.py", True),
        ("tornado/test/web_test.py", False),
        ("jsonschema/tests/__init__.py", False),
        ("test/helper.py", True),
        ("IPython/testing/decorators.py", True),
        ("attr/__init__.pyi", False),
        ("zmq/backend/cython/_zmq.pyx", False),
        ("pip/_vendor/distlib/w64.exe", False),
        ("py.typed", True),
        ("psutil-7.dist-info/licenses/tests/LICENSE", True),
    ],
)
def test_what_only_its_makers_use_of_a_package_stays_out(name: str, used: bool) -> None:
    assert whl.is_used(name) is used
