#!/bin/sh
# Writes locks/*.txt: what the services need, and what development needs, with hashes and without addresses.
# `UPGRADE= sh scripts/lock.sh` keeps the versions that are locked and adds what pyproject.toml newly asks for.
set -eu
cd "$(dirname "$0")/.."
UV=$(command -v uv || echo .cache/uv/bin/uv)
compile() {
    out=$1
    shift
    "$UV" pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-header \
        ${UPGRADE---upgrade} "$@" --output-file "$out"
}
compile locks/runtime.txt --extra otlp
compile locks/dev.txt --extra authoring --extra otlp --extra nifti --extra export --group dev
for group in tritonclient schemathesis dicomweb peer-triton peer-mlserver peer-perf peer-mirp \
    peer-fastapi peer-starlette peer-healthchain; do
    "$UV" pip compile --group "$group" --quiet --universal --python-version 3.11 --generate-hashes --no-header \
        ${UPGRADE---upgrade} --output-file "locks/$group.txt"
done
# It wants a newer Python than this project does.
"$UV" pip compile --group peer-pictologics --quiet --universal --python-version 3.12 --generate-hashes --no-header \
    ${UPGRADE---upgrade} --output-file locks/peer-pictologics.txt
# Without what torch needs on a GPU alone and loads only there.
compile locks/converters.txt --extra import-tabular --extra import-torch --group converters \
    --no-emit-package triton --no-emit-package nvidia-cusolver --no-emit-package nvidia-cuda-cccl \
    --no-emit-package nvidia-nvtx --no-emit-package cuda-bindings --no-emit-package cuda-pathfinder
