#!/bin/sh
# Sets up .venv from the lock with uv, and the reference models. Quick when nothing changed.
set -eu
PYTHON=${PYTHON:-python3}
cd "$(dirname "$0")/.."
mkdir -p .cache

find_uv() {
    if command -v uv >/dev/null 2>&1; then command -v uv; return; fi
    if [ -x .cache/uv/bin/uv ]; then echo .cache/uv/bin/uv; fi
}

UV=$(find_uv)
if [ -z "$UV" ]; then
    echo "Setting up uv ..."
    # Debian's python3 has venv in a package of its own; pip alone serves too.
    if ! "$PYTHON" -m venv .cache/uv >/dev/null 2>&1; then
        rm -rf .cache/uv
        if "$PYTHON" -m pip --version >/dev/null 2>&1; then
            "$PYTHON" -m pip install --quiet --target .cache/uv uv
        elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
            apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
            "$PYTHON" -m venv .cache/uv
        else
            echo "Install uv, or the package python3-venv, then run this again." >&2
            exit 1
        fi
    fi
    [ -x .cache/uv/bin/uv ] || .cache/uv/bin/python -m pip install --quiet uv
    UV=.cache/uv/bin/uv
fi

export UV_SYSTEM_CERTS=1
stamp=$( { cat pyproject.toml locks/dev.txt protos/*.proto scripts/build_hook.py services/auscult/radiomics/*.c; command -v cc || true; } | sha256sum | cut -c1-16)
if [ "$(cat .venv/.auscult-stamp 2>/dev/null)" != "$stamp" ]; then
    echo "Installing the locked dependencies ..."
    [ -x .venv/bin/python ] || "$UV" venv --quiet --python "$PYTHON" .venv
    "$UV" pip sync --quiet --python .venv/bin/python --require-hashes locks/dev.txt
    "$UV" pip install --quiet --python .venv/bin/python --no-deps --editable .
    echo "$stamp" > .venv/.auscult-stamp
fi
.venv/bin/auscult models build --if-changed
