//! The fuzz targets, built as everything else is: each is given its seeds, which it must be able to read, and what once made it fail.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

#[allow(unreachable_pub)] // in a package of its own it is reached
#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// The inputs of a kind that a target has.
fn inputs(kind: &str, target: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(target);
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn no_seed_and_nothing_that_was_ever_found_makes_a_target_fail() {
    let mut failed = Vec::new();
    for (name, _) in targets::TARGETS {
        let seeds = inputs("seeds", name);
        assert!(!seeds.is_empty(), "{name} has nothing to begin with in fuzz/seeds");
        for input in seeds.into_iter().chain(inputs("regressions", name)) {
            let bytes = fs::read(&input).unwrap();
            if catch_unwind(|| targets::run(name, &bytes)).is_err() {
                failed.push(input);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// `cargo fuzz` runs programs, and the programs run what is in the table.
#[test]
fn every_target_has_a_program() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let package = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for (name, _) in targets::TARGETS {
        let program = fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("run(\"{name}\", bytes)")), "{name}");
        assert!(package.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
    let programs = fs::read_dir(fuzz.join("fuzz_targets")).unwrap().count();
    assert_eq!(programs, targets::TARGETS.len(), "a program that no target has");
}
