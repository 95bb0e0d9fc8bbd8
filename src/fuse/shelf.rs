//! What a FUSE mount shows: its views by name, and the layers behind those that are loaded.
//!
//! Readers take a snapshot without a lock; the few who change something make a new one.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use fuser::{INodeNo, Notifier};
use futures::future::BoxFuture;

use super::metrics::Metrics;
use crate::store::Layer;
use crate::sync::Mutex;
use crate::view::{LayerSlot, Meaning, NodeId, View, ViewSlot};

/// A view that can be served: all its layers are in the store.
pub struct Ready {
    pub view: Arc<View>,
    /// Every layer that the view's node ids name.
    pub layers: HashMap<LayerSlot, Arc<Layer>>,
}

/// Makes a view ready when somebody first looks at it. There is a flight behind it: callers share the work.
pub trait Provide: Send + Sync + 'static {
    fn view(&self) -> BoxFuture<'static, Result<Arc<Ready>, Unavailable>>;
}

/// Why there is no view, in words for the log; a reader only gets EIO.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub Arc<str>);

/// One view under the mount.
#[derive(Clone)]
pub(super) struct Shown {
    pub(super) provide: Arc<dyn Provide>,
    pub(super) ready: Option<Arc<Ready>>,
    /// The kernel has seen what is in it: no stand-in for its root will do.
    was_ready: bool,
}

/// The views under one mount, or under all mounts of a process. Clones share it.
#[derive(Clone, Default)]
pub struct Shelf {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    table: ArcSwap<Table>,
    /// Held while a new table is made of the old one.
    changing: Mutex<()>,
    /// The mounts that show all views.
    told: Mutex<Vec<Weak<Notifier>>>,
    metrics: Metrics,
}

/// A snapshot of the shelf.
#[derive(Clone, Default)]
pub(super) struct Table {
    pub(super) views: HashMap<ViewSlot, Shown>,
    pub(super) names: BTreeMap<Arc<str>, ViewSlot>,
    /// Each layer with any view that has it: what a file is does not depend on which.
    pub(super) layers: HashMap<LayerSlot, (Arc<Layer>, Arc<View>)>,
    /// Layers that the kernel knows from the server before, each with a view that has it and is not loaded yet.
    known: HashMap<LayerSlot, ViewSlot>,
}

// === impl Shelf ===

impl Shelf {
    /// What is counted of those who look.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Shows a view. Nothing is asked of `provide` before somebody looks into it. A view that is shown already stays.
    pub fn add(&self, slot: ViewSlot, name: &str, provide: Arc<dyn Provide>) {
        self.add_known(slot, name, provide, &[]);
    }

    /// The same of a view that the server before has shown, if the kernel has seen files of these layers in it.
    pub fn add_known(&self, slot: ViewSlot, name: &str, provide: Arc<dyn Provide>, layers: &[LayerSlot]) {
        let name: Arc<str> = name.into();
        self.change(|table| {
            if let Entry::Vacant(place) = table.views.entry(slot) {
                place.insert(Shown { provide, ready: None, was_ready: !layers.is_empty() });
                table.names.insert(name, slot);
                table.known.extend(layers.iter().map(|layer| (*layer, slot)));
            }
        });
        self.tell();
    }

    /// Makes those views ready that the kernel has seen, one after the other: who reads there need not wait for it.
    pub fn load_known(&self) {
        let shelf = self.clone();
        let slots: HashSet<ViewSlot> = self.table().known.values().copied().collect();
        crate::sync::spawn(async move {
            for slot in slots {
                let _logged_by_who_provides = shelf.load(slot).await;
            }
        });
    }

    /// Shows a view no longer. Who has its files open finds them gone once the kernel asks again.
    pub fn remove(&self, slot: ViewSlot) {
        self.keep(|other| other != slot);
    }

    /// Shows no views any longer but these.
    pub fn keep(&self, is_kept: impl Fn(ViewSlot) -> bool) {
        if self.table().views.keys().all(|slot| is_kept(*slot)) {
            return;
        }
        self.change(|table| {
            table.views.retain(|slot, _| is_kept(*slot));
            table.names.retain(|_, slot| is_kept(*slot));
            table.known.retain(|_, slot| is_kept(*slot));
            table.collect_layers();
        });
        self.tell();
    }

    pub fn has(&self, slot: ViewSlot) -> bool {
        self.table().views.contains_key(&slot)
    }

    pub fn is_ready(&self, slot: ViewSlot) -> bool {
        self.table().views.get(&slot).is_some_and(|shown| shown.ready.is_some())
    }

    /// Whether the view shows a layer that was found to be wrong.
    pub fn is_tainted(&self, slot: ViewSlot) -> bool {
        self.table().ready(slot).is_some_and(|ready| ready.layers.values().any(|layer| layer.is_quarantined()))
    }

    pub(super) fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.shared.table.load()
    }

    /// The view, made ready if it is not. `None` if it is not shown (any more).
    pub(super) async fn load(&self, slot: ViewSlot) -> Option<Result<Arc<Ready>, Unavailable>> {
        let shown = self.table().views.get(&slot).cloned()?;
        if let Some(ready) = shown.ready {
            return Some(Ok(ready));
        }
        let loaded = shown.provide.view().await;
        if let Ok(ready) = &loaded {
            self.change(|table| {
                let Some(shown) = table.views.get_mut(&slot) else { return };
                shown.ready.get_or_insert_with(|| ready.clone());
                table.collect_layers();
            });
        }
        Some(loaded)
    }

    /// Tells `kernel` from now on that it must list the views anew when they have changed, as long as it is kept.
    pub(super) fn keep_told(&self, kernel: &Arc<Notifier>) {
        self.shared.told.lock().push(Arc::downgrade(kernel));
    }

    fn tell(&self) {
        self.shared.told.lock().retain(|kernel| match kernel.upgrade() {
            None => false,
            Some(kernel) => {
                let _knows_none_is_fine = kernel.inval_inode(INodeNo::ROOT, 0, 0);
                true
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Table)) {
        let _one_at_a_time = self.shared.changing.lock();
        let mut table = Table::clone(&self.shared.table.load());
        change(&mut table);
        self.shared.table.store(Arc::new(table));
    }
}

// === impl Table ===

impl Table {
    pub(super) fn ready(&self, slot: ViewSlot) -> Option<&Arc<Ready>> {
        self.views.get(&slot)?.ready.as_ref()
    }

    /// Any view that has this file.
    pub(super) fn view_of(&self, file: NodeId) -> Option<&Arc<View>> {
        match file.meaning()? {
            Meaning::File(slot, _) => self.layers.get(&slot).map(|(_, view)| view),
            _ => None,
        }
    }

    /// Whether the view's root may look like an empty directory: nobody has looked into it.
    pub(super) fn is_unopened(&self, slot: ViewSlot) -> bool {
        self.views.get(&slot).is_some_and(|shown| shown.ready.is_none() && !shown.was_ready)
    }

    /// The view to load for a file that no loaded view has.
    pub(super) fn view_to_load(&self, file: NodeId) -> Option<ViewSlot> {
        match file.meaning()? {
            Meaning::File(slot, _) => self.known.get(&slot).copied(),
            _ => None,
        }
    }

    fn collect_layers(&mut self) {
        let ready = self.views.values().filter_map(|shown| shown.ready.as_ref());
        let of_one = |ready: &Arc<Ready>| {
            let view = ready.view.clone();
            ready.layers.clone().into_iter().map(move |(slot, layer)| (slot, (layer, view.clone())))
        };
        self.layers = ready.flat_map(of_one).collect();
    }
}
