#!/bin/sh
# index-tools.sh - puts the programs that make indexed images into target/tools/index/: ctr-remote (eStargz and
# stargz-snapshotter's zstd:chunked), soci, and a skopeo that knows zstd:chunked; and soci-snapshotter, for the benches.
#
# They are in Debian's unstable suite, the first two in no other. Its packages are unpacked below target/tools/ (nothing is
# installed), and what wants a newer libc than Debian 12's is called through its own loader.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
tools=$here/target/tools
programs=$tools/index
suite=${INDEX_TOOLS_SUITE:-sid}

runs() {
    for p in ctr-remote soci soci-snapshotter-grpc skopeo; do "$programs/$p" --version >/dev/null 2>&1 || return 1; done
}

mkdir -p "$tools"
if runs; then exit 0; fi
rm -rf "$programs"
mkdir "$programs"
command -v apt-get >/dev/null || { echo "index-tools.sh: need Debian's packages, and apt-get to have them" >&2; exit 1; }

# The archive this machine's apt uses, so that a mirror configured there is used here.
archive=$(grep -rhoE '(deb|URIs:)[[:space:]]+(\[[^]]*\][[:space:]]+)?https?://[^[:space:]]+/debian/?([[:space:]]|$)' \
    /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | grep -oE 'https?://[^[:space:]]+' | head -n 1)
archive=${archive:-http://deb.debian.org/debian}
debs=$tools/index-debs
rm -rf "$debs"
mkdir -p "$debs/lists/partial" "$debs/cache/archives/partial"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $suite main" >"$debs/sources.list"
apt="-q -o Dir::Etc::SourceList=$debs/sources.list -o Dir::Etc::SourceParts=- -o Dir::State::Lists=$debs/lists
 -o Dir::Cache=$debs/cache -o APT::Sandbox::User=root"
# shellcheck disable=SC2086 # options
(cd "$debs" && apt-get $apt update >/dev/null && apt-get $apt download stargz-snapshotter soci-snapshotter skopeo libc6 libgpgme45 \
    libassuan9 libgpg-error0 libsqlite3-0 >/dev/null)
for deb in "$debs"/*.deb; do dpkg-deb -x "$deb" "$programs/root"; done
for p in ctr-remote soci soci-snapshotter-grpc; do mv "$programs/root/usr/bin/$p" "$programs/"; done
loader=$(find "$programs/root/" -name 'ld-linux-*.so.*' | head -n 1)
libraries=$(dirname "$(find "$programs/root/" -name libc.so.6 | head -n 1)")
printf '#!/bin/sh\nexec "%s" --library-path "%s" "%s" "$@"\n' "$loader" "$libraries" "$programs/root/usr/bin/skopeo" >"$programs/skopeo"
chmod 755 "$programs/skopeo"
runs || { echo "index-tools.sh: the programs in $programs do not run" >&2; exit 1; }
rm -rf "$debs"
