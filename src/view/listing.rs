//! What a merged directory holds, in the order of the names' bytes, each with the offset where to go on after it.
//!
//! A directory of one part is listed straight from that layer's tree: nothing is copied, nothing remembered. One of several
//! is merged once into a compact [`Listing`], and again into the same one should the cache have lost it, so offsets
//! mean the same for ever.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use crate::index::tree::read::{Child, List};
use crate::index::tree::{Kind, Nid};
use crate::sync::Arc;
use crate::view::merge::{Chain, Contest, Found, Link, Part, Winner, is_virtual};
use crate::view::node::NodeId;
use crate::view::{Entry, ViewError};

/// A directory's children.
#[derive(Debug)]
pub struct Merged {
    chain: Arc<Chain>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Straight(Part),
    Listing(Arc<Listing>),
}

/// A child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<'a> {
    pub name: &'a [u8],
    pub id: NodeId,
    pub kind: Kind,
    /// What [`Merged::after`] wants to go on behind this one; never 0.
    pub offset: u64,
}

/// The children from an offset on.
#[derive(Debug)]
pub struct Items<'a>(Source<'a>);

#[derive(Debug)]
enum Source<'a> {
    Straight { chain: &'a Chain, link: &'a Link, list: List<'a> },
    Listing { listing: &'a Listing, next: usize },
}

/// Children of several parts, merged.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// All names, one after the other.
    names: Vec<u8>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    id: NodeId,
    /// Where the name ends; it begins where the one before ends.
    name_end: u32,
    kind: Kind,
}

// === impl Merged ===

impl Merged {
    /// Of one part of a tree: nothing to merge.
    pub(super) fn straight(chain: Arc<Chain>, part: Part) -> Self {
        Self { chain, content: Content::Straight(part) }
    }

    pub(super) fn listed(chain: Arc<Chain>, listing: Arc<Listing>) -> Self {
        Self { chain, content: Content::Listing(listing) }
    }

    /// The children behind `offset`: 0 for all, or an [`Item::offset`] of this directory.
    pub fn after(&self, offset: u64) -> Result<Items<'_>, ViewError> {
        Ok(Items(match &self.content {
            Content::Straight(part) => {
                let link = self.chain.of(*part)?;
                Source::Straight { chain: &self.chain, link, list: link.ask(|tree| tree.list_from(part.nid, offset))? }
            }
            Content::Listing(listing) => {
                Source::Listing { listing, next: usize::try_from(offset).unwrap_or(usize::MAX) }
            }
        }))
    }
}

// === impl Items ===

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>, ViewError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Source::Straight { chain, link, list } => loop {
                let child = list.next()?;
                match chain.shown(link, child, list.offset()) {
                    Ok(None) => {}
                    Ok(Some(item)) => return Some(Ok(item)),
                    Err(error) => return Some(Err(error)),
                }
            },
            Source::Listing { listing, next } => {
                let item = listing.item(*next)?;
                *next += 1;
                Some(Ok(item))
            }
        }
    }
}

impl Chain {
    /// What of a tree's child is shown where nothing lies below it.
    fn shown<'a>(
        &self,
        link: &Link,
        child: Result<Child<'a>, crate::index::tree::read::TreeError>,
        offset: u64,
    ) -> Result<Option<Item<'a>>, ViewError> {
        let child = link.ask(|_| child)?;
        let part = Part { layer: link.layer, nid: child.nid };
        let winner = Contest::default().hear(part, link.judge(child.nid, child.kind)?);
        let entry = winner.and_then(|winner| self.entry(winner));
        Ok(entry.map(|Entry { id, kind }| Item { name: child.name, id, kind, offset }))
    }

    /// What the kernel is told of who won a name.
    pub(super) fn entry(&self, winner: Winner) -> Option<Entry> {
        match winner {
            Winner::Nobody => None,
            Winner::Directory(part) => Some(Entry { id: self.id_of(part), kind: Kind::Directory }),
            Winner::Leaf(leaf) => {
                let link = self.link(leaf.layer)?;
                Some(Entry { id: NodeId::file(link.lower.slot, leaf.nid), kind: leaf.kind })
            }
        }
    }
}

