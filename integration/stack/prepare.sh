#!/bin/sh
# Fetches and builds the real servers of the integration suite into .cache/stack. Quick when they are there.
set -eu
cd "$(dirname "$0")"
STACK=$(cd ../.. && pwd)/.cache/stack
mkdir -p "$STACK"

missing=""
command -v java >/dev/null || missing="$missing openjdk-17-jdk-headless"
command -v mvn >/dev/null || missing="$missing maven"
command -v Orthanc >/dev/null || missing="$missing orthanc"
[ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ] || missing="$missing orthanc-dicomweb"
command -v dciodvfy >/dev/null || missing="$missing dicom3tools"
command -v storescu >/dev/null || missing="$missing dcmtk"
command -v chromium >/dev/null || missing="$missing chromium"
command -v ip >/dev/null || missing="$missing iproute2"
if [ -n "$missing" ]; then
    apt-get update -qq
    # Debian starts Orthanc as a system service when it installs it; here it runs only inside the suite.
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    rm -f /usr/sbin/policy-rc.d
fi

fetch() {
    name=$1
    [ -e "$STACK/$name/.done" ] && cmp -s "$name/pom.xml" "$STACK/$name/.done" && return
    mvn -q -B -f "$name/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$STACK/$name/lib"
    cp "$name/pom.xml" "$STACK/$name/.done"
}
fetch kafka
fetch hapi
rm -rf "$STACK/hapi/classes" && mkdir -p "$STACK/hapi/classes"
javac -nowarn --release 17 -cp "$STACK/hapi/lib/*" -d "$STACK/hapi/classes" hapi/src/main/java/*.java
cp hapi/src/main/resources/* "$STACK/hapi/classes/"
fetch cdshooks
rm -rf "$STACK/cdshooks/classes" && mkdir -p "$STACK/cdshooks/classes"
javac -nowarn --release 17 -cp "$STACK/cdshooks/lib/*:$STACK/hapi/lib/*" -d "$STACK/cdshooks/classes" cdshooks/src/main/java/*.java

# Helm has no package in Debian; Go builds it from its module.
HELM=v3.19.0
if [ "$(cat "$STACK/bin/.helm" 2>/dev/null)" != "$HELM" ]; then
    GOBIN="$STACK/bin" go install "helm.sh/helm/v3/cmd/helm@$HELM"
    echo "$HELM" > "$STACK/bin/.helm"
fi

# So does an S3 server.
GOFAKES3=v1.2.0
if [ "$(cat "$STACK/bin/.gofakes3" 2>/dev/null)" != "$GOFAKES3" ]; then
    GOBIN="$STACK/bin" go install "github.com/johannesboyne/gofakes3/cmd/gofakes3@$GOFAKES3"
    echo "$GOFAKES3" > "$STACK/bin/.gofakes3"
fi

# The unmodified tritonclient has an environment of its own: it registers the same messages as we do.
ROOT=$(cd ../.. && pwd)
UV=$(command -v uv || echo "$ROOT/.cache/uv/bin/uv")
export UV_SYSTEM_CERTS=1
[ -x "$ROOT/.cache/tritonclient/bin/python" ] || "$UV" venv --quiet --python "$ROOT/.venv/bin/python" "$ROOT/.cache/tritonclient"
"$UV" pip sync --quiet --python "$ROOT/.cache/tritonclient/bin/python" --require-hashes "$ROOT/locks/tritonclient.txt"
[ -x "$ROOT/.cache/schemathesis/bin/python" ] || "$UV" venv --quiet --python "$ROOT/.venv/bin/python" "$ROOT/.cache/schemathesis"
"$UV" pip sync --quiet --python "$ROOT/.cache/schemathesis/bin/python" --require-hashes "$ROOT/locks/schemathesis.txt"
# So has the unmodified dicomweb-client.
[ -x "$ROOT/.cache/dicomweb/bin/python" ] || "$UV" venv --quiet --python "$ROOT/.venv/bin/python" "$ROOT/.cache/dicomweb"
"$UV" pip sync --quiet --python "$ROOT/.cache/dicomweb/bin/python" --require-hashes "$ROOT/locks/dicomweb.txt"
# So have the frameworks whose models are imported: torch alone is larger than all the rest.
[ -x "$ROOT/.cache/converters/bin/python" ] || "$UV" venv --quiet --python "$ROOT/.venv/bin/python" "$ROOT/.cache/converters"
"$UV" pip sync --quiet --python "$ROOT/.cache/converters/bin/python" --require-hashes "$ROOT/locks/converters.txt"

sh "$ROOT/integration/peers/prepare.sh"
