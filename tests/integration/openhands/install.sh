#!/usr/bin/env bash
# Prints the Python of an environment with openhands-ai, which is made now if this machine has none.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${GRAFTBOX_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/graftbox-tests}/openhands-0.62.0
# Any Python 3.12 of this machine; else uv fetches one.
python_312() {
  for candidate in python3.12 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python3.12; do
    if "$candidate" -c '' 2>/dev/null; then
      echo "$candidate" && return
    fi
  done
  echo 3.12
}
if ! cmp -s "$here/requirements.txt" "$folder/installed.txt"; then
  mkdir -p "$folder"
  exec 9>"$folder/.lock"
  flock 9
  {
    python3 -m venv --clear "$folder/uv"
    "$folder/uv/bin/python" -m pip install --quiet --disable-pip-version-check uv
    if index=$("$folder/uv/bin/python" -m pip config get global.index-url 2>/dev/null); then
      export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
    fi
    "$folder/uv/bin/uv" venv --quiet --clear --python "$(python_312)" "$folder/venv" ||
      { echo "no Python 3.12 was found, and none could be fetched; put python3.12 on PATH" && exit 1; }
    "$folder/uv/bin/uv" pip install --quiet --no-deps --python "$folder/venv/bin/python" -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$folder/installed.txt"
  } >&2
fi
echo "$folder/venv/bin/python"
