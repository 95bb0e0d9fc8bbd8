#!/bin/sh
# erofs-utils.sh - puts fsck.erofs, dump.erofs and mkfs.erofs of at least version 1.7 into target/tools/.
#
# The trees of oncefs have 512-byte blocks, which erofs-utils reads since 1.6; Debian 12 ships 1.5. Where the
# installed one is too old, Debian 13's package and the libraries it wants are unpacked below target/tools/
# (nothing is installed) and called through their own loader.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
tools=$here/target/tools
debs=$tools/trixie
programs="fsck.erofs dump.erofs mkfs.erofs"

recent() { # is the version that $1 prints at least 1.7?
    v=$("$1" --version 2>&1 | grep -o -E '[0-9]+\.[0-9]+(\.[0-9]+)?' | head -n 1)
    [ -n "$v" ] && [ "$(printf '1.7\n%s\n' "$v" | sort -V | head -n 1)" = 1.7 ]
}

mkdir -p "$tools"
if [ -x "$tools/fsck.erofs" ] && recent "$tools/fsck.erofs"; then exit 0; fi
if command -v fsck.erofs >/dev/null && recent fsck.erofs; then
    for p in $programs; do ln -sf "$(command -v "$p")" "$tools/$p"; done
    exit 0
fi
command -v apt-get >/dev/null || { echo "erofs-utils.sh: need erofs-utils 1.7 or newer; install it and run this again" >&2; exit 1; }

# The archive this machine's apt uses, so that a mirror configured there is used here.
archive=$(grep -rhoE '(deb|URIs:)[[:space:]]+(\[[^]]*\][[:space:]]+)?https?://[^[:space:]]+/debian/?([[:space:]]|$)' \
    /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | grep -oE 'https?://[^[:space:]]+' | head -n 1)
archive=${archive:-http://deb.debian.org/debian}
rm -rf "$debs"
mkdir -p "$debs/lists/partial" "$debs/cache/archives/partial" "$debs/root"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive trixie main" >"$debs/sources.list"
apt="-q -o Dir::Etc::SourceList=$debs/sources.list -o Dir::Etc::SourceParts=- -o Dir::State::Lists=$debs/lists
 -o Dir::Cache=$debs/cache -o APT::Sandbox::User=root"
# shellcheck disable=SC2086 # options
(cd "$debs" && apt-get $apt update >/dev/null && apt-get $apt download erofs-utils libc6 libgcc-s1 libdeflate0 liblz4-1 \
    liblzma5 libselinux1 libpcre2-8-0 libuuid1 libxxhash0 libzstd1 zlib1g >/dev/null)
for deb in "$debs"/*.deb; do dpkg-deb -x "$deb" "$debs/root"; done
loader=$(find "$debs/root/" -name 'ld-linux-*.so.*' | head -n 1)
libraries=$(dirname "$(find "$debs/root/" -name libc.so.6 | head -n 1)")
for p in $programs; do
    printf '#!/bin/sh\nexec "%s" --library-path "%s" "%s" "$@"\n' "$loader" "$libraries" "$debs/root/usr/bin/$p" >"$tools/$p"
    chmod 755 "$tools/$p"
done
recent "$tools/fsck.erofs" || { echo "erofs-utils.sh: $tools/fsck.erofs does not run" >&2; exit 1; }
rm -rf "$debs"/*.deb "$debs/lists" "$debs/cache"
