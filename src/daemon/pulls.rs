//! What the CRI proxy asks of this node: to remember who pulls, and to make the pulled image verified and local.

use std::time::Duration;

use futures::future::BoxFuture;

use super::node::Node;
use crate::blob::BlobError;
use crate::cri::{Asked, Auth, Held, PullCause, PullFailed, Pulls};
use crate::errors::with_causes;
use crate::flight::{Failed, Flight};
use crate::image::{Asker, Image, ImageError, ImageFailed, LayerError, LayerState};
use crate::index::scan::ScanError;
use crate::registry::{Login, Platform, Reference, RegistryError, Remote, Repository};
use crate::store::FillError;

/// Pulls of this node. Clones share them.
#[derive(Clone)]
pub struct NodePulls {
    node: Node,
    /// One pull for all who ask for the same image as the same user.
    pulling: Flight<Asked, Held, PullFailed>,
}

/// How often the log says how far a pull is: what a person who waits would ask.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// How far a pull is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Progress {
    layers_ready: usize,
    fetched_bytes: u64,
}

// === impl NodePulls ===

impl NodePulls {
    pub fn new(node: Node) -> Self {
        Self { node, pulling: Flight::new() }
    }

    async fn pull_alone(&self, asked: &Asked) -> Result<Held, PullFailed> {
        // Only what is in a registry: a client of CRI has no business with this node's disk.
        let remote: Remote = asked.image.parse().map_err(|error| {
            let message = format!("{} is no reference that oncefs takes: {error}", asked.image);
            PullFailed { cause: PullCause::OursAlone, message }
        })?;
        let images = self.node.images();
        let failed = |failed: ImageFailed| of_image(failed, asked.auth.is_some());
        let image = images.resolve(&Reference::Remote(remote), &Platform::host(), Asker::Containerd).await;
        let image = image.map_err(failed)?;
        let held = images.hold(&image);
        let mut work = std::pin::pin!(images.pull(&image));
        let mut tick = tokio::time::interval(PROGRESS_EVERY);
        tick.tick().await;
        loop {
            tokio::select! {
                layers = &mut work => return layers.map(|_| Held::new(held)).map_err(failed),
                _ = tick.tick() => self.log(&image),
            }
        }
    }

    fn log(&self, image: &Image) {
        let progress = Progress::of(self.node.images().states(image).iter().map(|layer| (layer.size, &layer.state)));
        tracing::info!(
            image = image.reference,
            layers_ready = progress.layers_ready,
            layers = image.layers.len(),
            fetched_bytes = progress.fetched_bytes,
            bytes = image.size(),
            "pulling"
        );
    }
}

impl Pulls for NodePulls {
    fn learn(&self, asked: &Asked) {
        let Some(auth) = &asked.auth else { return };
        // What is no reference here is not fetched here either.
        let Ok(remote) = asked.image.parse::<Remote>() else { return };
        if !is_for(&auth.server_address, &remote.repository) {
            return tracing::debug!(image = asked.image, "credentials for another registry are not taken");
        }
        if !self.node.images().registry().learn(&remote.repository, login(auth)) {
            tracing::warn!(image = asked.image, "the credentials of a PullImage cannot be understood");
        }
    }

    fn pull(&self, asked: &Asked) -> BoxFuture<'static, Result<Held, PullFailed>> {
        let ticket = self.pulling.join(asked.clone(), || {
            let (pulls, asked) = (self.clone(), asked.clone());
            async move { pulls.pull_alone(&asked).await }
        });
        let image = asked.image.clone();
        Box::pin(async move {
            ticket.await.map_err(|failed| match failed {
                Failed::Work(failed) => (*failed).clone(),
                Failed::Panicked => PullFailed {
                    cause: PullCause::OursAlone,
                    message: format!("the pull of {image} ended without a result (see the log)"),
                },
            })
        })
    }
}

// === impl Progress ===

impl Progress {
    fn of<'a>(layers: impl Iterator<Item = (u64, &'a LayerState)>) -> Self {
        layers.fold(Self::default(), |so_far, (size, state)| Self {
            layers_ready: so_far.layers_ready + usize::from(matches!(state, LayerState::Ready { .. })),
            fetched_bytes: so_far.fetched_bytes + state.fetched(size),
        })
    }
}

// === credentials ===

fn login(auth: &Auth) -> Login {
    let Auth { username, password, auth, identity_token, registry_token, server_address: _ } = auth.clone();
    Login { username, password, auth, identity_token, registry_token }
}

/// Whether credentials that name a server are for this one. containerd compares as strictly.
fn is_for(server: &str, repository: &Repository) -> bool {
    let bare = server.split_once("://").map_or(server, |(_, bare)| bare);
    let host = bare.split('/').next().unwrap_or_default();
    let means = |name: &str| name.eq_ignore_ascii_case(host);
    let is_hub = repository.host() == "docker.io";
    host.is_empty()
        || means(repository.host())
        || (is_hub && ["index.docker.io", "registry-1.docker.io"].into_iter().any(means))
}

