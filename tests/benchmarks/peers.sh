#!/bin/sh
# Environments of the radiomics benchmark's peers, in .cache. PyRadiomics compiles C, and Pictologics wants Python 3.12.
# The source of PyRadiomics 3.1.0 on PyPI lacks its headers and calls itself 3.0.1a1, so 3.0.1 is the last that installs.
set -eu
cd "$(dirname "$0")/../.."
UV=$(command -v uv || echo .cache/uv/bin/uv)
export UV_SYSTEM_CERTS=1
if [ ! -x .cache/pyradiomics/bin/python ]; then
    "$UV" venv --quiet .cache/pyradiomics
    "$UV" pip install --quiet --python .cache/pyradiomics/bin/python 'setuptools<70' wheel 'numpy<2' versioneer cython
    "$UV" pip install --quiet --python .cache/pyradiomics/bin/python --no-build-isolation 'pyradiomics==3.0.1'
fi
if [ ! -x .cache/pictologics/bin/python ]; then
    # A shim of pyenv answers only where its version is chosen: each candidate has to run, and to be of the version.
    for python in python3.12 python3.13 python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[23]*/bin/python3; do
        "$python" -c 'import sys; sys.exit(not (3, 12) <= sys.version_info < (3, 14))' 2>/dev/null && break
        python=3.12 # uv's own, fetched where it may be
    done
    if "$UV" venv --quiet --python "$python" .cache/pictologics; then
        "$UV" pip sync --quiet --python .cache/pictologics/bin/python --require-hashes locks/peer-pictologics.txt
    else
        echo "Pictologics is left out: it wants Python 3.12 or 3.13, and none is here" >&2
    fi
fi
