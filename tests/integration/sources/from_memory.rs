//! An indexed image read without a registry or a mount: what its index says, as text that two sources can be compared by.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use oncefs::blob::{Beside, BlobError, Layered, Referrer};
use oncefs::digest::{Checked, DiffId, Digest, FrameDigest, LayerDigest, check_frame};
use oncefs::index::codec;
use oncefs::index::frames::{Frame, FrameId, Frames};
use oncefs::index::scan::Limits;
use oncefs::index::sources::{self, Beliefs, Declined};
use oncefs::index::tree::read::Tree;
use oncefs::index::tree::{Kind, Nid, Place};

use super::made::{Indexed, TABLES_ENDING};
use crate::index::made;

/// A layer as an index gives it, with all frames decoded, each alone.
pub(crate) struct Whole {
    pub(crate) tree: Tree,
    pub(crate) frames: Frames,
    pub(crate) data: Vec<u8>,
}

impl Indexed {
    pub(crate) fn layered(&self, n: usize) -> Layered {
        let layer = &self.manifest["layers"][n];
        let config: serde_json::Value =
            serde_json::from_slice(&self.blobs[self.manifest["config"]["digest"].as_str().unwrap()]).unwrap();
        let of_all = self.manifest["annotations"].as_object().into_iter().flatten();
        let annotations = layer["annotations"].as_object().into_iter().flatten().chain(of_all);
        Layered {
            digest: LayerDigest(self.layer_digest(n).parse().unwrap()),
            diff_id: DiffId(config["rootfs"]["diff_ids"][n].as_str().unwrap().parse().unwrap()),
            size: layer["size"].as_u64().unwrap(),
            media_type: layer["mediaType"].as_str().unwrap().to_owned(),
            annotations: annotations.map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned())).collect(),
        }
    }

    pub(crate) fn layers(&self) -> usize {
        self.manifest["layers"].as_array().unwrap().len()
    }

    /// What the layer's index says, if it has one: the frames are not decoded.
    pub(crate) fn index_of(&self, n: usize) -> Result<Option<(Tree, Frames)>, Declined> {
        let (blob, parts) = (made::in_memory(self.layer(n)), made::parts());
        let layer = self.layered(n);
        // Whatever lies beside the image is believed.
        let beliefs = Beliefs { keys: &[], unsigned: Some(Digest::of(self.manifest.to_string().as_bytes())) };
        let read = made::block_on(sources::read(&layer, &blob, self, &beliefs, &parts, &Limits::default()))?;
        let opened = |_| (Tree::open(&parts.tree).unwrap(), Frames::open(&parts.frames).unwrap());
        Ok(read.map(opened))
    }

    pub(crate) fn whole(&self, n: usize) -> Option<Whole> {
        let (tree, frames) = self.index_of(n).unwrap()?;
        tree.check().unwrap();
        let mut data = vec![0; frames.heading().data_bytes as usize];
        for id in (0..frames.len()).map(FrameId) {
            let frame = frames.get(id).unwrap();
            let decoded = decode(&frame, self.layer(n)).unwrap_or_else(|cause| panic!("{id:?}: {cause}"));
            data[frame.data.start as usize..frame.data.end as usize].copy_from_slice(decoded.get());
        }
        Some(Whole { tree, frames, data })
    }
}

/// The layer as a scan has it.
pub(crate) fn scanned(layer: &Layered, blob: &[u8]) -> Whole {
    let parts = made::parts();
    made::scan_into(layer, &made::in_memory(blob), &parts, &Limits::default()).unwrap();
    let (tree, frames) = (Tree::open(&parts.tree).unwrap(), Frames::open(&parts.frames).unwrap());
    Whole { tree, frames, data: made::content(&parts.data) }
}

/// A frame's bytes, from nothing but its own part of the blob, as the store has them: checked.
pub(crate) fn decode(frame: &Frame, blob: &[u8]) -> Result<Checked<Vec<u8>>, String> {
    let source = &blob[frame.source.start as usize..frame.source.end as usize];
    let decode = |mut source: &[u8]| {
        let mut out = Vec::new();
        codec::decode(frame, &mut source, &mut out).map(|()| out).map_err(|error| error.to_string())
    };
    match frame.digest {
        FrameDigest::Source(_) => check_frame(source, &frame.digest).map_err(|error| error.to_string())?.derive(decode),
        _ => check_frame(decode(source)?, &frame.digest).map_err(|error| error.to_string()),
    }
}

impl Whole {
    /// A line a name: all that a user could see of it, files by the digest of their content.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |path: &[u8], nid: Nid| {
            let node = self.tree.node(nid).unwrap();
            let what = match node.kind {
                Kind::File => format!("{} {}", node.size, self.content(nid, node.size)),
                Kind::Symlink => String::from_utf8_lossy(self.tree.target(nid).unwrap()).into_owned(),
                Kind::CharDevice | Kind::BlockDevice => format!("{:?}", node.device),
                _ => String::new(),
            };
            let mut xattrs = self.tree.xattrs(nid).unwrap();
            xattrs.sort();
            let path = String::from_utf8_lossy(path).into_owned();
            let (owner, links) = ((node.uid, node.gid), node.nlink);
            format!("/{path} {:?} {:04o} {owner:?} {:?} {links} {what} {xattrs:?}", node.kind, node.mode, node.mtime)
        };
        self.tree.walk().map(|visited| visited.unwrap()).map(|visited| line(&visited.path, visited.nid)).collect()
    }

    fn content(&self, file: Nid, size: u64) -> Digest {
        let mut content = Vec::new();
        while (content.len() as u64) < size {
            let extent = self.tree.extent(file, content.len() as u64).unwrap();
            let len = extent.len.min(size - content.len() as u64) as usize;
            assert!(len > 0);
            match extent.place {
                Place::Data(at) => content.extend_from_slice(&self.data[at as usize..at as usize + len]),
                Place::Tree(at) => content.extend_from_slice(self.tree.bytes(at, len as u64).unwrap()),
                Place::Hole => content.resize(content.len() + len, 0),
            }
        }
        Digest::of(&content)
    }
}

/// What lies in the registry beside the image.
impl Beside for Indexed {
    fn manifest(&self, digest: Digest) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        let index = self.index.as_ref().map(|index| index.to_string().into_bytes());
        let found = index.filter(|bytes| Digest::of(bytes) == digest);
        Box::pin(async move { found.map(Bytes::from).ok_or(BlobError::NotFound(digest.to_string())) })
    }

    fn called<'a>(&'a self, ending: &'a str) -> BoxFuture<'a, Result<Bytes, BlobError>> {
        let found = self.tables.as_ref().filter(|_| ending == TABLES_ENDING).map(|manifest| manifest.to_string());
        Box::pin(async move { found.map(Bytes::from).ok_or(BlobError::NotFound(ending.to_owned())) })
    }

    fn blob(&self, digest: Digest, _: u64) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        let found = self.blobs.get(&digest.to_string()).cloned();
        Box::pin(async move { found.map(Bytes::from).ok_or(BlobError::NotFound(digest.to_string())) })
    }

    fn referrers(&self) -> BoxFuture<'_, Result<Arc<[Referrer]>, BlobError>> {
        let index = self.index.as_ref().filter(|index| index["subject"].is_object());
        let of_index = |index: &serde_json::Value| {
            let bytes = index.to_string().into_bytes();
            let artifact_type = index["config"]["mediaType"].as_str().unwrap().to_owned();
            let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
            Referrer { digest, size, artifact_type, annotations: Default::default() }
        };
        let referrers = index.into_iter().map(of_index).collect();
        Box::pin(async move { Ok(referrers) })
    }
}
