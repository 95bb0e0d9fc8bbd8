//! A FUSE mount of this process with its number, under which its descriptor is kept for the next.

use std::path::PathBuf;

use tokio::runtime::Handle;

use super::remembered::{ConnectionRecord, PlaceRecord};
use super::{Mounts, State};
use crate::control::Failure;
use crate::daemon::node::blocking;
use crate::daemon::{devices, failure};
use crate::fuse::{Options, Session};
use crate::view::{LayerSlot, ViewSlot};

pub(super) struct Connection {
    pub(super) number: u64,
    pub(super) session: Session,
    pub(super) options: Options,
}

/// What is being made, noted before: should this process die now, the next takes it away.
#[derive(Default)]
pub(super) struct Starting {
    pub(super) connection: Option<ConnectionRecord>,
    pub(super) place: Option<PlaceRecord>,
}

// === impl Connection ===

impl Connection {
    pub(super) fn record(&self) -> ConnectionRecord {
        ConnectionRecord {
            number: self.number,
            mountpoint: self.session.mountpoint().to_owned(),
            device: self.session.device(),
            options: self.options.clone(),
            is_leaving: false,
            in_use: Vec::new(),
        }
    }
}

// === impl Mounts ===

impl Mounts {
    /// Mounts, and has it kept. The caller says [`Mounts::started`] when the state knows of it.
    pub(super) async fn connect(&self, at: PathBuf, options: Options) -> Result<Connection, Failure> {
        let number = {
            let mut state = self.shared.state.lock();
            state.next_connection += 1;
            let number = state.next_connection;
            state.starting.connection = Some(ConnectionRecord {
                number,
                mountpoint: at.clone(),
                device: None,
                options: options.clone(),
                is_leaving: false,
                in_use: Vec::new(),
            });
            if let Err(failed) = self.noted(&state) {
                state.starting.connection = None;
                return Err(failed);
            }
            number
        };
        let (shelf, config, keeping) =
            (self.shared.shelf.clone(), self.shared.config.fuse.clone(), self.shared.keeping.clone());
        let (runtime, setting, run) = (Handle::current(), options.clone(), self.shared.config.run.clone());
        let start = move || {
            let start = if keeping.is_on() { Session::start_kept } else { Session::start };
            let session = start(&shelf, &at, &setting, &config, runtime)?;
            if let Some(Err(error)) = session.device().map(|device| devices::note(&run, device)) {
                tracing::warn!(%error, "cannot note a mount: should oncefs be killed, umount --all will not know it");
            }
            if let Some(Err(error)) = session.descriptor().map(|kept| keeping.keep_connection(number, kept)) {
                tracing::error!(at = %at.display(), %error, "nobody keeps this mount: it ends with this server");
            }
            Ok(session)
        };
        let session = blocking(start).await?.map_err(|error| failure::of_session(&error))?;
        Ok(Connection { number, session, options })
    }

    /// Notes what is about to be mounted.
    pub(super) fn note_starting(&self, place: PlaceRecord) -> Result<(), Failure> {
        let mut state = self.shared.state.lock();
        state.starting.place = Some(place);
        self.noted(&state)
    }

    /// What was about to be made is made, or is not.
    pub(super) fn started(&self, state: &mut State) {
        state.starting = Starting::default();
        self.note(state);
    }

    /// The kernel is about to see files of these layers in a view.
    pub(super) fn note_loaded(&self, slot: ViewSlot, layers: Vec<LayerSlot>) {
        let mut state = self.shared.state.lock();
        state.loaded.insert(slot, layers);
        self.note(&state);
    }
}
