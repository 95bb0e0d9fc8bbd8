//! Ztocs as other releases of soci make them: the one at hand writes down all checkpoints, and says nothing of what is wanted first.

use super::made::{Indexed, SMALL, indexes, original, with_soci};
use crate::cli::image::Image;
use crate::cli::node::{Node, cat, ls};
use oncefs::digest::Digest;
use serde_json::{Value, json};

pub(crate) const SPANS: [&str; 4] = ["--min-layer-size", "100", "--span-size", "100000"];
const CHECKPOINT_BYTES: usize = 8 + 8 + 1 + (32 << 10);

/// What is at an offset of a FlatBuffer.
fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize
}

/// Where the offset to what a table's field holds is.
fn field(bytes: &[u8], table: usize, number: usize) -> usize {
    // It may lie behind the table.
    let vtable = table.checked_add_signed(-(u32_at(bytes, table) as u32 as i32) as isize).unwrap();
    table + usize::from(u16::from_le_bytes(*bytes[vtable + 4 + 2 * number..].first_chunk().unwrap()))
}

/// The ztoc as earlier releases wrote it, without the first checkpoint: the tar begins where the shortest gzip header ends.
fn without_first_checkpoint(ztoc: &[u8]) -> Vec<u8> {
    let root = u32_at(ztoc, 0);
    let compression = field(ztoc, root, 5);
    let checkpoints = field(ztoc, compression + u32_at(ztoc, compression), 3);
    let list = checkpoints + u32_at(ztoc, checkpoints);
    let (header, all) = ztoc[list + 4..][..u32_at(ztoc, list)].split_at(12);
    assert_eq!(u32_at(header, 0), all.len() / CHECKPOINT_BYTES, "soci writes another version by now");
    let zinfo = [header, &all[CHECKPOINT_BYTES..]].concat();
    let mut made = ztoc.to_vec();
    made.resize(made.len().next_multiple_of(4), 0);
    let offset = (made.len() - checkpoints) as u32;
    made[checkpoints..checkpoints + 4].copy_from_slice(&offset.to_le_bytes());
    made.extend((zinfo.len() as u32).to_le_bytes());
    made.extend(zinfo);
    made
}

impl Indexed {
    fn ztocs(&mut self) -> &mut Vec<Value> {
        self.index.as_mut().unwrap()["layers"].as_array_mut().unwrap()
    }

    /// The layer's ztoc.
    pub(crate) fn ztoc(&self, layer: usize) -> &[u8] {
        let (layer, ztocs) = (self.layer_digest(layer), self.index.as_ref().unwrap()["layers"].as_array().unwrap());
        let of_layer = |ztoc: &&Value| ztoc["annotations"]["com.amazon.soci.image-layer-digest"] == layer;
        &self.blobs[ztocs.iter().find(of_layer).unwrap()["digest"].as_str().unwrap()]
    }

    /// Has the index name other ztocs, and the manifest the index.
    pub(crate) fn replace_ztocs(&mut self, make: impl Fn(&[u8]) -> Vec<u8>) {
        for n in 0..self.ztocs().len() {
            let before = self.ztocs()[n]["digest"].as_str().unwrap().to_owned();
            let made = make(&self.blobs[&before]);
            let digest = Digest::of(&made).to_string();
            (self.ztocs()[n]["digest"], self.ztocs()[n]["size"]) = (digest.clone().into(), made.len().into());
            self.blobs.insert(digest, made);
        }
        self.bind_index();
    }
}

/// The ztoc with another mode of this entry.
pub(crate) fn with_mode(ztoc: &[u8], entry: &str, mode: u64) -> Vec<u8> {
    let follow = |at: usize| at + u32_at(ztoc, at);
    let toc = follow(field(ztoc, follow(0), 4));
    let list = follow(field(ztoc, toc, 0));
    let entries = (0..u32_at(ztoc, list)).map(|n| follow(list + 4 + 4 * n));
    let is_it = |at: &usize| {
        let name = follow(field(ztoc, *at, 0));
        &ztoc[name + 4..][..u32_at(ztoc, name)] == entry.as_bytes()
    };
    let mut made = ztoc.to_vec();
    if let Some(at) = entries.clone().find(is_it).map(|at| field(ztoc, at, 5)) {
        made[at..at + 8].copy_from_slice(&mode.to_le_bytes());
    }
    made
}

/// The original with an index whose ztocs leave out the first checkpoint.
pub(crate) fn with_first_checkpoint_implied() -> Indexed {
    let mut image = with_soci(&original(), &SPANS);
    image.replace_ztocs(without_first_checkpoint);
    image
}

#[test]
fn a_longer_gzip_header_is_an_obstacle_only_where_the_first_checkpoint_is_implied() {
    let mut image = original();
    let (header, rest) = image.layers[0].blob.split_at(10);
    // FNAME (RFC 1952, section 2.3.1).
    image.layers[0].blob = [&header[..3], &[8], &header[4..], b"layer.tar\0", rest].concat();
    let image = Image::of(&image.layers[..1]);
    let mut indexed = with_soci(&image, &SPANS);
    let node = Node::new();
    let registry = indexed.registry();
    let at = node.mount(&registry.image(), "mnt");
    assert_eq!((cat(&at.join("bin-su")), cat(&at.join(SMALL.0))), ("set-user-id\n".to_owned(), SMALL.1.to_owned()));
    assert!(indexes(&node)[0].starts_with("SOCI"));
    assert!(registry.count(indexed.layer_digest(0)).bytes < indexed.layer(0).len() / 2);
    indexed.replace_ztocs(without_first_checkpoint);
    assert!(indexed.index_of(0).is_err(), "it is said to begin elsewhere");
}

/// An index that says which spans are wanted first; as release 0.12 of soci writes it (docs/prefetch.md).
#[test]
fn spans_that_the_index_wants_first_are_frames_that_are_wanted_first() {
    let mut image = with_soci(&original(), &SPANS);
    let spans = json!({"version": "1.0", "prefetch_spans": [
        {"start_span": 4, "end_span": 6, "priority": 1}, {"start_span": 0, "end_span": 0}]});
    let spans = spans.to_string().into_bytes();
    let digest = Digest::of(&spans).to_string();
    let about = json!({"com.amazon.soci.image-layer-digest": image.layer_digest(0)});
    let artifact = json!({"mediaType": "application/vnd.amazon.soci.prefetch.v1+json", "digest": digest,
        "size": spans.len(), "annotations": about});
    // Before the ztoc, which must not be taken for it.
    image.ztocs().insert(0, artifact);
    image.blobs.insert(digest.clone(), spans);
    image.bind_index();
    assert_eq!(image.index_of(0).unwrap().unwrap().1.wanted_first(), Some(vec![0..1, 4..7]));
    assert_eq!(image.index_of(1).unwrap().unwrap().1.wanted_first(), None);

    // One that is not there, or is another, costs the hint alone.
    image.blobs.insert(digest.clone(), b"{}".to_vec());
    assert_eq!(image.index_of(0).unwrap().unwrap().1.wanted_first(), None);
    image.blobs.remove(&digest);
    let node = Node::new();
    let registry = image.registry();
    let at = node.mount(&registry.image(), "mnt");
    ls(&at);
    assert!(indexes(&node)[0].starts_with("SOCI"));
}
