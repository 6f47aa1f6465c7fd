#!/bin/sh
# Fetches NVIDIA Triton, MLServer, perf_analyzer, FastAPI, Starlette and HealthChain into .cache/peers, each into an
# environment of its own.
# Needs the network the first time; quick when they are there. x86-64 Linux alone: Triton has no other wheel.
set -eu
cd "$(dirname "$0")/../.."
PEERS=$PWD/.cache/peers
UV=$(command -v uv || echo "$PWD/.cache/uv/bin/uv")
export UV_SYSTEM_CERTS=1
mkdir -p "$PEERS"

version=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if ! ldconfig -p | grep -q "libpython$version.so"; then
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "libpython$version" >/dev/null
fi

for peer in triton mlserver perf fastapi starlette healthchain; do
    lock=locks/peer-$peer.txt
    cmp -s "$lock" "$PEERS/$peer/.done" && continue
    rm -rf "${PEERS:?}/$peer"
    # Triton's stub is linked against the system's libpython: an interpreter built elsewhere fails in it.
    "$UV" venv --quiet --python /usr/bin/python3 "$PEERS/$peer"
    "$UV" pip sync --quiet --python "$PEERS/$peer/bin/python" --require-hashes "$lock"
    cp "$lock" "$PEERS/$peer/.done"
done

# Beside the backend's library is where Triton looks for what runs Python; the wheel holds one for each version.
pytriton=$(echo "$PEERS"/triton/lib/python3.*/site-packages/pytriton/tritonserver)
cp "$pytriton/python_backend_stubs/$version/triton_python_backend_stub" "$pytriton/backends/python/"

# perf_analyzer's wheel leaves one library to the system. It is unpacked beside it, so that no root is needed.
if [ ! -e "$PEERS/perf/lib/libb64.so.0d" ]; then
    fetched=$(mktemp -d)
    trap 'rm -rf "$fetched"' EXIT
    (cd "$fetched" && apt-get download -qq libb64-0d 2>/dev/null && dpkg-deb -x libb64-0d_*.deb .)
    cp "$fetched"/usr/lib/*/libb64.so.0d "$PEERS/perf/lib/"
fi
