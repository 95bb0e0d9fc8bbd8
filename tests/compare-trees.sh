#!/bin/sh
# compare-trees.sh A B - exits with 0 and a count if the two trees are the same to every system call that a
# container could make of them: names, kinds, modes, owners, sizes, times, link targets, which names are one
# file, device numbers, extended attributes, and every byte. Prints the differences otherwise.
#
# Left out, because no tar carries them: the size and the link count of directories.
set -eu
[ $# = 2 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export LC_ALL=C

list() ( # one line a name: everything stat tells
    cd "$1"
    find . -mindepth 1 \( -type d -printf '%p|d|%m|%U:%G|%T@\n' \) -o \
        \( -type l -printf '%p|l|%U:%G|%T@|%n|%l\n' \) -o \
        \( -type f -printf '%p|f|%m|%U:%G|%T@|%n|%s\n' \) -o -printf '%p|%y|%m|%U:%G|%T@|%n\n' | sort
)
devices() { (cd "$1" && find . \( -type b -o -type c \) -exec stat -c '%n %t:%T' {} + | sort); }
attributes() { (cd "$1" && getfattr -R -P -h -d -m - -e hex . 2>/dev/null); }
one_file() { # groups of names with one inode, by their first name
    (cd "$1" && find . -type f -links +1 -printf '%i %p\n' | sort -k2 | awk '{ if (!($1 in first)) first[$1] = $2; print first[$1], $0 }' | cut -d' ' -f1,3- | sort)
}
bytes() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 -r sha256sum); }

same=yes
for what in list devices attributes one_file bytes; do
    "$what" "$1" >"$work/a"
    "$what" "$2" >"$work/b"
    if ! cmp -s "$work/a" "$work/b"; then
        same=no
        echo "differences in $what (- $1, + $2):"
        diff "$work/a" "$work/b" | grep '^[<>]' | head -n 20 | sed 's/^</-/; s/^>/+/'
    fi
done
[ $same = yes ] || exit 1
echo "the same: $(cd "$1" && find . -mindepth 1 | wc -l) names, $(cd "$1" && find . -type f -printf '%s\n' | awk '{s += $1} END {printf "%.1f", s / 1e6}') MB of content"
