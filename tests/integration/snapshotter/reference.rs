//! What containerd's snapshots should be, told as simply as possible: a map, and the rules.

use std::collections::{BTreeMap, BTreeSet};

use oncefs::digest::ChainId;
use oncefs::snapshotter::protocol::v1::{Info, Kind};
use tonic::Code;

pub(super) const CHAIN: &str = "containerd.io/snapshot.ref";

pub(super) type Labels = BTreeMap<String, String>;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) parent: String,
    pub(super) labels: Labels,
    /// The chain of a remote one, and whether it holds a claim.
    pub(super) remote: Option<(ChainId, bool)>,
}

#[derive(Debug, Default)]
pub(super) struct Reference {
    pub(super) all: BTreeMap<String, Entry>,
    pub(super) known: BTreeSet<ChainId>,
}

/// How a Prepare ends.
#[derive(Debug, PartialEq)]
pub(super) enum Prepared {
    Mounts,
    /// There already.
    Found,
    /// A remote snapshot was made, under a name that is not foretold.
    Served(ChainId),
}

impl Reference {
    pub(super) fn prepare(&mut self, key: &str, parent: &str, labels: Labels) -> Result<Prepared, Code> {
        self.may_make(key, parent)?;
        let Some(label) = labels.get(CHAIN) else { return self.make(Kind::Active, key, parent, labels) };
        let there = self.committed(label, parent);
        let is_lost = there.as_ref().is_some_and(|name| matches!(self.all[name].remote, Some((_, false))));
        if there.is_some() && !is_lost {
            return Ok(Prepared::Found);
        }
        let is_contiguous = parent.is_empty() || self.all[parent].remote.is_some();
        let chain = label.parse().ok().map(ChainId).filter(|chain| self.known.contains(chain));
        match (chain, there) {
            (Some(chain), Some(name)) if is_contiguous => {
                self.all.get_mut(&name).unwrap().remote = Some((chain, true));
                Ok(Prepared::Found)
            }
            (Some(chain), None) if is_contiguous => Ok(Prepared::Served(chain)),
            _ => self.make(Kind::Active, key, parent, labels),
        }
    }

    /// What was made of a [`Prepared::Served`].
    pub(super) fn served(&mut self, name: &str, chain: ChainId, parent: &str, labels: Labels) {
        let entry = Entry { kind: Kind::Committed, parent: parent.into(), labels, remote: Some((chain, true)) };
        assert!(self.all.insert(name.to_owned(), entry).is_none(), "{name} was there before");
    }

    pub(super) fn view(&mut self, key: &str, parent: &str) -> Result<(), Code> {
        self.may_make(key, parent)?;
        self.make(Kind::View, key, parent, Labels::new()).map(drop)
    }

    pub(super) fn mounts(&self, key: &str) -> Result<(), Code> {
        let entry = self.all.get(key).ok_or(Code::NotFound)?;
        if entry.kind == Kind::Committed {
            return Err(Code::FailedPrecondition);
        }
        self.can_show(&entry.parent)
    }

    pub(super) fn commit(&mut self, name: &str, key: &str, parent: &str, labels: Labels) -> Result<(), Code> {
        if self.all.contains_key(name) {
            return Err(Code::AlreadyExists);
        }
        let entry = self.all.get(key).ok_or(Code::NotFound)?;
        if entry.kind != Kind::Active {
            return Err(Code::FailedPrecondition);
        }
        if !entry.parent.is_empty() && !parent.is_empty() && entry.parent != parent {
            return Err(Code::InvalidArgument);
        }
        let parent = if entry.parent.is_empty() { parent.to_owned() } else { entry.parent.clone() };
        if !parent.is_empty() && self.all.get(&parent).ok_or(Code::NotFound)?.kind != Kind::Committed {
            return Err(Code::FailedPrecondition);
        }
        self.all.remove(key);
        self.all.insert(name.to_owned(), Entry { kind: Kind::Committed, parent, labels, remote: None });
        Ok(())
    }

    pub(super) fn remove(&mut self, key: &str) -> Result<(), Code> {
        if !self.all.contains_key(key) {
            return Err(Code::NotFound);
        }
        if self.all.values().any(|entry| entry.parent == key) {
            return Err(Code::FailedPrecondition);
        }
        self.all.remove(key);
        Ok(())
    }

    pub(super) fn update(&mut self, key: &str, labels: &Labels, only: Option<&str>) -> Result<(), Code> {
        let entry = self.all.get_mut(key).ok_or(Code::NotFound)?;
        match only {
            None => entry.labels = labels.clone(),
            Some(only) => {
                entry.labels.remove(only);
                entry.labels.extend(labels.get(only).map(|value| (only.to_owned(), value.clone())));
            }
        }
        Ok(())
    }

    pub(super) fn restart(&mut self) {
        for (chain, is_claimed) in self.all.values_mut().filter_map(|entry| entry.remote.as_mut()) {
            *is_claimed = self.known.contains(chain);
        }
    }

    pub(super) fn claims(&self) -> BTreeMap<ChainId, usize> {
        let mut claims = BTreeMap::new();
        for (chain, is_claimed) in self.all.values().filter_map(|entry| entry.remote) {
            if is_claimed {
                *claims.entry(chain).or_default() += 1;
            }
        }
        claims
    }

    /// How many have a directory.
    pub(super) fn local(&self) -> usize {
        self.all.values().filter(|entry| entry.remote.is_none()).count()
    }

    /// Whether this is told of the snapshot.
    pub(super) fn is(&self, info: &Info) -> bool {
        self.all.get(&info.name).is_some_and(|entry| {
            let labels: Labels = info.labels.clone().into_iter().collect();
            (entry.kind, &entry.parent, &entry.labels) == (info.kind(), &info.parent, &labels)
        })
    }

    fn may_make(&self, key: &str, parent: &str) -> Result<(), Code> {
        if !parent.is_empty() && self.all.get(parent).ok_or(Code::NotFound)?.kind != Kind::Committed {
            return Err(Code::InvalidArgument);
        }
        if self.all.contains_key(key) { Err(Code::AlreadyExists) } else { Ok(()) }
    }

    fn make(&mut self, kind: Kind, key: &str, parent: &str, labels: Labels) -> Result<Prepared, Code> {
        self.can_show(parent)?;
        self.all.insert(key.to_owned(), Entry { kind, parent: parent.to_owned(), labels, remote: None });
        Ok(Prepared::Mounts)
    }

    fn committed(&self, label: &str, parent: &str) -> Option<String> {
        let matches = |entry: &Entry| {
            entry.kind == Kind::Committed
                && entry.parent == parent
                && entry.labels.get(CHAIN).is_some_and(|has| has == label)
        };
        self.all.iter().find(|(_, entry)| matches(entry)).map(|(name, _)| name.clone())
    }

    /// Whether the nearest remote one from here down can be shown.
    fn can_show(&self, from: &str) -> Result<(), Code> {
        let mut next = from;
        while let Some(entry) = self.all.get(next) {
            if let Some((chain, _)) = entry.remote {
                let claimed = self.all.values().any(|other| other.remote == Some((chain, true)));
                return if claimed { Ok(()) } else { Err(Code::FailedPrecondition) };
            }
            next = &entry.parent;
        }
        Ok(())
    }
}
