//! The kernel's opinion: overlayfs over the layers' trees, mounted with EROFS, shows what the view shows.
//!
//! Only layers that name all their directories and link to nothing below: the kernel knows of neither.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use oncefs::index::tree::Time;
use oncefs::sys::mount::{detach, erofs};
use proptest::prelude::*;
use rustix::mount::{MountFlags, mount};

use super::any::{AnyChain, EVERYTHING, Spice, any_chain};
use super::chain::Chain;
use super::{disk, seen};
use crate::model::unpack::{ModelAttributes, ModelEntry, ModelKind};

/// A chain mounted by the kernel, until this is dropped.
struct Mounted {
    /// The overlay last.
    mounts: Vec<PathBuf>,
}

impl Mounted {
    fn over(chain: &Chain) -> Self {
        const NEEDS: &str = "this needs root, overlayfs, and EROFS from files (Linux 6.12)";
        let mut mounted = Self { mounts: Vec::new() };
        // Of one layer alone overlayfs makes nothing.
        let mut lowers = vec![chain.dir.path().join("nothing")];
        fs::create_dir(&lowers[0]).unwrap();
        for (layer, tar) in chain.tars.iter().enumerate() {
            let (data, at) =
                (chain.dir.path().join(format!("data{layer}")), chain.dir.path().join(format!("at{layer}")));
            fs::write(&data, tar).unwrap();
            fs::create_dir(&at).unwrap();
            erofs(&chain.dir.path().join(format!("tree{layer}")), &data, &at).expect(NEEDS);
            mounted.mounts.push(at.clone());
            lowers.push(at);
        }
        let lowers: Vec<_> = lowers.iter().rev().map(|lower| lower.as_os_str().as_bytes()).collect();
        let options = CString::new([b"lowerdir=", &*lowers.join(&b':')].concat()).unwrap();
        let merged = chain.dir.path().join("merged");
        fs::create_dir(&merged).unwrap();
        mount("overlay", &merged, "overlay", MountFlags::RDONLY, options.as_c_str()).expect(NEEDS);
        mounted.mounts.push(merged);
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for at in self.mounts.iter().rev() {
            let _ = detach(at);
        }
    }
}

/// The chain with every directory named in each layer that has something in it.
fn with_all_directories(any: AnyChain) -> Vec<Vec<ModelEntry>> {
    let mut seconds = 1_000_000;
    let mut directory = |path: &[u8]| {
        seconds += 1;
        let mtime = Time { seconds, nanos: 0 };
        let attributes = ModelAttributes { mode: 0o751, mtime, ..ModelAttributes::default() };
        ModelEntry::Node { path: path.to_vec(), kind: ModelKind::Directory, attributes }
    };
    let mut layers = Vec::new();
    for entries in any.layers {
        let (mut named, mut all) = (vec![Vec::new()], vec![directory(b"")]);
        for entry in entries {
            let (ModelEntry::Node { path, .. }
            | ModelEntry::HardLink { path, .. }
            | ModelEntry::Whiteout { path }
            | ModelEntry::Opaque { path }) = &entry;
            let inside = [&**path, if matches!(entry, ModelEntry::Opaque { .. }) { b"/" } else { b"" }].concat();
            for (at, _) in inside.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
                if !named.contains(&inside[..at].to_vec()) {
                    named.push(inside[..at].to_vec());
                    all.push(directory(&inside[..at]));
                }
            }
            named.push(path.clone());
            all.push(entry);
        }
        layers.push(all);
    }
    layers
}

const NO_LINKS: Spice = Spice { hard_links: 0, ..EVERYTHING };

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn privileged_overlayfs_over_the_trees_shows_what_the_view_shows(any in any_chain(NO_LINKS)) {
        let Ok(chain) = Chain::lay(&with_all_directories(any)) else { return Ok(()) };
        if chain.view.layers().any(|lower| lower.tree.counts().implied > 0) {
            return Ok(()); // an entry below a symlink of its own layer still implies where that leads
        }
        if chain.view.layers().any(|layer| layer.tree.is_opaque(layer.tree.root()).unwrap()) {
            return Ok(()); // overlayfs merges the roots of all layers, also below one that is opaque
        }
        let mounted = Mounted::over(&chain);
        let shown = disk::as_model(mounted.mounts.last().unwrap());
        prop_assert_eq!(seen::as_model(&chain), shown);
    }
}