// === whose failure it is: the table in ARCHITECTURE.md, "The CRI proxy" ===

fn of_image(failed: ImageFailed, has_login: bool) -> PullFailed {
    let error = ImageError::from(failed);
    let cause = match error.cause() {
        ImageError::Resolve { source, .. } => of_registry(source, has_login),
        ImageError::Layer { source, .. } => of_layer(source, has_login),
        ImageError::View { .. }
        | ImageError::Store(_)
        | ImageError::UnknownChain(_)
        | ImageError::Shared(_)
        | ImageError::Stopping => PullCause::OursAlone,
    };
    PullFailed { cause, message: with_causes(error.cause()) }
}

fn of_registry(error: &RegistryError, has_login: bool) -> PullCause {
    use RegistryError as E;
    match error {
        E::NotFound { .. } => PullCause::NotFound,
        E::Denied { .. } | E::Login { .. } => denied(has_login),
        // It was reached: containerd would not fare better.
        E::Silent { .. } | E::Stalled { .. } | E::Broken { .. } | E::Busy { .. } | E::Status { status: 500.., .. } => {
            PullCause::Unavailable
        }
        E::Size { .. } | E::Mismatch { .. } => PullCause::Corrupt,
        // containerd may know a proxy, a mirror or a certificate, take other media types and platforms, or be less strict.
        _ => PullCause::OursAlone,
    }
}

fn of_layer(error: &LayerError, has_login: bool) -> PullCause {
    match error {
        LayerError::Blob(error) => of_blob(error, has_login),
        LayerError::Scan(ScanError::Blob { source, .. }) => of_blob(source, has_login),
        LayerError::Scan(
            ScanError::TooShort { .. }
            | ScanError::TooLong { .. }
            | ScanError::BlobDigest { .. }
            | ScanError::DiffId { .. },
        )
        | LayerError::OtherContent { .. } => PullCause::Corrupt,
        LayerError::Fill(FillError::Blob { source, .. }) => of_blob(source, has_login),
        LayerError::Fill(FillError::Mismatch { .. } | FillError::Decode { .. }) => PullCause::Corrupt,
        LayerError::Scan(ScanError::Stopped { .. }) | LayerError::Fill(FillError::Stopping) | LayerError::Stopping => {
            PullCause::Stopping
        }
        // What oncefs refuses to unpack, and a disk that is full: containerd has ways and room of its own.
        LayerError::Scan(_) | LayerError::Fill(_) | LayerError::Store(_) => PullCause::OursAlone,
    }
}

fn of_blob(error: &BlobError, has_login: bool) -> PullCause {
    match error {
        BlobError::NotFound(_) => PullCause::NotFound,
        BlobError::Denied(_) => denied(has_login),
        // The manifest came from there a moment ago.
        BlobError::Unreachable(_) => PullCause::Unavailable,
        BlobError::Size { .. } => PullCause::Corrupt,
        BlobError::Other(_) => PullCause::OursAlone,
    }
}

/// containerd uses a pull's own credentials where it has any, and else what its configuration says.
fn denied(has_login: bool) -> PullCause {
    if has_login { PullCause::Denied } else { PullCause::OursAlone }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::codec::Codec;
    use crate::index::frames::{IndexSource, Provenance};

    #[test]
    fn credentials_go_to_the_server_that_they_name() {
        let is_for = |server: &str, repository: &str| is_for(server, &repository.parse().unwrap());
        for server in ["", "a.example", "A.example", "https://a.example", "http://a.example/v2/"] {
            assert!(is_for(server, "a.example/app"), "{server}");
        }
        for server in ["docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"] {
            assert!(is_for(server, "redis"), "{server}");
            assert!(!is_for(server, "a.example/app"), "{server}");
        }
        assert!(is_for("a.example:5000", "a.example:5000/app") && !is_for("a.example", "a.example:5000/app"));
        assert!(!is_for("https://a.example.evil.example", "a.example/app"));
    }

    #[test]
    fn progress_is_what_has_come_of_all_layers() {
        let index = Provenance { source: IndexSource::Scan(Codec::Gzip), bond: None };
        let states = [
            (10, LayerState::Untouched),
            (20, LayerState::Scanning { fetched: 7, unpacked: 30 }),
            (40, LayerState::Ready { data_bytes: 9, resident_bytes: 9, index }),
            (60, LayerState::Filling { data_bytes: 12, resident_bytes: 4, index }),
            (80, LayerState::Failed("cause".into())),
        ];
        let progress = Progress::of(states.iter().map(|(size, state)| (*size, state)));
        assert_eq!(progress, Progress { layers_ready: 1, fetched_bytes: 67 });
    }
}
