#!/bin/bash
# root.sh DIR - a Debian 12 tree that systemd-nspawn can boot, from the archive that this machine's apt uses.
# Made once; a tree that is there is kept. Needs root.
set -euo pipefail
root=$1
here=$(cd "$(dirname "$0")" && pwd)
[ ! -e "$root.done" ] || exit 0

mirror=$(python3 -c "import sys; sys.path.insert(0, '$here/../images'); import debimages; print(debimages.MIRROR)")
# rm crosses no file system, should something be mounted in a half-made tree.
rm -rf --one-file-system "$root" "$root.part"
mkdir -p "$(dirname "$root")"
mmdebstrap --quiet --variant=minbase --format=directory \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Check-Date "false"' \
    --include=systemd,systemd-sysv,dbus,util-linux,mount,fuse3,iproute2,procps,kmod \
    bookworm "$root.part" "$mirror"

# The machine has no other task than this one: what only waits for hardware or a network is not there.
for unit in systemd-resolved systemd-networkd systemd-timesyncd systemd-logind getty@tty1 console-getty apt-daily.timer \
    apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer dpkg-db-backup.timer; do
    systemctl --root="$root.part" mask --quiet "$unit" 2>/dev/null || true
done
rm -rf "$root.part/var/cache/apt/archives" "$root.part/var/lib/apt/lists" "$root.part/usr/share/doc"
: >"$root.part/etc/machine-id"
mv "$root.part" "$root"
touch "$root.done"
