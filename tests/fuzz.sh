#!/bin/sh
# fuzz.sh [SECONDS] - runs each fuzz target for so many seconds (60). Errors are fine; panics and hangs are bugs.
# What is found stays in fuzz/corpus/, which is not kept; fuzz/seeds/ has what real tools make, to begin with.
set -eu
cd "$(dirname "$0")/.."
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked --quiet cargo-fuzz
for target in $(cargo fuzz list); do
    echo "== $target"
    seeds=fuzz/seeds/$target
    mkdir -p "fuzz/corpus/$target"
    # Without a sanitizer the coverage flags are all stable rustc needs; there is no unsafe code in the parsers.
    # shellcheck disable=SC2046 # one directory or none
    cargo fuzz run --sanitizer none "$target" "fuzz/corpus/$target" $([ -d "$seeds" ] && echo "$seeds") -- \
        -max_total_time="${1:-60}" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1
done
