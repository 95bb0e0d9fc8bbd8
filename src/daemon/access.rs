//! Who may call. The kernel says who has connected; the socket's mode has kept most others away before.
//!
//! Root, and who the server runs as, may all. The members of the configured group, operators, may see how things are and decide what is in the
//! cache. What reaches beyond the store stays with the owner: mounts, this machine's files, and what is written to a registry in
//! the owner's name.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use tokio::net::UnixListener;

use super::calls::line;
use crate::control::{Call, Event, Failure, FailureKind, IndexAction};
use crate::registry::Reference;
use crate::sys::peer::{Peer, group_id};

/// Whom the control socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access {
    owner: u32,
    operators: Option<u32>,
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    Owner,
    /// A member of the group.
    Operator,
}

/// What the kernel says of a connection; nothing if it says nothing.
#[derive(Debug, Clone)]
pub(super) struct Connection(Option<Arc<Peer>>);

// === impl Access ===

impl Access {
    /// As [server] group has it.
    pub(super) fn new(group: &str) -> Result<Self, Failure> {
        let refused = |cause: String| Failure::new(FailureKind::Usage, format!("[server] group = {group:?}: {cause}"));
        let operators = match group {
            "" => None,
            name => {
                let found = group_id(name).map_err(|error| refused(error.to_string()))?;
                Some(found.ok_or_else(|| refused("there is no such group".to_owned()))?)
            }
        };
        Ok(Self { owner: rustix::process::geteuid().as_raw(), operators })
    }

    /// The group that the socket's file belongs to, if it is for more than its owner.
    pub(super) fn group(&self) -> Option<u32> {
        self.operators
    }

    fn caller(&self, peer: &Peer) -> Option<Caller> {
        let is_operator = |group| peer.groups.contains(&group);
        match peer.uid {
            0 => Some(Caller::Owner),
            uid if uid == self.owner => Some(Caller::Owner),
            _ => self.operators.is_some_and(is_operator).then_some(Caller::Operator),
        }
    }
}

/// Lets nobody in whom the socket is not for.
pub(super) async fn admit(
    State(access): State<Access>,
    ConnectInfo(Connection(peer)): ConnectInfo<Connection>,
    mut request: Request,
    next: Next,
) -> Response {
    match peer.as_deref().and_then(|peer| access.caller(peer)) {
        Some(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        None => {
            let uid = peer.map(|peer| peer.uid);
            tracing::warn!(uid, "a call of somebody whom the control socket is not for was refused");
            refusal("this server answers root and its own user, and the members of [server] group")
        }
    }
}

/// What somebody is told who may not.
pub(super) fn refusal(message: &str) -> Response {
    let Ok(line) = line(&Event::Failed(Failure::new(FailureKind::Denied, message)));
    (StatusCode::FORBIDDEN, Body::from(line)).into_response()
}

// === impl Caller ===

impl Caller {
    pub(super) fn may(self, call: &Call) -> bool {
        self == Self::Owner || is_for_operators(call)
    }
}

fn is_for_operators(call: &Call) -> bool {
    // An image on this machine's disk would be read with the owner's rights.
    let is_remote = |image: &str| matches!(image.parse(), Ok(Reference::Remote(_)));
    match call {
        Call::Status | Call::Prune(_) => true,
        // Whom it asks about snapshots, it asks as the owner.
        Call::Check(call) => call.containerd.is_none(),
        Call::Pull(call)
        | Call::Inspect(call)
        | Call::Pin(call)
        | Call::Unpin(call)
        | Call::Remove(call)
        | Call::Trace(call) => is_remote(&call.image),
        Call::Index(call) => matches!(call.action, IndexAction::List | IndexAction::Verify) && is_remote(&call.image),
        Call::Mount(_) | Call::Umount(_) => false,
    }
}

// === impl Connection ===

impl Connected<IncomingStream<'_, UnixListener>> for Connection {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(Peer::of(stream.io()).ok().map(Arc::new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{CheckCall, ContainerdCall, IndexCall, PruneCall, PullCall, UmountCall};

    #[test]
    fn the_group_counts_whichever_of_a_callers_it_is_and_nobody_else_gets_in() {
        let access = Access { owner: 1000, operators: Some(50) };
        let caller = |uid, groups: &[u32]| access.caller(&Peer { uid, groups: groups.to_vec() });
        assert_eq!(caller(0, &[7]), Some(Caller::Owner));
        assert_eq!(caller(1000, &[]), Some(Caller::Owner));
        assert_eq!(caller(1001, &[1001, 50]), Some(Caller::Operator));
        assert_eq!(caller(1001, &[1001]), None);
        let alone = Access { owner: 0, operators: None };
        assert_eq!(alone.caller(&Peer { uid: 1001, groups: vec![0, 50] }), None, "root's group is not root");
    }

    #[test]
    fn operators_may_what_stays_within_the_store() {
        let pull = |image: &str| PullCall { image: image.to_owned(), platform: None };
        let index = |action| Call::Index(IndexCall { image: "a.example/b".to_owned(), platform: None, action });
        let may = [
            Call::Status,
            Call::Check(CheckCall { repair: true, containerd: None }),
            Call::Prune(PruneCall { to_bytes: None }),
            Call::Pull(pull("redis:7")),
            Call::Inspect(pull("a.example/b")),
            Call::Pin(pull("redis")),
            Call::Remove(pull("redis")),
            index(IndexAction::List),
        ];
        let may_not = [
            Call::Umount(UmountCall { at: None }),
            Call::Check(CheckCall {
                repair: false,
                containerd: Some(ContainerdCall { socket: "/c.sock".into(), snapshotter: "oncefs".into() }),
            }),
            Call::Pull(pull("oci:/root/layout")),
            // Relative to where the server stands; without the first word it would be a tag.
            Call::Pull(pull("oci:layout")),
            Call::Inspect(pull("oci-archive:/root/a.tar")),
            Call::Remove(pull("oci:/root/layout")),
            index(IndexAction::Push { sign: None }),
            index(IndexAction::Remove { digest: None }),
        ];
        assert!(may.iter().all(|call| Caller::Operator.may(call)));
        assert!(!may_not.iter().any(|call| Caller::Operator.may(call)));
        assert!(may.iter().chain(&may_not).all(|call| Caller::Owner.may(call)));
    }
}
