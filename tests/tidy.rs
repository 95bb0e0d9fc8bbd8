//! The rules of the source that no lint knows: which module may use which, where each outside crate lives,
//! how long a file may be, where `unsafe` may stand, how a file begins. Reads text, runs in a blink.

#![allow(clippy::unwrap_used)] // a test program through and through

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may use whom. Lower modules know nothing of upper ones; `main` and `lib` stand outside.
const MAY_USE: &[(&str, &[&str])] = &[
    ("errors", &[]),
    ("metrics", &[]),
    ("sync", &[]),
    ("sys", &[]),
    ("digest", &[]),
    ("gate", &["sync"]),
    ("blob", &["digest", "gate"]),
    ("flight", &["sync"]),
    ("registry", &["blob", "digest", "errors", "flight", "gate", "metrics", "sync"]),
    ("index", &["blob", "digest", "sync", "sys"]),
    ("store", &["blob", "digest", "errors", "flight", "gate", "index", "metrics", "sync", "sys"]),
    ("view", &["digest", "index", "sync"]),
    ("mount", &[]),
    ("fuse", &["digest", "errors", "index", "metrics", "store", "sync", "sys", "view"]),
    ("image", &["blob", "digest", "errors", "flight", "gate", "index", "metrics", "registry", "store", "sync", "view"]),
    ("snapshotter", &["digest", "errors", "metrics", "mount", "store", "sync", "sys"]),
    ("cri", &["errors", "flight", "metrics", "sync"]),
    ("control", &["digest", "sync", "sys"]),
    ("config", &["cri", "errors", "fuse", "image", "index", "registry", "snapshotter", "store"]),
    (
        "daemon",
        &[
            "blob",
            "config",
            "control",
            "cri",
            "digest",
            "errors",
            "flight",
            "fuse",
            "image",
            "index",
            "metrics",
            "mount",
            "registry",
            "snapshotter",
            "store",
            "sync",
            "sys",
            "view",
        ],
    ),
    ("doctor", &["blob", "config", "control", "daemon", "errors", "registry", "snapshotter", "sys"]),
    ("keeper", &["sys"]),
    (
        "cli",
        &["config", "control", "daemon", "digest", "doctor", "errors", "image", "keeper", "registry", "store", "sys"],
    ),
];

/// Where an outside crate lives, as path prefixes under `src/`. Nowhere else may it be named.
const HOME: &[(&str, &[&str])] = &[
    ("anyhow", &["cli/", "cli.rs", "daemon/", "daemon.rs", "main.rs"]),
    ("arc_swap", &["fuse/", "fuse.rs"]),
    ("axum", &["daemon/"]),
    ("base64", &["cli/trace", "index/published/", "index/sources/toc.rs", "index/tar/pax.rs", "registry/"]),
    ("blake3", &["digest.rs", "index/frames"]),
    ("clap", &["cli/", "cli.rs"]),
    ("clap_complete", &["cli/"]),
    ("clap_mangen", &["cli/"]),
    ("crc32c", &["index/tree/", "store/resident.rs"]),
    ("flate2", &[]),
    ("fuser", &["fuse/", "fuse.rs"]),
    ("http_body_util", &["control.rs", "control/", "cri/"]),
    ("httpdate", &["registry/clock.rs", "registry/retry.rs"]),
    ("hyper", &["control.rs", "control/", "cri/"]),
    ("hyper_util", &["control.rs", "control/", "cri/"]),
    ("indicatif", &["cli/"]),
    ("libc", &["sys/"]),
    ("libz_rs_sys", &["sys/"]),
    ("lru", &["store/ahead.rs", "store/unkept.rs", "view/"]),
    ("memmap2", &["sys/"]),
    ("oci_spec", &["registry/"]),
    ("prometheus_client", &["metrics.rs"]),
    ("prost", &["snapshotter/", "cri/"]),
    ("prost_types", &["snapshotter/"]),
    ("regex", &["snapshotter/filter"]),
    ("reqwest", &["registry/"]),
    ("ring", &["index/published/signature.rs"]),
    ("rustls", &["registry/"]),
    ("rustls_native_certs", &["registry/tls.rs"]),
    ("sd_notify", &["daemon/"]),
    ("serde_saphyr", &["doctor/kubelet.rs", "registry/kubelet/"]),
    ("sha2", &["digest.rs"]),
    ("shuttle", &["sync.rs", "flight/model.rs", "gate/model.rs"]),
    ("sled", &["store/db"]),
    ("tar", &["index/tar"]),
    ("tokio_stream", &["snapshotter/", "cri/"]),
    ("toml", &["config.rs", "config/", "doctor/containerd/", "errors.rs", "registry/hosts/file"]),
    ("tonic", &["snapshotter/", "cri/", "daemon/"]),
    ("tonic_prost", &["snapshotter/", "cri/"]),
    ("tower", &["snapshotter/", "cri/"]),
    ("tracing_journald", &["daemon/logging"]),
    ("tracing_subscriber", &["daemon/", "cli/", "main.rs"]),
    ("zstd", &["index/codec/", "index/published.rs"]),
];

