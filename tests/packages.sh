#!/bin/sh
# packages.sh [demo] - makes sure that the programs the tests, the demo and the benches call are installed; or the demo's alone.
# Installs what is missing with apt on Debian and its kin; elsewhere, or without root, says what is missing.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)

# program:package
wanted="cc:gcc make:make python3:python3 umoci:umoci skopeo:skopeo docker-registry:docker-registry
fusermount3:fuse3 mmdebstrap:mmdebstrap zstd:zstd pigz:pigz bsdtar:libarchive-tools getfattr:attr
setcap:libcap2-bin htpasswd:apache2-utils jq:jq curl:curl runuser:util-linux xz:xz-utils
systemd-nspawn:systemd-container man:man-db mkfs.ext4:e2fsprogs
containerd:containerd ctr:containerd runc:runc
chromium:chromium"

[ "${1-}" != demo ] || wanted="cc:gcc python3:python3 umoci:umoci skopeo:skopeo docker-registry:docker-registry
mmdebstrap:mmdebstrap zstd:zstd getfattr:attr jq:jq"

missing=
for pair in $wanted; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "packages.sh: missing:$missing" >&2
        echo "packages.sh: install them (on Debian: apt-get install$missing) or run this as root" >&2
        exit 1
    fi
    echo "installing:$missing"
    export DEBIAN_FRONTEND=noninteractive
    [ -n "$(find /var/lib/apt/lists -name '*_Packages*' -mtime -1 2>/dev/null | head -n 1)" ] || apt-get update -q
    # shellcheck disable=SC2086 # a list of words
    apt-get install -y -q --no-install-recommends $missing >/dev/null || { apt-get update -q; apt-get install -y -q --no-install-recommends $missing; }
fi
[ "${1-}" != demo ] || exit 0
command -v cargo >/dev/null || { echo "packages.sh: no Rust toolchain (1.90 or newer): see https://rustup.rs" >&2; exit 1; }
"$here/tests/erofs-utils.sh"
"$here/tests/containerd-2.sh"
"$here/tests/index-tools.sh"
