//! Which containerd runs.

use std::path::Path;
use std::time::Duration;

use tonic::transport::Endpoint;

use super::protocol::version::version_client::VersionClient;

/// It knows its version by heart.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the containerd at this socket says of itself, as in `v2.1.4`; none if nobody answers there.
pub async fn containerd_version(socket: &Path) -> Option<String> {
    let asking = async {
        let channel = Endpoint::from_shared(format!("unix://{}", socket.display())).ok()?.connect().await.ok()?;
        let answer = VersionClient::new(channel).version(()).await.ok()?;
        Some(answer.into_inner().version).filter(|version| !version.is_empty())
    };
    tokio::time::timeout(PATIENCE, asking).await.ok().flatten()
}