/// Small crates of the language's own kind, which any file may use.
const GENERAL: &[&str] = &["bytes", "futures", "rustix", "serde", "serde_json", "thiserror", "tokio", "tracing"];

/// Lines a file may have before its tests begin.
const LINES_MAX: usize = 400;

const VAGUE_TYPES: &[&str] = &["Manager", "Mgr", "Helper", "Util", "Context", "Info"];
const VAGUE_FILES: &[&str] = &["util", "utils", "common", "misc", "helper", "helpers", "types", "core"];

struct Source {
    /// Below the package, with forward slashes.
    path: String,
    text: String,
    /// What stands before the file's test module, if it has one.
    shipped: String,
}

fn sources(below: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut folders, mut found) = (vec![root.join(below)], Vec::new());
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(read(root, path));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn read(root: &Path, path: PathBuf) -> Source {
    let text = fs::read_to_string(&path).unwrap();
    let path = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
    let is_test = path.ends_with("/tests.rs") || path.ends_with("/model.rs") || path.contains("/tests/");
    let shipped = match text.find("#[cfg(test)]\nmod ") {
        _ if is_test => String::new(),
        Some(tests) => text[..tests].to_owned(),
        None => text.clone(),
    };
    Source { path, text, shipped }
}

fn shipped_sources() -> Vec<Source> {
    let mut all = sources("src");
    all.extend(sources("mount-helper"));
    all
}

fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(at, line)| (at + 1, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Fails with all complaints at once: who mends one wants to see the others.
fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Where `name::` or `name;` stands as a path's first segment on this line.
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + name.len()..];
        let starts = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '.' || c == '"');
        starts && (after.starts_with("::") || (line.trim_start().starts_with("use ") && after.starts_with([';', ' '])))
    })
}

#[test]
fn modules_use_only_what_is_below_them() {
    let may_use: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let mut complaints = Vec::new();
    for source in sources("src") {
        let inside = source.path.trim_start_matches("src/");
        let module = inside.split(['/', '.']).next().unwrap();
        if module == "main" || module == "lib" {
            continue;
        }
        let Some(allowed) = may_use.get(module) else {
            complaints.push(format!("{}: module {module} stands in no line of MAY_USE", source.path));
            continue;
        };
        for (at, line) in code_lines(&source.shipped) {
            for (start, _) in line.match_indices("crate::") {
                let rest = &line[start + "crate::".len()..];
                let used: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if used.is_empty() {
                    complaints.push(format!("{}:{at}: write `use crate::module::...`, one line each", source.path));
                } else if used != module && !allowed.contains(&used.as_str()) {
                    complaints.push(format!("{}:{at}: {module} may not use {used}", source.path));
                }
            }
        }
    }
    none(complaints);
}

#[test]
fn the_table_of_modules_has_no_cycle() {
    // Each module uses only ones that stand above it in the table, so the table itself is the proof.
    let mut seen: Vec<&str> = Vec::new();
    for (module, uses) in MAY_USE {
        for used in *uses {
            assert!(seen.contains(used), "{module} uses {used}, which stands after it");
        }
        seen.push(module);
    }
}

