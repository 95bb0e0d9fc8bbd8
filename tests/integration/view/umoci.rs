//! The opinion of a tool that unpacks: `umoci unpack` of an image made of the layers.

use std::fs;
use std::path::Path;
use std::process::Command;

use oncefs::digest::Digest;
use oncefs::index::tree::Time;
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use super::any::{AnyChain, EVERYTHING, any_chain};
use super::chain::Chain;
use super::tangle::is_tangled;
use super::{disk, seen};
use crate::model::unpack::{ModelEntry, ModelFs, ModelKind, apply_layer, empty, hide};

/// Puts an OCI image layout with one image, `image`, of these layers into `dir` (image-spec, image-layout.md).
fn lay_out(dir: &Path, tars: &[Vec<u8>]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let add = |bytes: &[u8], media_type: &str| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    };
    let layers: Vec<_> = tars.iter().map(|tar| add(tar, "application/vnd.oci.image.layer.v1.tar")).collect();
    let diff_ids: Vec<_> = tars.iter().map(|tar| Digest::of(tar)).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = add(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers });
    let mut manifest = add(manifest.to_string().as_bytes(), manifest_type);
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "image" });
    fs::write(dir.join("index.json"), json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// What umoci unpacks.
fn unpacked(tars: &[Vec<u8>]) -> Result<ModelFs, String> {
    let dir = TempDir::new().unwrap();
    lay_out(&dir.path().join("image"), tars);
    let image = format!("{}:image", dir.path().join("image").display());
    let output = Command::new("umoci").args(["unpack", "--image", &image]).arg(dir.path().join("bundle")).output();
    let output = output.unwrap_or_else(|error| panic!("this needs the program umoci: {error}"));
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(disk::as_model(&dir.path().join("bundle/rootfs")))
}

/// Without the times of directories: umoci's are those of its own unpacking where a later layer wrote in them, or
/// no entry names them.
fn without_directory_times(mut model: ModelFs) -> ModelFs {
    for node in model.values_mut().filter(|node| node.kind == ModelKind::Directory) {
        node.attributes.mtime = Time::default();
    }
    model
}

/// The chain less what umoci sees in its own way. For whiteouts that hide nothing, or in what is hidden anyway, it
/// makes no parents, where containerd does and so do we. Below a directory with the set-group-id bit the host gives that bit to directories
/// which no entry names; ours are 0755 wherever they are. Whiteouts come first, as tools write them: after entries below
/// what they hide umoci leaves that its old attributes. Nothing if the chain means something else then.
fn as_umoci_can(any: AnyChain) -> Option<Vec<Vec<ModelEntry>>> {
    let mut model = empty();
    let mut layers = any.layers;
    for entries in &mut layers {
        for entry in &mut *entries {
            if let ModelEntry::Node { attributes, .. } = entry {
                attributes.mode &= !0o2000;
            }
        }
        let mut left = model.clone();
        let mut hidden: Vec<Vec<u8>> = Vec::new();
        entries.retain(|entry| {
            let (ModelEntry::Whiteout { path } | ModelEntry::Opaque { path }) = entry else { return true };
            let before = left.len();
            let hides = hide(&mut left, std::slice::from_ref(entry)).is_ok() && left.len() < before;
            let is_alone = !hidden.iter().any(|other| other.starts_with(path) || path.starts_with(other));
            hidden.push(path.clone());
            hides && is_alone
        });
        entries.sort_by_key(|entry| !matches!(entry, ModelEntry::Whiteout { .. } | ModelEntry::Opaque { .. }));
        if is_tangled(&model, entries) {
            return None;
        }
        apply_layer(&mut model, entries).ok()?;
    }
    Some(layers)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn privileged_umoci_unpacks_what_the_view_shows(any in any_chain(EVERYTHING)) {
        let Some(layers) = as_umoci_can(any) else { return Ok(()) };
        let chain = Chain::lay(&layers).unwrap();
        let shown = without_directory_times(seen::as_model(&chain));
        prop_assert_eq!(Ok(shown), unpacked(&chain.tars).map(without_directory_times));
    }
}
