#!/bin/bash
# demo.sh - the main job, end to end: a real Debian-based image in a real registry is mounted before it is
# downloaded, read, compared with what umoci unpacks, and unmounted. Needs root. Leaves nothing mounted or running.
#
#   ONCEFS=program (target/release/oncefs)   IMAGE=redis (tiny, golang, python-ml; see tests/images)
set -euo pipefail
cd "$(dirname "$0")/.."
oncefs=${ONCEFS:-$PWD/target/release/oncefs}
image=${IMAGE:-redis}
images=$PWD/target/images
[ "$(id -u)" = 0 ] || { echo "demo.sh: run it as root (an ordinary user can mount too: see README.md)" >&2; exit 1; }

work=$(mktemp -d)
registry=
cleanup() {
    status=$?
    trap - EXIT INT TERM
    "$oncefs" --root "$work/store" --run "$work/run" umount --all >/dev/null 2>&1 || true
    [ -z "$registry" ] || tests/images/registry.sh stop "$work/registry" 2>/dev/null || true
    [ $status = 0 ] || { echo "demo.sh: failed; the server's log:" >&2; tail -n 20 "$work/run/oncefs.log" 2>/dev/null >&2 || true; }
    rm -rf --one-file-system "$work"
    exit $status
}
trap cleanup EXIT INT TERM

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
run() { printf '$ %s\n' "$(printf '%s ' "$@" | sed "s|$oncefs|oncefs|; s|--root $work/store --run $work/run ||; s|$work||g")"; "$@"; }
once() { run "$oncefs" --root "$work/store" --run "$work/run" "$@"; }
layers_asked() { # requests for blobs, without the image's config
    config=$(jq -r .config.digest "$images/$image/blobs/sha256/$manifest")
    grep -a '"GET /v2/[^ ]*/blobs/' "$work/registry/log" | grep -avc "$config" || true
}

say "An image made of Debian packages (the first time takes about a minute)"
if [ ! -f "$images/$image/index.json" ]; then
    python3 tests/images/build.py --out "$images" --cache target/images-cache "$image"
fi
manifest=$(jq -r '.manifests[0].digest' "$images/$image/index.json" | cut -d: -f2)
jq -r '"\(.layers | length) layers, \([.layers[].size] | add / 1e6 | floor) MB compressed"' "$images/$image/blobs/sha256/$manifest"

say "Pushed to a registry of our own"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
tests/images/registry.sh start "$work/registry" "$port"
registry=yes
python3 tests/images/build.py --out "$images" --cache target/images-cache --push-only --push "127.0.0.1:$port" "$image" 2>/dev/null
reference=127.0.0.1:$port/images/$image:latest

say "Mounted: no layer has been asked for"
mkdir "$work/mnt"
: >"$work/registry/log"
once mount "$reference" "$work/mnt"
once status
echo "requests for layers at the registry: $(layers_asked)"
[ "$(layers_asked)" = 0 ]

say "Read: the first look fetches, verifies and indexes the layers, once"
run ls "$work/mnt"
run head -n 2 "$work/mnt/etc/os-release"
echo "requests for layers at the registry: $(layers_asked)"
once status
run chroot "$work/mnt" /bin/sh -c 'echo "hello from inside, $(cat /etc/debian_version)"' || [ "$image" = tiny ]

say "Compared with what umoci makes of the same image"
run skopeo copy -q --src-tls-verify=false "docker://$reference" "oci:$work/layout:latest"
umoci unpack --image "$work/layout:latest" "$work/bundle" >/dev/null
run tests/compare-trees.sh "$work/bundle/rootfs" "$work/mnt"

say "Unmounted"
once umount "$work/mnt"
if mountpoint -q "$work/mnt"; then echo "still mounted" >&2; exit 1; fi
once check

cat <<DONE

That was an image mounted before it was downloaded, verified as it was read.
Next:    make install && sudo oncefs mount docker.io/library/redis:7 /mnt
DONE
