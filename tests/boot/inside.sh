#!/bin/bash
# inside.sh - runs in the booted system (tests/integration/system/boot.rs) as a unit, once at each boot, and writes to /result/steps what went
# well. IMAGE is an image in a registry, LAYOUT the same in a layout, PAGE what /srv/page in it says, BOOT which boot this is.
set -uo pipefail
. /result/setting
exec >>"/result/log.$BOOT" 2>&1
set -x

# Whatever waits, waits for this long at most.
seconds=60
until_so() {
    local left=$((seconds * 10))
    until "$@"; do
        [ $left -gt 0 ] || { echo "waited in vain: $*"; return 1; }
        left=$((left - 1))
        sleep 0.1
    done
}

step() {
    local name=$1
    shift
    # In an `if`, bash would go on after what fails.
    (set -e; "$@")
    if [ $? = 0 ]; then echo "ok: $name"; else echo "failed: $name"; fi >>/result/steps
}

is_active() { [ "$(systemctl is-active "$1")" = active ]; }
is_not_active() { [ "$(systemctl is-active "$1")" != active ]; }
pid() { systemctl show --property MainPID --value oncefs.service; }
shows_page() { [ "$(cat "$1/srv/page")" = "$PAGE" ]; }
is_mounted() { findmnt --noheadings --types fuse.oncefs "$1"; }
is_gone() { ! is_mounted "$1"; }
is_another() { local now; now=$(pid); is_active oncefs.service && [ "$now" != 0 ] && [ "$now" != "$1" ]; }
mount_and_read() { mkdir -p "$1"; oncefs mount "$IMAGE" "$1"; shows_page "$1"; }

units_are_right() { systemd-analyze verify --man=no oncefs.service oncefs.socket; }

service_starts() {
    systemctl enable --now oncefs.service
    is_active oncefs.service
    test -S /run/oncefs/control.sock
    test -S /run/oncefs/snapshotter.sock
}

mounts_are_the_services() {
    mount_and_read /mnt/one
    oncefs status --json | grep -q "\"server\": $(pid)"
    umount /mnt/one
    is_gone /mnt/one
}

automount_mounts_when_looked_at() {
    mkdir -p '/srv/auto mount'
    echo "$LAYOUT /srv/auto\\040mount oncefs ro,nosuid,_netdev,nofail,x-systemd.automount,x-systemd.requires=oncefs.service 0 0" >>/etc/fstab
    mkdir -p /srv/plain
    echo "$IMAGE /srv/plain oncefs ro,_netdev,nofail,x-systemd.requires=oncefs.service 0 0" >>/etc/fstab
    systemctl daemon-reload
    systemctl start srv-plain.mount
    shows_page /srv/plain
    systemctl stop srv-plain.mount
    systemctl start "$(systemd-escape --path --suffix=automount '/srv/auto mount')"
    is_gone '/srv/auto mount'
    shows_page '/srv/auto mount'
    findmnt --noheadings --types fuse.oncefs --options nosuid '/srv/auto mount'
    systemctl stop "$(systemd-escape --path --suffix=mount '/srv/auto mount')"
    is_gone '/srv/auto mount'
}

mount_units_mount() {
    mkdir -p /srv/unit
    cat >/etc/systemd/system/srv-unit.mount <<UNIT
[Unit]
Requires=oncefs.service
After=oncefs.service
[Mount]
What=$IMAGE
Where=/srv/unit
Type=oncefs
Options=ro,wait,nodev,_netdev
[Install]
WantedBy=multi-user.target
UNIT
    systemctl daemon-reload
    systemctl enable --now srv-unit.mount
    shows_page /srv/unit
    systemctl stop srv-unit.mount
    is_gone /srv/unit
}

reload_keeps_what_is_mounted() {
    local before
    before=$(pid)
    mount_and_read /mnt/two
    systemctl reload oncefs.service
    is_active oncefs.service
    [ "$(pid)" = "$before" ]
    shows_page /mnt/two
    umount /mnt/two
}

# Reads until it is told to stop, each time through the server; whatever goes wrong is written to /run/reader.
reads_on() {
    local number=0
    : >/run/reader
    while [ -e /run/reading ]; do
        number=$((number + 1))
        dd if="$1/big" of=/dev/null bs=1M iflag=direct status=none || echo "read $number" >>/run/reader
        ! ls "$1/srv/none-$number" 2>/dev/null || echo "lookup $number" >>/run/reader
    done
}

