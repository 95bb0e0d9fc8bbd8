//! A filter of arbitrary text, parsed and asked of a snapshot.

use std::sync::LazyLock;
use std::time::SystemTime;

use oncefs::snapshotter::{Content, Filters, Kind, Labels, Snapshot};

static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| Snapshot {
    id: 1,
    name: "default/3/sha256:ab".into(),
    parent: Some("default/2/p q".into()),
    kind: Kind::Committed,
    content: Content::Directory,
    created: SystemTime::UNIX_EPOCH,
    updated: SystemTime::UNIX_EPOCH,
    labels: Labels::from([("foo".into(), "bar".into()), ("a/b.c".into(), "\"one, two\"\n".into())]),
    usage: None,
});

pub(crate) fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let texts: Vec<&str> = text.split('\n').collect();
    if let Ok(filters) = Filters::parse(&texts) {
        let matches = filters.matches(&SNAPSHOT);
        // Of several, any: one that is asked alone and matches makes all match.
        assert_eq!(matches, texts.iter().any(|text| Filters::parse(&[text]).unwrap().matches(&SNAPSHOT)));
    }
}
