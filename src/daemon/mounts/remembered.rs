//! What the next server must know to go on with this one's mounts, in `<run>/remembered.json`: it lies where the mounts do, and
//! as they do it survives a process and no boot.
//!
//! It is written before the kernel can see what it tells of, and anew with each change: a file of some kilobytes that takes the
//! place of the one before. Nothing is flushed, since only a process has to die without losing it.
//!
//! It begins with its own checksum. A digit that turned would be another slot, and a mount would show another image's files. So a damaged one is
//! refused while connections are kept, as one of a newer version is: they stay kept, who reads waits, and a whole one put back is gone on with.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::State;
use crate::control::{Failure, FailureKind};
use crate::digest::{ChainId, Digest};
use crate::fuse::Options;
use crate::sync::Mutex;

/// All of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Remembered {
    version: u32,
    /// The boot that the mounts are of.
    boot: String,
    /// The number of the next connection.
    pub(super) next: u64,
    pub(super) connections: Vec<ConnectionRecord>,
    pub(super) places: Vec<PlaceRecord>,
    pub(super) views: Vec<ViewRecord>,
}

/// A FUSE mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ConnectionRecord {
    pub(super) number: u64,
    pub(super) mountpoint: PathBuf,
    /// Unknown of one that was about to be made.
    pub(super) device: Option<(u32, u32)>,
    pub(super) options: Options,
    /// Out of sight.
    pub(super) is_leaving: bool,
    /// Slots of views whose places left the sight while they were in use.
    pub(super) in_use: Vec<u32>,
}

/// Where an image is mounted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PlaceRecord {
    pub(super) at: PathBuf,
    /// Its own mount; else it is bound from root's one.
    pub(super) connection: Option<u64>,
    pub(super) device: Option<(u32, u32)>,
    pub(super) reference: String,
    pub(super) manifest: Digest,
    pub(super) slot: u32,
    /// Who asked for it has been told that it is there.
    pub(super) is_answered: bool,
}

/// A chain that is shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ViewRecord {
    pub(super) chain: ChainId,
    pub(super) slot: u32,
    /// Slots of the layers whose files the kernel may know. None, if nobody has looked into it.
    pub(super) layers: Vec<u32>,
    /// Images that it is mounted for.
    pub(super) manifests: Vec<Digest>,
    /// It is shown for containerd.
    pub(super) is_claimed: bool,
}

/// The file.
pub(super) struct Memory {
    path: PathBuf,
    boot: String,
    written: Mutex<Vec<u8>>,
}

/// Version of the file. A program reads all up to its own.
const VERSION: u32 = 1;

const NAME: &str = "remembered.json";

/// What stands before the checksum, in hex, and behind it.
const SEAL: &[u8] = b"{\"sha256\":\"";
const SEALED: &[u8] = b"\",";
const SUM_CHARS: usize = 64;

const BYTES_MAX: u64 = 64 << 20;

// === impl Memory ===

impl Memory {
    pub(super) fn at(run: &Path) -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        Self { path: run.join(NAME), boot, written: Mutex::default() }
    }

    /// What the server before wrote since the machine was booted. A damaged one is put aside, unless there is something `kept` that
    /// only it could tell of. Blocking.
    pub(super) fn read(&self, is_kept: bool) -> Result<Remembered, Failure> {
        let text = match fs::metadata(&self.path).and_then(|metadata| match metadata.len() {
            0..=BYTES_MAX => fs::read(&self.path),
            _ => Err(io::ErrorKind::FileTooLarge.into()),
        }) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Remembered::default()),
            Err(error) => return Err(self.failed(&error)),
        };
        // The version first: what else a newer one holds is not known here.
        let version = serde_json::from_slice::<serde_json::Value>(&text).ok();
        let version = version.and_then(|value| value.get("version")?.as_u64()).unwrap_or(0);
        if version > VERSION.into() {
            let why = format!("a newer oncefs wrote it (version {version}, this one knows {VERSION}); start that one");
            return Err(self.failed(&why));
        }
        match unsealed(&text) {
            Ok(remembered) if remembered.boot == self.boot => Ok(remembered),
            Ok(_of_another_boot) => Ok(Remembered::default()),
            Err(damage) if is_kept => Err(self.failed(&format!(
                "it is damaged ({damage}), and nothing else says what the kept connections show; put a whole one back, or move it away to give those \
                 mounts up"
            ))),
            Err(damage) => {
                let aside = self.path.with_extension("damaged");
                tracing::error!(path = %self.path.display(), damage, aside = %aside.display(), "what the server before had mounted is not known");
                fs::rename(&self.path, &aside).map_err(|error| self.failed(&error))?;
                Ok(Remembered::default())
            }
        }
    }

    /// Called with the state held, so that what is written last is what is so. Blocking, for a moment.
    pub(super) fn write(&self, mut remembered: Remembered) -> io::Result<()> {
        (remembered.version, remembered.boot) = (VERSION, self.boot.clone());
        let mut written = self.written.lock();
        let text = serde_json::to_vec(&remembered)?;
        if *written != text {
            let new = self.path.with_extension("new");
            fs::write(&new, sealed(&text))?;
            fs::rename(&new, &self.path)?;
            *written = text;
        }
        Ok(())
    }

    /// What a caller is told whose mount would be lost with this server.
    pub(super) fn unwritten(&self, error: &io::Error) -> Failure {
        let path = self.path.display();
        let message =
            format!("cannot note it in {path}, and it would be lost should this server die: {error}; make room there");
        Failure::new(FailureKind::Store, message)
    }

    pub(super) fn forget(&self) {
        let _not_there = fs::remove_file(&self.path);
    }

    fn failed(&self, why: &dyn std::fmt::Display) -> Failure {
        Failure::new(FailureKind::Store, format!("cannot take over the mounts in {}: {why}", self.path.display()))
    }
}