#[test]
fn each_outside_crate_has_one_home() {
    let mut complaints = Vec::new();
    for source in sources("src") {
        let inside = source.path.trim_start_matches("src/");
        for (name, homes) in HOME {
            if homes.iter().any(|home| inside.starts_with(home)) {
                continue;
            }
            for (at, line) in code_lines(&source.shipped) {
                if names_crate(line, name) {
                    complaints.push(format!("{}:{at}: {name} lives in {homes:?}", source.path));
                }
            }
        }
    }
    none(complaints);
}

#[test]
fn each_dependency_is_in_a_table() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap();
    let section = section.split("\n[").next().unwrap();
    let mut complaints = Vec::new();
    for line in section.lines().filter(|line| line.contains('=')) {
        let name = line.split([' ', '=', '.']).next().unwrap().replace('-', "_");
        if !GENERAL.contains(&name.as_str()) && !HOME.iter().any(|(known, _)| *known == name) {
            complaints.push(format!("Cargo.toml: {name} has no home in tests/tidy.rs"));
        }
    }
    none(complaints);
}

#[test]
fn files_are_short_and_say_first_what_they_hold() {
    let mut complaints = Vec::new();
    for source in shipped_sources() {
        let lines = source.shipped.lines().count();
        if lines > LINES_MAX {
            complaints.push(format!("{}: {lines} lines before its tests, {LINES_MAX} are the limit", source.path));
        }
    }
    for source in shipped_sources().into_iter().chain(sources("tests")).chain(sources("benches")) {
        if !source.text.starts_with("//! ") {
            complaints.push(format!("{}: does not begin with a //! line", source.path));
        }
    }
    none(complaints);
}

#[test]
fn unsafe_code_is_only_in_sys() {
    let mut complaints = Vec::new();
    for source in shipped_sources().into_iter().filter(|source| !source.path.starts_with("src/sys/")) {
        for (at, line) in code_lines(&source.text) {
            if line.contains("unsafe {")
                || line.contains("unsafe fn")
                || line.contains("unsafe impl")
                || line.contains("allow(unsafe")
            {
                complaints.push(format!("{}:{at}: unsafe outside src/sys", source.path));
            }
        }
    }
    none(complaints);
}

#[test]
fn the_environment_is_read_in_one_place() {
    let mut complaints = Vec::new();
    for source in shipped_sources() {
        if source.path.starts_with("src/config") {
            continue;
        }
        for (at, line) in code_lines(&source.shipped) {
            if line.contains("env::var") {
                complaints.push(format!("{}:{at}: the environment is read in src/config alone", source.path));
            }
        }
    }
    none(complaints);
}

#[test]
fn names_say_something() {
    let mut complaints = Vec::new();
    for source in shipped_sources() {
        let stem = Path::new(&source.path).file_stem().unwrap().to_str().unwrap().to_owned();
        if VAGUE_FILES.contains(&stem.as_str()) {
            complaints.push(format!("{}: name the file after what is in it", source.path));
        }
        for (at, line) in code_lines(&source.shipped) {
            for keyword in ["struct ", "enum ", "trait ", "type "] {
                let Some(rest) = line.trim_start().trim_start_matches("pub ").strip_prefix(keyword) else { continue };
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
                if VAGUE_TYPES.iter().any(|vague| name.ends_with(vague)) {
                    complaints.push(format!("{}:{at}: {name} says nothing", source.path));
                }
            }
        }
    }
    none(complaints);
}

#[test]
fn nothing_is_left_for_later_and_all_is_ascii() {
    let unfinished = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X"].concat()];
    let mut complaints = Vec::new();
    for source in shipped_sources().into_iter().chain(sources("tests")).chain(sources("benches")) {
        for (at, line) in source.text.lines().enumerate() {
            if unfinished.iter().any(|word| line.contains(word.as_str())) {
                complaints.push(format!("{}:{}: unfinished", source.path, at + 1));
            }
            if !line.is_ascii() {
                complaints.push(format!("{}:{}: not ASCII; write it as an escape", source.path, at + 1));
            }
        }
    }
    none(complaints);
}
