//! Which FUSE mounts the servers of a run directory have made: their device numbers, in `<run>/devices`.
//!
//! The kernel's table does not say whose a mount is, and what a killed server left must be found when the next one has
//! taken its place.

use std::io;
use std::path::Path;

use super::MOUNT_KIND;
use crate::sys::mount;

/// Major and minor number.
type Device = (u32, u32);

const NAME: &str = "devices";

/// Adds a mount, and leaves out those that are gone. Two at once would lose one.
pub(super) fn note(run: &Path, device: Device) -> io::Result<()> {
    let table = mount::table()?;
    // The next server goes on with a mount, and the kernel gives numbers again.
    let is_another =
        |noted: &Device| *noted != device && table.iter().any(|at| at.device == *noted && at.kind == MOUNT_KIND);
    let mut devices: Vec<Device> = noted(run)?.into_iter().filter(is_another).collect();
    devices.push(device);
    let lines: String = devices.iter().map(|(major, minor)| format!("{major}:{minor}\n")).collect();
    let new = run.join(format!("{NAME}.new"));
    std::fs::write(&new, lines)?;
    std::fs::rename(new, run.join(NAME))
}

/// Of living servers and dead ones. The kernel may have given the number of a mount that is gone to another's.
pub fn noted(run: &Path) -> io::Result<Vec<Device>> {
    let lines = match std::fs::read_to_string(run.join(NAME)) {
        Ok(lines) => lines,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let device =
        |line: &str| line.split_once(':').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    Ok(lines.lines().filter_map(device).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_left_out_and_what_nobody_understands_passed_over() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(noted(run.path()).unwrap(), []);
        std::fs::write(run.path().join(NAME), "0:1\nnonsense\n9:9:9\n4294967296:1\n").unwrap();
        assert_eq!(noted(run.path()).unwrap(), [(0, 1)]);
        // No FUSE mount has this number.
        note(run.path(), (7, 4_000_000)).unwrap();
        assert_eq!(noted(run.path()).unwrap(), [(7, 4_000_000)]);
    }
}
