//! How far the kernel reads ahead on a file system.

use std::fs;
use std::io;

/// Sets the read-ahead of the file system with this device number, in KiB. Root only. The kernel offers FUSE 128 KiB at
/// INIT and lets nobody ask for more but here (Documentation/ABI/testing/sysfs-class-bdi).
pub fn set_read_ahead(device: (u32, u32), kib: u32) -> io::Result<()> {
    let (major, minor) = device;
    fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), kib.to_string())
}
