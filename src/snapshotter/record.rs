//! A snapshot as the database keeps it: JSON with a version, so that a person can read it too.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::book::{Content, Kind, Labels, Snapshot};
use super::chains::Usage;
use super::error::SnapshotError;
use crate::digest::ChainId;
use crate::store::Store;

/// Rises when the meaning of a field changes; a record of a version that is not known is an error, never a guess.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    kind: KindRecord,
    /// The chain of a remote snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chain: Option<ChainId>,
    /// Nanoseconds since 1970.
    created: u64,
    updated: u64,
    #[serde(default)]
    labels: Labels,
    /// Bytes and inodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    usage: Option<(u64, u64)>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindRecord {
    View,
    Active,
    Committed,
}

pub(super) fn encode(snapshot: &Snapshot) -> Vec<u8> {
    let record = Record {
        version: VERSION,
        name: snapshot.name.to_string(),
        parent: snapshot.parent.as_deref().map(str::to_owned),
        kind: match snapshot.kind {
            Kind::View => KindRecord::View,
            Kind::Active => KindRecord::Active,
            Kind::Committed => KindRecord::Committed,
        },
        chain: snapshot.remote(),
        created: nanoseconds(snapshot.created),
        updated: nanoseconds(snapshot.updated),
        labels: snapshot.labels.clone(),
        usage: snapshot.usage.map(|usage| (usage.bytes, usage.inodes)),
    };
    // Texts and numbers only: that never fails.
    serde_json::to_vec(&record).unwrap_or_default()
}

/// The snapshots that the database has. Of two with one name, which only a database made of notes after a power loss may have, the
/// older had been removed.
pub(super) fn read_all(store: &Store) -> Result<Vec<Arc<Snapshot>>, SnapshotError> {
    let mut snapshots: HashMap<Arc<str>, Arc<Snapshot>> = HashMap::new();
    for (id, bytes) in store.snapshots()? {
        let snapshot = Arc::new(decode(id, &bytes)?);
        if let Some(removed) = snapshots.insert(snapshot.name.clone(), snapshot) {
            store.remove_snapshot(removed.id)?;
        }
    }
    Ok(snapshots.into_values().collect())
}

pub(super) fn decode(id: u64, bytes: &[u8]) -> Result<Snapshot, SnapshotError> {
    let broken = |cause: String| SnapshotError::Record { id, cause };
    let record: Record = serde_json::from_slice(bytes).map_err(|error| broken(error.to_string()))?;
    if record.version != VERSION {
        return Err(broken(format!("it is of version {}, this program knows {VERSION}", record.version)));
    }
    Ok(Snapshot {
        id,
        name: record.name.into(),
        parent: record.parent.map(Into::into),
        kind: match record.kind {
            KindRecord::View => Kind::View,
            KindRecord::Active => Kind::Active,
            KindRecord::Committed => Kind::Committed,
        },
        content: record.chain.map_or(Content::Directory, Content::Remote),
        created: SystemTime::UNIX_EPOCH + Duration::from_nanos(record.created),
        updated: SystemTime::UNIX_EPOCH + Duration::from_nanos(record.updated),
        labels: record.labels,
        usage: record.usage.map(|(bytes, inodes)| Usage { bytes, inodes }),
    })
}

/// Enough until the year 2554.
fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn snapshot() -> Snapshot {
        let at = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        Snapshot {
            id: 7,
            name: "k8s.io/12/extract-1 sha256:ab".into(),
            parent: Some("k8s.io/11/sha256:cd".into()),
            kind: Kind::Committed,
            content: Content::Remote(ChainId(Digest::of(b"chain"))),
            created: at,
            updated: at + Duration::from_secs(1),
            labels: Labels::from([("a/b".into(), "c\nd\u{0}".into())]),
            usage: Some(Usage { bytes: 1 << 60, inodes: 3 }),
        }
    }

    #[test]
    fn a_snapshot_comes_back_as_it_was() {
        let plain = Snapshot {
            parent: None,
            kind: Kind::Active,
            content: Content::Directory,
            labels: Labels::new(),
            usage: None,
            ..snapshot()
        };
        for snapshot in [snapshot(), plain] {
            assert_eq!(decode(7, &encode(&snapshot)).unwrap(), snapshot);
        }
    }

    #[test]
    fn a_record_of_another_version_or_of_garbage_is_refused() {
        let text = String::from_utf8(encode(&snapshot())).unwrap();
        let newer = text.replace(r#""version":1"#, r#""version":2"#);
        assert!(decode(7, newer.as_bytes()).unwrap_err().to_string().contains("version 2"));
        assert!(decode(7, b"{}").is_err() && decode(7, b"").is_err());
    }
}
