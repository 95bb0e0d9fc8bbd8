#!/bin/sh
# deny.sh - cargo-deny on licences, bans and sources; on advisories too where their database can be fetched.
set -eu
cd "$(dirname "$0")/.."
if ! cargo deny --version >/dev/null 2>&1; then
    echo "installing cargo-deny (some minutes, once)"
    cargo install --locked --quiet cargo-deny
fi
cargo deny --locked check licenses bans sources
if timeout 60 cargo deny --locked fetch db >/dev/null 2>&1; then
    cargo deny --locked check --disable-fetch advisories
else
    echo "deny.sh: the advisory database cannot be reached from here: advisories were NOT checked" >&2
fi
