"""The large layers are the same bytes whoever makes them, and where.

Only what is packed is compared, not the minutes of compressing it: `test_bundle_build` compares whole blobs
of the smaller layers, which are packed by the same code.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.integration.test_bundle_build import FEW, SOURCE, another_user, environment

from graftbox.bundle.build import Job, build
from graftbox.store import Store

LONG = os.environ.get("GRAFTBOX_LONG_TESTS") == "1"
# Folders are listed in another order each time, as on another filesystem.
LAYERS = """
import json, os, random, sys

class Shuffled:
    def __init__(self, entries):
        with entries:
            self.entries = list(entries)
        random.shuffle(self.entries)
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass
    def __iter__(self):
        return self
    def __next__(self):
        if not self.entries:
            raise StopIteration
        return self.entries.pop()

def listed(*arguments, listdir=os.listdir):
    return random.sample(names := listdir(*arguments), len(names))

os.scandir = lambda *arguments, scandir=os.scandir: Shuffled(scandir(*arguments))
os.listdir = listed

import hashlib
from graftbox.bundle import layers
from graftbox.bundle.build import Job
from graftbox.bundle.progress import Silent

job = Job.of()
found = {}
for name in sys.argv[1:]:
    sha = hashlib.sha256()
    for piece in layers.tar(job.content(name, Silent(), None)):
        sha.update(piece)
    found[name] = "sha256:" + sha.hexdigest()
print(json.dumps(found))
"""


def test_the_large_layers_do_not_depend_on_user_place_or_order(tmp_path: Path) -> None:
    store = Store()
    expected = {layer.name: layer.diff_id for layer in build(store=store).layers}
    names = [name for name in expected if name not in {"core", "server", *FEW}]
    assert {"browser", "vscode"} <= set(names) or LONG
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to other users
        Path(folder).chmod(0o755)
        cache = Path(folder) / "elsewhere"
        copied(store, cache)
        strange = {
            "PYTHONPATH": str(SOURCE),
            "HOME": folder,
            "TZ": "Asia/Tokyo",
            "LANG": "C",
            "PYTHONHASHSEED": "7",
        }
        done = subprocess.run(
            [*another_user(cache), sys.executable, "-c", LAYERS, *names],
            env=environment(cache, **strange),
            capture_output=True,
            text=True,
            umask=0o077,
            cwd="/",
            timeout=900,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {name: expected[name] for name in names}


def copied(store: Store, cache: Path) -> None:
    """Puts the locked packages into another cache, and what was compiled of them unless there is time."""
    blobs = cache / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    job = Job.of(store=store)
    for entry in job.lock.entries(job.arch, job.components):
        shutil.copy(store.blob_path(f"sha256:{entry.sha256}"), blobs)
    kept = "programs" if LONG else "native"  # the compiler, or what it made
    if (store.root / kept).is_dir():
        shutil.copytree(store.root / kept, cache / kept, symlinks=True)
