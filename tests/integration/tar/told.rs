//! What is in a file system, told alike of one on disk and of one in a tree, so that they can be compared.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use oncefs::digest::{DiffId, Digest};
use oncefs::index::tar::{Parser, TarError, TarLimits};
use oncefs::index::tree::draft::{Draft, DraftLimits};
use oncefs::index::tree::read::Tree;
use oncefs::index::tree::write::{Labels, write};
use oncefs::index::tree::{IMPLIED, Kind, LOWER_LINK, Nid, OPAQUE, Place};
use rustix::fs::{lgetxattr, llistxattr, major, minor};

/// A line or a few for each path.
pub(crate) type Told = BTreeMap<Vec<u8>, String>;

/// A layer's tree beside the tar it was made from.
pub(crate) struct Layer {
    pub(crate) tree: Tree,
    tar: Vec<u8>,
}

/// Of files larger than this only the start, the middle and the end are compared.
const WHOLE_MAX: u64 = 16 << 20;
const SAMPLE: u64 = 1 << 20;

// === of a tar ===

pub(crate) fn layer_of(tar: Vec<u8>) -> Result<Layer, TarError> {
    let (mut parser, mut draft) = (Parser::new(TarLimits::default()), Draft::new(DraftLimits::default()));
    for chunk in tar.chunks(10_007) {
        parser.push(chunk, &mut draft)?;
    }
    parser.finish()?;
    let source = draft.finish().unwrap();
    let file = tempfile::tempfile().unwrap();
    let labels = Labels { diff_id: DiffId(Digest::of(&tar)), data_bytes: tar.len() as u64 };
    write(&source, &labels, &file).unwrap();
    Ok(Layer { tree: Tree::open(&file).unwrap(), tar })
}

impl Layer {
    pub(crate) fn told(&self) -> Told {
        let mut first_names: BTreeMap<Nid, Vec<u8>> = BTreeMap::new();
        self.tree
            .walk()
            .map(|visited| {
                let visited = visited.unwrap();
                let first = first_names.entry(visited.nid).or_insert_with(|| visited.path.clone()).clone();
                (visited.path, self.tell(visited.nid, &first))
            })
            .collect()
    }

    fn tell(&self, nid: Nid, first: &[u8]) -> String {
        let node = self.tree.node(nid).unwrap();
        let content = match node.kind {
            Kind::File => content(node.size, |at, len| self.read(nid, at, len)),
            Kind::Symlink => self.tree.target(nid).unwrap().escape_ascii().to_string(),
            Kind::CharDevice | Kind::BlockDevice => format!("{:?}", node.device),
            _ => String::new(),
        };
        let links = if node.kind == Kind::Directory { 0 } else { node.nlink };
        let marks = [IMPLIED, OPAQUE, LOWER_LINK];
        let xattrs = self.tree.xattrs(nid).unwrap().into_iter().filter(|(name, _)| !marks.contains(&&**name)).collect();
        let time = (node.mtime.seconds, i64::from(node.mtime.nanos));
        line(&format!("{:?}", node.kind), node.mode, node.uid, node.gid, time, links, first, &content, xattrs)
    }

    fn read(&self, nid: Nid, from: u64, len: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            let extent = self.tree.extent(nid, from + bytes.len() as u64).unwrap();
            let part = extent.len.min(len - bytes.len() as u64);
            match extent.place {
                Place::Data(at) => bytes.extend_from_slice(&self.tar[at as usize..(at + part) as usize]),
                Place::Tree(at) => bytes.extend_from_slice(self.tree.bytes(at, part).unwrap()),
                Place::Hole => bytes.resize(bytes.len() + part as usize, 0),
            }
        }
        bytes
    }
}

// === of a directory ===

