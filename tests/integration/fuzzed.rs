//! The fuzz targets, built as everything else is: each is given its seeds, which it must be able to read, and what once made it fail.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use oncefs::index::frames::Bond;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{self, Index};
use proptest::test_runner::TestRunner;

#[allow(unreachable_pub)] // in a package of its own it is reached
#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// Of each target.
const CASES: u32 = 100;

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

/// What an index needs in order to be believed is all there: whoever turned a seed down at the door would find nothing behind it.
#[test]
fn the_seeds_of_what_lies_beside_an_image_lead_to_an_index_that_is_believed() {
    let seed = |name: &str| fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/referrers").join(name));
    let found = |name: &str| targets::found_beside_an_image(&seed(name).unwrap());
    for name in ["signed", "unsigned-before-signed"] {
        assert!(matches!(found(name), Some(Bond::Signature(_))), "{name}");
    }
    for name in ["unsigned", "soci-version-1"] {
        assert!(matches!(found(name), Some(Bond::Referrer(_))), "{name}");
    }
}

/// What `make fuzz` does for long and with an eye on what is new, done blindly and for a moment: seeds with damage.
#[test]
fn no_damage_to_a_seed_makes_a_target_fail() {
    for (name, _) in targets::TARGETS {
        let seeds: Vec<_> = inputs("seeds", name).iter().map(|seed| fs::read(seed).unwrap()).collect();
        let damaged = (sample::select(seeds), vec((any::<Index>(), any::<u8>()), 1..6), any::<Option<Index>>());
        let mut runner =
            TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) });
        let outcome = runner.run(&damaged, |(mut bytes, changes, cut)| {
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let len = cut.map_or(bytes.len(), |cut| cut.index(bytes.len()));
            targets::run(name, &bytes[..len]);
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
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
