//! Tars for the layers of these tests: made by GNU tar from real directories, or entry by entry.

use std::path::Path;
use std::process::Command;

/// What GNU tar makes of a directory, with all that pax headers can say.
pub(super) fn of_directory(directory: &Path) -> Vec<u8> {
    let output = Command::new("tar")
        .args(["--format=posix", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--sparse", "-cC"])
        .arg(directory)
        .arg(".")
        .output()
        .expect("this test needs GNU tar");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Entries one by one.
pub(super) struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub(super) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub(super) fn file(mut self, path: &str, content: &[u8]) -> Self {
        self.add(tar::EntryType::Regular, path, 0o644, content);
        self
    }

    pub(super) fn directory(mut self, path: &str) -> Self {
        self.add(tar::EntryType::Directory, path, 0o755, b"");
        self
    }

    pub(super) fn program(mut self, path: &str, content: &[u8]) -> Self {
        self.add(tar::EntryType::Regular, path, 0o755, content);
        self
    }

    pub(super) fn symlink(mut self, path: &str, target: &str) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    /// A file with extended attributes as container tools write them.
    pub(super) fn file_with(
        mut self,
        path: &str,
        content: &[u8],
        mode: u32,
        gid: u64,
        xattrs: &[(&str, &[u8])],
    ) -> Self {
        let names: Vec<String> = xattrs.iter().map(|(name, _)| format!("SCHILY.xattr.{name}")).collect();
        let pax = names.iter().zip(xattrs).map(|(name, (_, value))| (name.as_str(), *value));
        self.0.append_pax_extensions(pax).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_mode(mode);
        header.set_gid(gid);
        header.set_size(content.len() as u64);
        self.0.append_data(&mut header, path, content).unwrap();
        self
    }

    pub(super) fn owned(mut self, path: &str, content: &[u8], mode: u32, (user, group): (u64, u64)) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_uid(user);
        header.set_gid(group);
        header.set_size(content.len() as u64);
        self.0.append_data(&mut header, path, content).unwrap();
        self
    }

    fn add(&mut self, kind: tar::EntryType, path: &str, mode: u32, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        self.0.append_data(&mut header, path, content).unwrap();
    }

    pub(super) fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// Bytes that do not repeat, different for each seed.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed * 2 + 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13; // xorshift64
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
