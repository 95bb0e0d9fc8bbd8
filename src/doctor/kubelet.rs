//! kubelet, if it is here: whether pulls and their secrets come by oncefs.

use std::path::{Path, PathBuf};

use futures::future::{BoxFuture, FutureExt as _};
use serde::Deserialize;

use super::{Machine, Report, is_root, text};

const CONFIG: &str = "/var/lib/kubelet/config.yaml";

/// Of kubelet's configuration (KubeletConfiguration, kubelet.config.k8s.io/v1beta1), what concerns us.
#[derive(Debug, Default, Deserialize)]
struct Configuration {
    #[serde(rename = "imageServiceEndpoint")]
    image_service_endpoint: Option<String>,
}

pub(super) fn look<'a>(machine: &'a Machine, report: &'a mut Report) -> BoxFuture<'a, ()> {
    async move {
        if !is_root() {
            return report.ok("kubelet is not looked at: only root's server has a socket for it");
        }
        let path = machine.kubelet_config.clone().unwrap_or_else(|| PathBuf::from(CONFIG));
        let written = match text(&path) {
            Ok(written) => written,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && machine.kubelet_config.is_none() => {
                return report.ok("kubelet is not here");
            }
            Err(error) => {
                return report.warning(format!("{} cannot be read: {error}", path.display()), "run this as root");
            }
        };
        match serde_saphyr::from_str::<Configuration>(&written) {
            Ok(configuration) => tell(machine, &path, configuration.image_service_endpoint, report),
            Err(error) => {
                // Its own words would show the lines around, and headers in it may hold logins.
                let at = error.location().map(|at| format!(": line {}, column {}", at.line(), at.column()));
                report.warning(format!("{} cannot be read{}", path.display(), at.unwrap_or_default()), "mend it");
            }
        }
    }
    .boxed()
}

fn tell(machine: &Machine, path: &Path, endpoint: Option<String>, report: &mut Report) {
    let socket = machine.config.run.join("cri.sock");
    let ours = format!("unix://{}", socket.display());
    let set = format!("imageServiceEndpoint: {ours} in {} and restart kubelet", path.display());
    match endpoint.filter(|endpoint| !endpoint.is_empty()) {
        Some(endpoint) if endpoint == ours && !machine.config.cri.enabled => report.problem(
            format!("kubelet pulls through {ours}, and [cri] enabled is false: no pull succeeds"),
            "enabled = true in [cri], or take imageServiceEndpoint out of kubelet's configuration",
        ),
        Some(endpoint) if endpoint == ours => match std::os::unix::net::UnixStream::connect(&socket) {
            Ok(_) => report.ok(format!("kubelet pulls through oncefs ({ours})")),
            Err(error) => report.problem(
                format!("kubelet pulls through {ours}, where nobody answers: {error}"),
                "systemctl enable --now oncefs.socket oncefs.service",
            ),
        },
        Some(endpoint) if machine.config.cri.enabled => report.warning(
            format!("kubelet pulls through {endpoint}, which is not oncefs's {ours}: pods' pull secrets are not learned"),
            set,
        ),
        None if machine.config.cri.enabled => report.warning(
            "kubelet pulls without oncefs: a pull does not mean that all is here, and pods' pull secrets are not learned",
            set,
        ),
        _ => report.ok("kubelet pulls without oncefs, and [cri] enabled is false"),
    }
}
