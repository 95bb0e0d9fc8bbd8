//! Trees before other people's eyes: the kernel's, `fsck.erofs`'s and `dump.erofs`'s.

mod any;
mod judged;
mod kernel;
mod limits;
mod roundtrip;

use std::ffi::CString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use oncefs::digest::{DiffId, Digest};
use oncefs::index::tree::read::Tree;
use oncefs::index::tree::write::{Labels, Source, write};
use oncefs::index::tree::{Extent, Nid, Place};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// Bytes of the data file that the trees of these tests speak of: no whole number of blocks.
const DATA_BYTES: u64 = (256 << 10) + 100;

/// A tree on disk beside its data file.
struct Laid {
    dir: TempDir,
    tree: Tree,
}

/// A tree that the kernel shows, until this is dropped.
struct Mounted {
    at: PathBuf,
}

/// The data file's byte at an offset; no two blocks are alike.
fn data_byte(at: u64) -> u8 {
    (at % 251) as u8 ^ (at / 512) as u8
}

fn lay(source: &Source) -> Laid {
    let dir = TempDir::new().unwrap();
    let bytes: Vec<u8> = (0..DATA_BYTES).map(data_byte).collect();
    let data = File::create(dir.path().join("data")).unwrap();
    data.write_all_at(&bytes, 0).unwrap();
    // The kernel reads whole blocks and takes a short read for an I/O error.
    data.set_len(DATA_BYTES.next_multiple_of(512)).unwrap();
    let file = File::options().read(true).write(true).create_new(true).open(dir.path().join("tree")).unwrap();
    let labels = Labels { diff_id: DiffId(Digest::of(b"a layer")), data_bytes: DATA_BYTES };
    write(source, &labels, &file).unwrap();
    Laid { dir, tree: Tree::open(&file).unwrap() }
}

impl Laid {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What fsck.erofs says against it, all contents read.
    fn fsck(&self) -> Result<(), String> {
        erofs_tool("fsck.erofs", "FSCK_EROFS", self, &["--extract"]).map(drop)
    }

    fn mount(&self) -> Mounted {
        let at = self.path("mounted");
        std::fs::create_dir(&at).unwrap();
        let device = [b"device=", self.path("data").as_os_str().as_bytes()].concat();
        let options = CString::new(device).unwrap();
        mount(self.path("tree"), &at, "erofs", MountFlags::RDONLY, options.as_c_str())
            .expect("mounting needs root and a kernel with file-backed EROFS (6.12 or newer)");
        Mounted { at }
    }

    /// A file's content by way of our reader.
    fn content(&self, file: Nid, size: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < size {
            let Extent { place, len } = self.tree.extent(file, bytes.len() as u64).unwrap();
            match place {
                Place::Data(at) => bytes.extend((at..at + len).map(data_byte)),
                Place::Tree(at) => bytes.extend_from_slice(self.tree.bytes(at, len).unwrap()),
                Place::Hole => bytes.resize(bytes.len() + len as usize, 0),
            }
        }
        bytes
    }
}

impl Mounted {
    fn path(&self, inside: &[u8]) -> PathBuf {
        self.at.join(Path::new(std::ffi::OsStr::from_bytes(inside)))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.at, UnmountFlags::DETACH);
    }
}

/// Runs one of the erofs-utils on a tree and gives its output; `variable` can name another than that in PATH.
fn erofs_tool(name: &str, variable: &str, laid: &Laid, arguments: &[&str]) -> Result<String, String> {
    let program = std::env::var(variable).unwrap_or_else(|_| name.to_owned());
    let device = format!("--device={}", laid.path("data").display());
    let output = Command::new(&program)
        .arg(device)
        .args(arguments)
        .arg(laid.path("tree"))
        .output()
        .unwrap_or_else(|error| panic!("{program} of erofs-utils 1.8 or newer is needed ({variable}): {error}"));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() && !said.contains("<E>") { Ok(said) } else { Err(said) }
}
