//! Images whose own manifest binds the index of each of their layers: the layers are the same, the manifest is a new one.

use bytes::Bytes;
use serde_json::{Value, json};

use super::publish::{PublishError, Pushed};
use super::{Image, Images};
use crate::digest::Digest;
use crate::index::published::artifact::{BOUND_DIGEST, BOUND_SIZE, Listed, Subject};
use crate::index::published::signature::SigningKey;
use crate::registry::{Remote, Tag};
use crate::sync::Arc;

/// Docker's media types, whose manifests have no annotations, and what OCI calls the same.
const SAME: [(&str, &str); 4] = [
    ("application/vnd.docker.distribution.manifest.v2+json", MANIFEST),
    ("application/vnd.docker.container.image.v1+json", "application/vnd.oci.image.config.v1+json"),
    ("application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.oci.image.layer.v1.tar+gzip"),
    ("application/vnd.docker.image.rootfs.diff.tar", "application/vnd.oci.image.layer.v1.tar"),
];
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Images {
    /// Whether the image may be pushed as `to`: never as itself, and in another's place only where that is wanted.
    ///
    /// # Errors
    /// Says why not, before anything is scanned for it.
    pub async fn may_convert(&self, image: &Image, to: &Remote, is_forced: bool) -> Result<(), PublishError> {
        let tag = tag_of(to)?;
        self.may_publish(image)?;
        let of_image = image.reference.parse::<Remote>().ok();
        if of_image.is_some_and(|of_image| of_image.repository == to.repository && of_image.tag == to.tag) {
            return Err(PublishError::Itself(to.to_string()));
        }
        if !is_forced && self.shared.registry.is_tagged(tag, &to.origin()).await? {
            return Err(PublishError::Taken(to.to_string()));
        }
        Ok(())
    }

    /// Pushes the image as `to` with a manifest that binds its layers' indexes. Says the new manifest's digest.
    pub async fn convert(
        &self,
        image: &Arc<Image>,
        to: &Remote,
        key: Option<&SigningKey>,
    ) -> Result<(Digest, Pushed), PublishError> {
        let (registry, origin) = (&self.shared.registry, to.origin());
        let tag = tag_of(to)?;
        let (indexes, sent_bytes) = self.push_indexes(image, &origin).await?;
        if origin != image.origin {
            let layers = image.layers.iter().map(|layer| layer.digest.0);
            for blob in layers.chain([Digest::of(&image.config)]) {
                registry.mount_blob(blob, &image.origin, &origin).await?;
            }
        }
        let manifest = registry.manifest(image.manifest_digest, &image.origin).await?;
        let manifest = bind(&manifest, &indexes).ok_or(PublishError::Manifest)?;
        let subject =
            Subject { media_type: MANIFEST.to_owned(), digest: Digest::of(&manifest), size: manifest.len() as u64 };
        registry.push_manifest(tag.as_str(), manifest, &origin).await?;
        // It keeps the blobs from being taken for garbage, and is what `oncefs index ls` finds.
        let index = self.push_artifact(image, &subject, indexes, key, &origin).await?;
        Ok((subject.digest, Pushed { index, sent_bytes }))
    }
}

fn tag_of(to: &Remote) -> Result<&Tag, PublishError> {
    to.tag.as_ref().filter(|_| to.digest.is_none()).ok_or(PublishError::NoTag)
}

/// The manifest with each layer bound to its index.
fn bind(manifest: &[u8], indexes: &[Listed]) -> Option<Bytes> {
    let mut manifest: Value = serde_json::from_slice(manifest).ok()?;
    let document = manifest.as_object_mut()?;
    document.insert("mediaType".to_owned(), MANIFEST.into());
    rename(document.get_mut("config")?);
    for layer in document.get_mut("layers")?.as_array_mut()? {
        rename(layer);
        let digest = layer.get("digest")?.as_str()?.to_owned();
        let index = indexes.iter().find(|index| index.layer.to_string() == digest)?;
        let annotations = layer.as_object_mut()?.entry("annotations").or_insert_with(|| json!({})).as_object_mut()?;
        annotations.insert(BOUND_DIGEST.to_owned(), index.digest.to_string().into());
        annotations.insert(BOUND_SIZE.to_owned(), index.size.to_string().into());
    }
    Some(manifest.to_string().into())
}

fn rename(descriptor: &mut Value) {
    let is = descriptor.get("mediaType").and_then(Value::as_str);
    let oci = SAME.iter().find(|(docker, _)| is == Some(docker)).map(|(_, oci)| *oci);
    if let (Some(oci), Some(descriptor)) = (oci, descriptor.as_object_mut()) {
        descriptor.insert("mediaType".to_owned(), oci.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::LayerDigest;

    #[test]
    fn a_manifest_of_docker_becomes_one_of_oci_whose_layers_are_bound() {
        let layer = Digest::of(b"layer");
        let docker = json!({
            "schemaVersion": 2, "mediaType": SAME[0].0,
            "config": {"mediaType": SAME[1].0, "digest": Digest::of(b"config"), "size": 3},
            "layers": [{"mediaType": SAME[2].0, "digest": layer, "size": 5}],
        });
        let index = Listed { layer: LayerDigest(layer), digest: Digest::of(b"index"), size: 9 };
        let bound = bind(docker.to_string().as_bytes(), &[index]).unwrap();
        let want = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": SAME[1].1, "digest": Digest::of(b"config"), "size": 3},
            "layers": [{"mediaType": SAME[2].1, "digest": layer, "size": 5, "annotations": {
                BOUND_DIGEST: Digest::of(b"index").to_string(), BOUND_SIZE: "9",
            }}],
        });
        assert_eq!(serde_json::from_slice::<Value>(&bound).unwrap(), want);
        assert_eq!(bind(docker.to_string().as_bytes(), &[]), None, "a layer without an index");
    }
}
