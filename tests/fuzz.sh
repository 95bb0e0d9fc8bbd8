#!/bin/sh
# fuzz.sh [SECONDS] - runs each fuzz target for so many seconds (60). Errors are fine; panics and hangs are bugs.
set -eu
cd "$(dirname "$0")/.."
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked --quiet cargo-fuzz
for target in $(cargo fuzz list); do
    echo "== $target"
    # Without a sanitizer the coverage flags are all stable rustc needs; there is no unsafe code in the parsers.
    cargo fuzz run --sanitizer none "$target" -- -max_total_time="${1:-60}" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1
done
