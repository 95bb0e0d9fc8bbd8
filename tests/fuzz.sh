#!/bin/sh
# fuzz.sh [SECONDS [TARGET...]] - runs each fuzz target, or those named, for so many seconds (60). Errors are fine; panics and hangs are bugs.
# fuzz/seeds/ has what real tools make, to begin with; what is found on the way stays in fuzz/corpus/, which is not kept. An input that a target fails with lies in
# fuzz/artifacts/: it belongs in fuzz/regressions/TARGET/ with the change that mends it, and the integration tests give it to the target ever after.
set -eu
cd "$(dirname "$0")/.."
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked --quiet cargo-fuzz
seconds=${1:-60}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- $(cargo fuzz list)
for target in "$@"; do
    echo "== $target"
    mkdir -p "fuzz/corpus/$target"
    given=
    for dir in "fuzz/seeds/$target" "fuzz/regressions/$target"; do
        if [ -d "$dir" ]; then given="$given $dir"; fi
    done
    # Without a sanitizer the coverage flags are all stable rustc needs; there is no unsafe code in the parsers.
    # shellcheck disable=SC2086 # names without blanks
    cargo fuzz run --sanitizer none "$target" "fuzz/corpus/$target" $given -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1
done