// === impl Listing ===

impl Listing {
    /// Merges the children of `parts`.
    pub(super) fn merge(chain: &Chain, parts: &[Part]) -> Result<Self, ViewError> {
        let mut heads = BinaryHeap::with_capacity(parts.len());
        for (order, part) in parts.iter().enumerate() {
            heads.extend(Head::first(chain, *part, order)?.map(Reverse));
        }
        let mut listing = Self::default();
        while let Some(Reverse(Head { name, .. })) = heads.peek() {
            let name = *name;
            let mut contest = Contest::default();
            let mut winner = None;
            while let Some(mut head) = heads.peek_mut().filter(|head| head.0.name == name) {
                if winner.is_none() {
                    winner = contest.hear(head.0.part, head.0.found(chain)?);
                }
                if !head.0.advance(chain)? {
                    PeekMut::pop(head);
                }
            }
            if let Some(entry) = winner.and_then(|winner| chain.entry(winner)) {
                listing.push(name, entry)?;
            }
        }
        listing.names.shrink_to_fit();
        listing.rows.shrink_to_fit();
        Ok(listing)
    }

    fn push(&mut self, name: &[u8], entry: Entry) -> Result<(), ViewError> {
        self.names.extend_from_slice(name);
        let name_end = u32::try_from(self.names.len()).map_err(|_| ViewError::TooManyNames)?;
        self.rows.push(Row { id: entry.id, name_end, kind: entry.kind });
        Ok(())
    }

    fn item(&self, at: usize) -> Option<Item<'_>> {
        let row = self.rows.get(at)?;
        let start = at.checked_sub(1).and_then(|before| self.rows.get(before)).map_or(0, |before| before.name_end);
        let name = self.names.get(start as usize..row.name_end as usize)?;
        Some(Item { name, id: row.id, kind: row.kind, offset: at as u64 + 1 })
    }

    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.names.capacity() + self.rows.capacity() * size_of::<Row>()
    }
}

// === merging ===

/// A part's next child.
struct Head<'a> {
    name: &'a [u8],
    /// Among the parts, top down: of equal names the upper comes first.
    order: usize,
    part: Part,
    nid: Nid,
    kind: Kind,
    rest: Rest<'a>,
}

enum Rest<'a> {
    Tree(List<'a>),
    Virtual(Box<dyn Iterator<Item = (&'a [u8], Nid)> + 'a>),
}

impl<'a> Head<'a> {
    fn first(chain: &'a Chain, part: Part, order: usize) -> Result<Option<Self>, ViewError> {
        let link = chain.of(part)?;
        let rest = match &link.patch {
            Some(patch) if is_virtual(part.nid) => Rest::Virtual(Box::new(patch.children(part.nid))),
            _ => Rest::Tree(link.ask(|tree| tree.list(part.nid))?),
        };
        let mut head = Self { name: &[], order, part, nid: part.nid, kind: Kind::Directory, rest };
        Ok(head.advance(chain)?.then_some(head))
    }

    /// Goes to the next child; says whether there is one.
    fn advance(&mut self, chain: &Chain) -> Result<bool, ViewError> {
        let next = match &mut self.rest {
            Rest::Virtual(children) => children.next().map(|(name, nid)| Child { name, nid, kind: Kind::Directory }),
            Rest::Tree(list) => match list.next() {
                None => None,
                Some(child) => Some(chain.of(self.part)?.ask(|_| child)?),
            },
        };
        let Some(child) = next else { return Ok(false) };
        (self.name, self.nid, self.kind) = (child.name, child.nid, child.kind);
        Ok(true)
    }

    fn found(&self, chain: &Chain) -> Result<Found, ViewError> {
        if is_virtual(self.nid) {
            Ok(Found::Directory(self.nid))
        } else {
            chain.of(self.part)?.judge(self.nid, self.kind)
        }
    }
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head<'_> {}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.name, self.order).cmp(&(other.name, other.order))
    }
}
