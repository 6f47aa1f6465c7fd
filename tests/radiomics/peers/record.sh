#!/bin/sh
# Records again what MIRP and PyRadiomics give, each in an environment of its own below .cache.
# PyRadiomics 3.1.0 cannot be built from its source archive (it lacks a header); 3.0.1 has the same formulas.
set -eu
cd "$(dirname "$0")/../../.."
export UV_SYSTEM_CERTS=1
here=tests/radiomics/peers
UV=$(command -v uv || echo .cache/uv/bin/uv)
if [ ! -x .cache/mirp/bin/python ]; then
    "$UV" venv --quiet .cache/mirp
    "$UV" pip sync --quiet --python .cache/mirp/bin/python --require-hashes locks/peer-mirp.txt
fi
if [ ! -x .cache/pyradiomics/bin/python ]; then
    "$UV" venv --quiet .cache/pyradiomics
    "$UV" pip install --quiet --python .cache/pyradiomics/bin/python 'setuptools<70' wheel 'numpy<2' versioneer cython
    "$UV" pip install --quiet --python .cache/pyradiomics/bin/python --no-build-isolation 'pyradiomics==3.0.1'
fi
.venv/bin/python $here/regions.py .cache/peers
for peer in mirp pyradiomics; do
    echo "region,version,$peer,value" >.cache/peers/$peer.csv
    for region in sarcoma lung; do
        .cache/$peer/bin/python $here/${peer}_peer.py .cache/peers $region | grep "^$region," >>.cache/peers/$peer.csv
    done
    cp .cache/peers/$peer.csv $here/$peer.csv
done