pub(crate) fn told_of(dir: &Path) -> Told {
    let mut paths = vec![Vec::new()];
    let mut todo = vec![dir.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            }
            paths.push(entry.path().strip_prefix(dir).unwrap().as_os_str().as_bytes().to_vec());
        }
    }
    // In the order in which a walk of a tree meets them: by components, not by the bytes of paths.
    paths.sort_by_key(|path| path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>());
    let mut first_names = BTreeMap::new();
    let tell = |path: Vec<u8>| {
        let on_disk = dir.join(OsStr::from_bytes(&path));
        let inode = fs::symlink_metadata(&on_disk).unwrap().ino();
        let first = first_names.entry(inode).or_insert_with(|| path.clone()).clone();
        let told = tell_of(&on_disk, &first);
        (path, told)
    };
    paths.into_iter().map(tell).collect()
}

fn tell_of(path: &Path, first: &[u8]) -> String {
    let (meta, mut links) = (fs::symlink_metadata(path).unwrap(), 0);
    let kind = meta.file_type();
    let device = || format!("{:?}", (major(meta.rdev()), minor(meta.rdev())));
    let (kind, content) = if kind.is_dir() {
        ("Directory", String::new())
    } else if kind.is_symlink() {
        ("Symlink", fs::read_link(path).unwrap().into_os_string().into_vec().escape_ascii().to_string())
    } else if kind.is_char_device() {
        ("CharDevice", device())
    } else if kind.is_block_device() {
        ("BlockDevice", device())
    } else if kind.is_fifo() {
        ("Fifo", String::new())
    } else {
        let file = File::open(path).unwrap();
        let read = |at, len: u64| {
            let mut bytes = vec![0; len as usize];
            file.read_exact_at(&mut bytes, at).unwrap();
            bytes
        };
        ("File", content(meta.len(), read))
    };
    if kind != "Directory" {
        links = meta.nlink() as u32;
    }
    let (mode, time) = ((meta.mode() & 0o7777) as u16, (meta.mtime(), meta.mtime_nsec()));
    line(kind, mode, meta.uid(), meta.gid(), time, links, first, &content, xattrs_of(path))
}

fn xattrs_of(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 64 << 10];
    let len = llistxattr(path, &mut names).unwrap();
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let len = lgetxattr(path, name, &mut value).unwrap();
        value.truncate(len);
        (name.to_vec(), value)
    };
    names.map(value).collect()
}

// === alike ===

#[allow(clippy::too_many_arguments)] // it is a line's columns
fn line(
    kind: &str,
    mode: u16,
    uid: u32,
    gid: u32,
    (seconds, nanos): (i64, i64),
    links: u32,
    first: &[u8],
    content: &str,
    mut xattrs: Vec<(Vec<u8>, Vec<u8>)>,
) -> String {
    xattrs.sort();
    let xattrs = xattrs.iter().map(|(name, value)| format!(" {}={}", name.escape_ascii(), value.escape_ascii()));
    let (xattrs, first) = (xattrs.collect::<String>(), first.escape_ascii());
    format!("{kind} {mode:04o} {uid}:{gid} {seconds}.{nanos:09} links {links} of {first}: {content}{xattrs}")
}

fn content(size: u64, read: impl Fn(u64, u64) -> Vec<u8>) -> String {
    let bytes = match size {
        0 => Vec::new(),
        1..=WHOLE_MAX => read(0, size),
        _ => [0, size / 2, size - SAMPLE].map(|at| read(at, SAMPLE)).concat(),
    };
    format!("{size} bytes, {}", Digest::of(&bytes))
}

/// Fails with the differing lines and not with thousands of equal ones.
pub(crate) fn assert_same(got: &Told, want: &Told, what: &str) {
    let paths = got.keys().chain(want.keys()).collect::<std::collections::BTreeSet<_>>();
    let differing = paths.into_iter().filter(|path| got.get(*path) != want.get(*path));
    let lines: Vec<_> = differing
        .map(|path| format!("/{}\n   got {:?}\n  want {:?}", path.escape_ascii(), got.get(path), want.get(path)))
        .collect();
    assert!(lines.is_empty(), "{what}: {} of {} paths differ\n{}", lines.len(), want.len(), lines.join("\n"));
    assert!(want.len() > 5, "{what}: there was next to nothing to compare");
}

pub(crate) fn bytes_of(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).unwrap();
    bytes
}
