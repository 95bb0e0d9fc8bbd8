//! A chain of arbitrary layers, sound ones and damaged ones, merged and asked everything. Answers come, each of them; and what sound layers say is one
//! tree: what is listed is found, below where it was listed.

use std::collections::BTreeSet;

use oncefs::digest::{DiffId, Digest};
use oncefs::index::tree::Kind;
use oncefs::index::tree::draft::{Attributes, Draft, DraftError, DraftLimits, Entry, What};
use oncefs::index::tree::format::seal;
use oncefs::index::tree::read::Tree;
use oncefs::index::tree::write::{Labels, write};
use oncefs::sync::Arc;
use oncefs::view::{LayerSlot, Lower, NodeId, View, ViewSlot};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const TARGETS: [&str; 12] =
    ["a", "b", "c/d", "/a", "/a/b", "b/c", "../b", "../../c/a", ".", "/", "c/../a", "/d/d/d/d/d/d/d/d"];

/// What is looked at of one view: enough to see everything of small chains, and to end with damaged ones.
const NODES_MAX: usize = 400;
const LISTED_MAX: usize = 1000;
const EXTENTS_MAX: usize = 64;
const LAYERS_MAX: usize = 12;
const ENTRIES_MAX: usize = 60;

/// The first byte is how many changes are made to the trees, in the last bytes of the input, four each; the rest are entries, three bytes each.
pub(crate) fn fuzz(bytes: &[u8]) {
    let Some((changes, rest)) = bytes.split_first() else { return };
    let changes = usize::from(*changes % 8).min(rest.len() / 4);
    let (entries, changes) = rest.split_at(rest.len() - changes * 4);
    let mut images: Vec<Vec<u8>> = Vec::new();
    let layers = entries.chunks_exact(3).collect::<Vec<_>>();
    for layer in layers.split(|entry| entry[0] % 16 == 0).take(LAYERS_MAX) {
        let Some(image) = image_of(layer) else { return };
        images.push(image);
    }
    for change in changes.chunks_exact(4) {
        let which = usize::from(change[0]) % images.len();
        let image = &mut images[which];
        let at = usize::from(u16::from_le_bytes([change[1], change[2]])) % image.len();
        image[at] = change[3];
        seal(image);
    }
    let lowers = images.into_iter().zip(1..).map(|(image, slot)| {
        Some(Lower { slot: LayerSlot(slot), tree: Arc::new(Tree::from_bytes(image.into()).ok()?) })
    });
    let Some(lowers) = lowers.collect::<Option<Vec<_>>>() else { return };
    if let Ok(view) = View::open(ViewSlot(7), lowers) {
        ask_everything(&view, changes.is_empty());
    }
}

/// The tree of a layer with those of these entries that it may have; none if they make no layer.
fn image_of(entries: &[&[u8]]) -> Option<Vec<u8>> {
    let (mut draft, mut kept) = (empty(), Vec::new());
    for entry in entries.iter().take(ENTRIES_MAX) {
        if act(entry, &mut draft).is_ok() {
            kept.push(entry);
            continue;
        }
        // After an error a draft is of no more use.
        draft = empty();
        kept.iter().for_each(|entry| act(entry, &mut draft).expect("what was taken is taken again"));
    }
    let file = tempfile::tempfile().expect("a temporary file");
    let labels = Labels { diff_id: DiffId(Digest::of(b"")), data_bytes: 1 << 20 };
    write(&draft.finish().ok()?, &labels, &file).ok()?;
    let tree = Tree::open(&file).expect("a sound tree");
    Some(tree.bytes(0, tree.size()).expect("all of it").to_vec())
}

fn empty() -> Draft {
    Draft::new(DraftLimits { inodes_max: 5000, kept_bytes_max: 8 << 20 })
}

/// Lets an entry act.
fn act(entry: &[u8], draft: &mut Draft) -> Result<(), DraftError> {
    let [what, path, more] = [entry[0], entry[1], entry[2]];
    let depth = usize::from(what >> 4) % 5;
    let names = |bits: u8, depth: usize| {
        (0..depth).map(|n| NAMES[usize::from(bits >> (2 * n)) % 4]).collect::<Vec<_>>().join("/")
    };
    let (dir, name) = (names(path, depth.saturating_sub(1)), NAMES[usize::from(path >> 6)]);
    let joined = |name: &str| if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
    let link = names(more, usize::from(more >> 6) + 1);
    let path = match what % 16 {
        9 | 10 => joined(&format!(".wh.{name}")),
        11 => joined(".wh..wh..opq"),
        _ if depth == 0 => String::new(),
        _ => joined(name),
    };
    let what = match what % 16 {
        4 | 5 => What::File { size: u64::from(more) * 100, at: u64::from(more) * 512 },
        6 | 7 => What::Symlink(TARGETS[usize::from(more) % TARGETS.len()].as_bytes()),
        8 => What::HardLink(link.as_bytes()),
        9..=11 => What::File { size: 0, at: 0 },
        12 => What::CharDevice(u32::from(more), 3),
        13 => What::Fifo,
        _ => What::Directory,
    };
    let attributes = Attributes { mode: 0o755, ..Attributes::default() };
    draft.apply(Entry { path: path.as_bytes(), attributes, what })
}

fn ask_everything(view: &View, is_sound: bool) {
    let (mut seen, mut todo) = (BTreeSet::new(), vec![view.root()]);
    while let Some(dir) = todo.pop() {
        if !seen.insert(dir) || seen.len() > NODES_MAX {
            continue;
        }
        let (listed, parent) = (view.list(dir), view.parent(dir));
        assert!(!is_sound || (listed.is_ok() && parent.is_ok()), "{listed:?} {parent:?}");
        let _ = view.lookup(dir, b"not there");
        let Ok(listed) = listed else { continue };
        let mut last = 0;
        for item in listed.after(0).into_iter().flatten().map_while(Result::ok).take(LISTED_MAX) {
            let found = view.lookup(dir, item.name);
            if is_sound {
                let found = found.as_ref().ok().and_then(Option::as_ref).expect("what is listed is found");
                assert_eq!((found.id, found.kind), (item.id, item.kind));
                assert!(item.offset > last, "a reader would not get on");
            }
            last = item.offset;
            let node = view.node_of(dir, &item);
            assert!(!is_sound || node.is_ok_and(|node| node.kind == item.kind));
            if item.kind == Kind::Directory {
                todo.push(item.id);
                assert!(
                    !is_sound || view.parent(item.id).is_ok_and(|parent| parent == dir),
                    "it lies where it was found"
                );
            }
            ask(view, item.id);
        }
    }
}

fn ask(view: &View, id: NodeId) {
    let _ = (view.node(id), view.xattrs(id), view.xattr(id, b"user.x"), view.target(id));
    let Ok((lower, nid)) = view.file(id) else { return };
    let mut at = 0;
    for _ in 0..EXTENTS_MAX {
        let Ok(extent) = lower.tree.extent(nid, at) else { break };
        assert!(extent.len > 0, "a reader would not get on");
        at += extent.len;
    }
}
