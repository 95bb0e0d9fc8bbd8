//! As large as it gets: directories of 100,000 names, names of 255 bytes, attributes of 64 KiB, files of 2^63 - 1.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use oncefs::index::tree::Kind;
use oncefs::index::tree::write::{Content, From, Inode, Piece, Source};

use super::any::{directory, file, inode};
use super::kernel::compare_all;
use super::lay;

#[test]
fn privileged_a_directory_of_100_000_names_is_whole_for_kernel_and_fsck() {
    let mut children: Vec<_> = (0..100_000).map(|n| (format!("{n:x}").into_bytes(), 1 + n % 500)).collect();
    children.extend((1..=500).map(|id| (format!("{id:0>255}").into_bytes(), id)));
    let mut inodes = vec![directory(vec![(b"many".to_vec(), 501)])];
    inodes.extend((1..=500).map(|id| file(id, vec![Piece { at: 0, len: id, from: From::Data(512 * (id % 100)) }])));
    inodes.push(directory(children));
    let laid = lay(&Source { inodes });
    assert_eq!(laid.fsck(), Ok(()));
    compare_all(&laid, &laid.mount());
}

#[test]
fn privileged_long_targets_and_attributes_cross_blocks_unharmed() {
    let mut inodes = vec![directory(Vec::new())];
    let mut children = Vec::new();
    // Each length puts what follows the inode at another place of the block.
    for len in (1..700).step_by(23).chain([447, 448, 449, 511, 512, 513, 1024, 4094, 4095]) {
        children.push((format!("l{len}").into_bytes(), inodes.len() as u32));
        inodes.push(inode(Kind::Symlink, Content::Target(vec![b'x'; len])));
    }
    for len in (0..900).step_by(37).chain([4096, 65535]) {
        children.push((format!("x{len}").into_bytes(), inodes.len() as u32));
        let xattrs = vec![(b"trusted.x".to_vec(), vec![7; len]), (b"user.y".to_vec(), vec![9; len / 2])];
        inodes.push(Inode { xattrs, ..directory(Vec::new()) });
    }
    inodes[0] = directory(children);
    let laid = lay(&Source { inodes });
    assert_eq!(laid.fsck(), Ok(()));
    compare_all(&laid, &laid.mount());
}

#[test]
fn privileged_huge_sparse_files_read_at_both_ends() {
    let whole = file(i64::MAX as u64, Vec::new());
    let at_end = vec![Piece { at: 1 << 33, len: 4096, from: From::Data(512) }];
    let names = vec![(b"hole".to_vec(), 1), (b"end".to_vec(), 2)];
    let laid = lay(&Source { inodes: vec![directory(names), whole, file((1 << 33) + 4096, at_end)] });
    let mounted = laid.mount();
    let mut read = [1; 100];
    let hole = File::open(mounted.path(b"hole")).unwrap();
    assert_eq!(hole.metadata().unwrap().len(), i64::MAX as u64);
    hole.read_exact_at(&mut read, (1 << 62) + 5).unwrap();
    assert_eq!(read, [0; 100]);
    let end = File::open(mounted.path(b"end")).unwrap();
    end.read_exact_at(&mut read, (1 << 33) + 3996).unwrap();
    assert_eq!(read[..], (4508..4608).map(super::data_byte).collect::<Vec<_>>());
    end.read_exact_at(&mut read, (1 << 33) - 100).unwrap();
    assert_eq!(read, [0; 100]);
}
