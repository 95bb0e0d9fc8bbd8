#!/bin/sh
# containerd-2.sh - puts a containerd 2.x into target/tools/containerd-2/, for the tests that run against both.
#
# Debian 12 ships 1.6. A newer suite's package is unpacked below target/tools/ (nothing is installed); its programs
# want no newer libc than Debian 12's. Which runc they call is the machine's.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
tools=$here/target/tools
programs=$tools/containerd-2
suite=${CONTAINERD_SUITE:-forky}

is_two() { "$1" --version 2>/dev/null | grep -qE 'containerd/v2| v?2\.'; }

mkdir -p "$tools"
if [ -x "$programs/containerd" ] && is_two "$programs/containerd"; then exit 0; fi
rm -rf "$programs"
mkdir "$programs"
if command -v containerd >/dev/null && is_two containerd; then
    for p in containerd containerd-shim-runc-v2 ctr; do ln -s "$(command -v "$p")" "$programs/$p"; done
    exit 0
fi
command -v apt-get >/dev/null || { echo "containerd-2.sh: need containerd 2.x; install it and run this again" >&2; exit 1; }

# The archive this machine's apt uses, so that a mirror configured there is used here.
archive=$(grep -rhoE '(deb|URIs:)[[:space:]]+(\[[^]]*\][[:space:]]+)?https?://[^[:space:]]+/debian/?([[:space:]]|$)' \
    /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | grep -oE 'https?://[^[:space:]]+' | head -n 1)
archive=${archive:-http://deb.debian.org/debian}
debs=$tools/containerd-2-debs
rm -rf "$debs"
mkdir -p "$debs/lists/partial" "$debs/cache/archives/partial"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $suite main" >"$debs/sources.list"
apt="-q -o Dir::Etc::SourceList=$debs/sources.list -o Dir::Etc::SourceParts=- -o Dir::State::Lists=$debs/lists
 -o Dir::Cache=$debs/cache -o APT::Sandbox::User=root"
# shellcheck disable=SC2086 # options
(cd "$debs" && apt-get $apt update >/dev/null && apt-get $apt download "containerd/$suite" >/dev/null)
for deb in "$debs"/*.deb; do dpkg-deb -x "$deb" "$debs/root"; done
for p in containerd containerd-shim-runc-v2 ctr; do mv "$debs/root/usr/bin/$p" "$programs/$p"; done
is_two "$programs/containerd" || { echo "containerd-2.sh: $programs/containerd does not run, or is none of 2.x" >&2; exit 1; }
rm -rf "$debs"