restart_is_not_noticed() {
    local before reader
    mount_and_read /mnt/three
    touch /run/reading
    reads_on /mnt/three &
    reader=$!
    for _ in 1 2 3; do
        before=$(pid)
        systemctl restart oncefs.service
        is_another "$before"
        shows_page /mnt/three
    done
    rm /run/reading
    wait $reader
    [ ! -s /run/reader ]
}

killed_it_is_not_noticed() {
    local before reader
    touch /run/reading
    reads_on /mnt/three &
    reader=$!
    for _ in 1 2 3; do
        before=$(pid)
        systemctl kill --kill-whom=main --signal=KILL oncefs.service
        until_so is_another "$before"
        shows_page /mnt/three
    done
    rm /run/reading
    wait $reader
    [ ! -s /run/reader ]
}

watchdog_is_not_noticed() {
    local before reader
    mkdir -p /run/systemd/system/oncefs.service.d
    printf '[Service]\nWatchdogSec=3s\nTimeoutAbortSec=1s\n' >/run/systemd/system/oncefs.service.d/watchdog.conf
    systemctl daemon-reload
    systemctl restart oncefs.service
    touch /run/reading
    reads_on /mnt/three &
    reader=$!
    before=$(pid)
    kill -STOP "$before"
    until_so is_another "$before"
    shows_page /mnt/three
    rm /run/reading
    wait $reader
    [ ! -s /run/reader ]
    rm -r /run/systemd/system/oncefs.service.d
    systemctl daemon-reload
    systemctl restart oncefs.service
    shows_page /mnt/three
}

as_somebody() { setpriv --reuid 4711 --regid 4711 "$@"; }
is_refused() { if "$@"; then return 1; fi; }

operators_use_systemds_socket() {
    groupadd --gid 4712 operators
    printf '[server]\ngroup = "operators"\n' >/etc/oncefs/config.toml
    systemctl restart oncefs.service
    as_somebody --groups 4712 oncefs --run /run/oncefs pull "$IMAGE"
    is_refused as_somebody --groups 4712 oncefs --run /run/oncefs umount --all
    is_refused as_somebody --clear-groups oncefs --run /run/oncefs status
    [ "$(stat -c '%a %G' /run/oncefs/control.sock)" = '660 operators' ]
    [ "$(stat -c '%a %G' /run/oncefs/snapshotter.sock)" = '600 root' ]
    # systemd makes it anew, and knows nothing of the group.
    systemctl stop oncefs.socket oncefs.service
    systemctl start oncefs.socket oncefs.service
    as_somebody --groups 4712 oncefs --run /run/oncefs status
}

stop_takes_mounts_away() {
    systemctl stop oncefs.socket oncefs.service
    is_gone /mnt/three
    is_gone /run/oncefs/fs
    systemctl start oncefs.socket oncefs.service
}

socket_starts_the_service() {
    systemctl stop oncefs.socket oncefs.service
    systemctl start oncefs.socket
    is_not_active oncefs.service
    oncefs status
    until_so is_active oncefs.service
    mount_and_read /mnt/five
    umount /mnt/five
}

journal_tells() {
    journalctl --sync
    journalctl --unit oncefs.service --output cat >"/result/journal.$BOOT"
    grep -q mounted "/result/journal.$BOOT"
}

nothing_failed() {
    local failed
    failed=$(systemctl --failed --no-legend --plain)
    [ -z "$failed" ]
}

all_is_there_after_a_boot() {
    is_active oncefs.service
    shows_page /srv/unit
    shows_page '/srv/auto mount'
    until_so shows_page /srv/plain # nobody waits for it at boot: nofail
}

case $BOOT in
1)
    step "the units are right" units_are_right
    step "the service is enabled and starts" service_starts
    step "mounts are the service's" mounts_are_the_services
    step "an automount of fstab mounts when looked at" automount_mounts_when_looked_at
    step "a mount unit mounts and unmounts" mount_units_mount
    step "a reload keeps what is mounted" reload_keeps_what_is_mounted
    step "a restart is not noticed" restart_is_not_noticed
    step "a kill is not noticed" killed_it_is_not_noticed
    step "a watchdog is not noticed" watchdog_is_not_noticed
    step "a stop takes mounts away" stop_takes_mounts_away
    step "operators use systemd's socket" operators_use_systemds_socket
    step "the socket starts the service" socket_starts_the_service
    step "the journal tells of it" journal_tells
    step "no unit failed" nothing_failed
    ;;
2)
    step "after a boot all is there" all_is_there_after_a_boot
    step "no unit failed after the boot" nothing_failed
    ;;
esac
echo "end of boot $BOOT" >>/result/steps
systemctl poweroff --no-block