/// The object with its checksum as the first field: over all that stands behind that.
fn sealed(text: &[u8]) -> Vec<u8> {
    let rest = text.get(1..).unwrap_or_default();
    [SEAL, Digest::of(rest).hex().as_bytes(), SEALED, rest].concat()
}

/// Reads it; one without a checksum, too, as earlier versions wrote it.
fn unsealed(text: &[u8]) -> Result<Remembered, String> {
    if let Some(sealed) = text.strip_prefix(SEAL) {
        let (sum, rest) = sealed.split_at_checked(SUM_CHARS).unwrap_or_default();
        let rest = rest.strip_prefix(SEALED).unwrap_or_default();
        if sum != Digest::of(rest).hex().as_bytes() {
            return Err("its checksum does not fit".to_owned());
        }
    }
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

// === impl Remembered ===

impl Remembered {
    pub(super) fn of(state: &State, is_shown: impl Fn(crate::view::ViewSlot) -> bool) -> Self {
        let own = state.mounted.values().filter_map(|mounted| Some(mounted.own.as_ref()?.record()));
        let everything = state.everything.iter().map(|everything| ConnectionRecord {
            in_use: everything.in_use.iter().map(|slot| slot.0).collect(),
            ..everything.connection.record()
        });
        let leaving = state.leaving.iter().map(|leaving| leaving.record.clone());
        let connections = own.chain(everything).chain(leaving).chain(state.starting.connection.clone()).collect();
        let place = |(at, mounted): (&PathBuf, &super::Mounted)| PlaceRecord {
            at: at.clone(),
            connection: mounted.own.as_ref().map(|own| own.number),
            device: mounted.device,
            reference: mounted.image.reference.clone(),
            manifest: mounted.image.manifest_digest,
            slot: mounted.slot.0,
            is_answered: mounted.is_answered,
        };
        let places = state.mounted.iter().map(place).chain(state.starting.place.clone()).collect();
        let mut views = state.views();
        views.retain(|view| is_shown(crate::view::ViewSlot(view.slot)));
        Self { next: state.next_connection, connections, places, views, ..Self::default() }
    }

    /// Connections by number.
    pub(super) fn by_number(&self) -> HashMap<u64, &ConnectionRecord> {
        self.connections.iter().map(|record| (record.number, record)).collect()
    }

    /// The devices of connections other than these.
    pub(super) fn devices_but(&self, alive: &HashSet<u64>) -> HashSet<(u32, u32)> {
        let dead = self.connections.iter().filter(|record| !alive.contains(&record.number));
        dead.filter_map(|record| record.device).collect()
    }
}

// === impl State ===

impl State {
    fn views(&self) -> Vec<ViewRecord> {
        let view = |(chain, slot): (&ChainId, &crate::view::ViewSlot)| ViewRecord {
            chain: *chain,
            slot: slot.0,
            layers: self.loaded.get(slot).into_iter().flatten().map(|layer| layer.0).collect(),
            manifests: self.held.get(slot).into_iter().flat_map(HashMap::keys).copied().collect(),
            is_claimed: self.claimed.contains(chain),
        };
        self.slots.iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> (tempfile::TempDir, Memory) {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::at(dir.path());
        memory.write(Remembered { next: 7, ..Remembered::default() }).unwrap();
        (dir, memory)
    }

    #[test]
    fn what_was_written_is_read_also_without_a_checksum() {
        let (_dir, memory) = memory();
        assert_eq!(memory.read(true).unwrap().next, 7);
        let text = fs::read(&memory.path).unwrap();
        let old = [b"{", &text[SEAL.len() + 64 + SEALED.len()..]].concat();
        fs::write(&memory.path, old).unwrap();
        assert_eq!(memory.read(true).unwrap().next, 7);
    }

    #[test]
    fn any_bit_that_turned_is_found_and_refused_or_put_aside() {
        let (_dir, memory) = memory();
        let text = fs::read(&memory.path).unwrap();
        for at in SEAL.len()..text.len() {
            let mut damaged = text.clone();
            damaged[at] ^= 1;
            fs::write(&memory.path, damaged).unwrap();
            let refused = memory.read(true).unwrap_err().message;
            assert!(refused.contains("damaged") || refused.contains("newer"), "{at}: {refused}");
        }
        fs::write(&memory.path, &text[..text.len() / 2]).unwrap();
        assert!(memory.read(true).is_err());
        assert_eq!(memory.read(false).unwrap().next, 0);
        assert!(memory.path.with_extension("damaged").exists() && !memory.path.exists());
    }
}
