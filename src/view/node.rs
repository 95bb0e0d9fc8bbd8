//! Node ids: what the kernel knows our files and directories by, 64 bits that say where to find them.
//!
//! Pure functions both ways, so an id means the same in the next process, and forgetting one is nothing to do.
//!
//! ```text
//! everything's root        1
//! file and all the others  0 | layer slot (31 bits) | nid (32 bits)                 the same in every view
//! directory                1 | view slot (23 bits) | place in the chain (8 bits) | nid (32 bits)
//! ```
//!
//! A directory is named by the topmost of the layers' directories that it is merged from, and belongs to its view: two
//! views over one layer merge it with different ones. Anything else *is* the layer's node.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::index::tree::Nid;

/// A layer's number on this node, from 1 on, handed out by the store's database and never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerSlot(pub u32);

/// A view's number on this node, handed out by the store's database and never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ViewSlot(pub u32);

/// What the kernel calls a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// What a node id says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The root of the FUSE mount, which no view knows.
    Everything,
    /// A node of one layer, no directory.
    File(LayerSlot, Nid),
    /// The directory of a view whose topmost contributor is this one of the chain's `layer`-th layer.
    Directory { view: ViewSlot, layer: u8, nid: Nid },
}

/// Layers a chain may have: what the 8 bits hold. Docker stops at 127.
pub const LAYERS_MAX: usize = 1 << LAYER_BITS;

/// The largest view slot an id can hold.
pub const VIEW_SLOT_MAX: u32 = (1 << VIEW_BITS) - 1;

/// The largest layer slot an id can hold.
pub const LAYER_SLOT_MAX: u32 = (1 << 31) - 1;

const NID_BITS: u32 = 32;
const LAYER_BITS: u32 = 8;
const VIEW_BITS: u32 = 23;
const DIRECTORY: u64 = 1 << 63;

// === impl NodeId ===

impl NodeId {
    /// The root of the FUSE mount; the kernel insists on 1.
    pub const EVERYTHING: Self = Self(1);

    pub fn file(slot: LayerSlot, nid: Nid) -> Self {
        Self(u64::from(slot.0 & LAYER_SLOT_MAX) << NID_BITS | u64::from(nid.0))
    }

    pub fn directory(view: ViewSlot, layer: u8, nid: Nid) -> Self {
        let view = u64::from(view.0 & VIEW_SLOT_MAX) << (LAYER_BITS + NID_BITS);
        Self(DIRECTORY | view | u64::from(layer) << NID_BITS | u64::from(nid.0))
    }

    /// What the id says, if it can be one of ours.
    pub fn meaning(self) -> Option<Meaning> {
        let nid = Nid(low_bits(self.0));
        if self == Self::EVERYTHING {
            return Some(Meaning::Everything);
        }
        let above = self.0 >> NID_BITS;
        if self.0 & DIRECTORY == 0 {
            return (above > 0).then(|| Meaning::File(LayerSlot(low_bits(above)), nid));
        }
        let [layer, ..] = above.to_le_bytes();
        let view = ViewSlot(low_bits(above >> LAYER_BITS) & VIEW_SLOT_MAX);
        Some(Meaning::Directory { view, layer, nid })
    }
}

/// The lower half of a word.
fn low_bits(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.meaning() {
            Some(meaning) => write!(f, "{self} = {meaning:?}"),
            None => write!(f, "{self} = nothing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bits_lie_where_the_picture_says() {
        assert_eq!(NodeId::file(LayerSlot(3), Nid(5)).0, 0x0000_0003_0000_0005);
        assert_eq!(NodeId::directory(ViewSlot(2), 7, Nid(9)).0, 0x8000_0207_0000_0009);
        assert_eq!(NodeId(0).meaning(), None);
        assert_eq!(NodeId(2).meaning(), None);
        assert_eq!(NodeId(1).meaning(), Some(Meaning::Everything));
    }

    proptest! {
        #[test]
        fn an_id_says_what_it_was_made_of(slot in 1..=LAYER_SLOT_MAX, view in 0..=VIEW_SLOT_MAX, layer: u8, nid: u32) {
            let (slot, view, nid) = (LayerSlot(slot), ViewSlot(view), Nid(nid));
            prop_assert_eq!(NodeId::file(slot, nid).meaning(), Some(Meaning::File(slot, nid)));
            let meaning = Meaning::Directory { view, layer, nid };
            prop_assert_eq!(NodeId::directory(view, layer, nid).meaning(), Some(meaning));
        }

        #[test]
        fn any_number_is_one_meaning_or_none(id: u64) {
            let again = match NodeId(id).meaning() {
                None => return Ok(()),
                Some(Meaning::Everything) => NodeId::EVERYTHING,
                Some(Meaning::File(slot, nid)) => NodeId::file(slot, nid),
                Some(Meaning::Directory { view, layer, nid }) => NodeId::directory(view, layer, nid),
            };
            prop_assert_eq!(again, NodeId(id));
        }
    }
}
