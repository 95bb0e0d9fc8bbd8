//! Registries: which are believed without proof; and of one image, whether its registry is reached, whom it takes us for, and its clock.

use futures::future::{BoxFuture, FutureExt as _};

use super::{Machine, Report};
use crate::blob::Blobs as _;
use crate::errors::with_causes;
use crate::registry::{Missing, Platform, Reference, Registry, RegistryError, Resolved, Want};

/// Tokens and certificates are refused by clocks that are minutes off.
const SKEW_SECS_MAX: u64 = 300;
const SKEW_SECS_MUCH: u64 = 30;

pub(super) fn look<'a>(machine: &'a Machine, report: &'a mut Report) -> BoxFuture<'a, ()> {
    async move {
        let registry = match Registry::new(machine.config.registry.clone()) {
            Ok(registry) => registry,
            Err(_as_the_configuration_says) => return,
        };
        unverified(&registry, report).await;
        let Some((image, platform)) = &machine.image else {
            return report
                .ok("not asked: name an image, as in `oncefs doctor redis:7`, to have its registry looked at");
        };
        ask(&registry, image, platform, report).await;
        clock(&registry, report);
    }
    .boxed()
}

/// Hosts in whose place anybody may answer.
async fn unverified(registry: &Registry, report: &mut Report) {
    let registry = registry.clone();
    let found = tokio::task::spawn_blocking(move || registry.unverified()).await.unwrap_or_default();
    for one in found {
        let change = match one.proof {
            Missing::Vouching => {
                "take skip_verify out of that file, and name the authority of the host's certificate with ca"
            }
            Missing::Certificate => "have the host speak HTTPS, and say so there",
        };
        report.warning(one.to_string(), change);
    }
}

async fn ask(registry: &Registry, image: &Reference, platform: &Platform, report: &mut Report) {
    let want = Want { platform: Some(platform.clone()), config: None };
    let resolved = match registry.resolve_as(image, &want).await {
        Ok(resolved) => resolved,
        Err(error) => return report.problem(with_causes(&error), change(image, &error)),
    };
    let (digest, layers) = (resolved.manifest_digest, resolved.layers.len());
    report.ok(format!("{image} is there for {}: manifest {digest}, {layers} layers", resolved.platform));
    match first_byte(registry, &resolved).await {
        Ok(true) => report.ok("its layers may be had, also in parts"),
        Ok(false) => report.ok("it has no layer with a byte to ask for"),
        Err(cause) => report.problem(
            format!("a layer of {image} cannot be had in parts: {cause}"),
            "see that the login may pull, and that no proxy before the registry takes Range requests for others",
        ),
    }
}

/// Asks for one byte of a layer.
async fn first_byte(registry: &Registry, resolved: &Resolved) -> Result<bool, String> {
    let Some(layer) = resolved.layers.iter().find(|layer| layer.size > 0) else { return Ok(false) };
    let opened = registry.open(layer.digest, layer.size, resolved.origin.clone()).await;
    let blob = opened.map_err(|error| with_causes(&error))?;
    let byte = blob.range(0..1).await.map_err(|error| with_causes(&error))?;
    if byte.len() == 1 { Ok(true) } else { Err(format!("{} bytes came where one was asked for", byte.len())) }
}

/// What to do, where the message does not say it.
fn change(image: &Reference, error: &RegistryError) -> String {
    use RegistryError as E;
    match error {
        E::Denied { host, had_login, .. } => {
            let login = format!("docker login {host}, as the user that oncefs runs as; [registry] docker_config and helper_path say where logins are looked for");
            if *had_login { format!("the login that was sent is not enough: {login}") } else { login }
        }
        E::Login { host, .. } => format!("docker login {host}; the helper that its configuration names must be in [registry] helper_path"),
        E::NotHttps { host, .. } => format!("insecure_hosts = [{host:?}] in [registry], or certificates for the registry"),
        E::Untrusted { .. } => "ca_files in [registry], or ca in the host's hosts.toml; look at this machine's clock, too".to_owned(),
        E::Unreachable { .. } | E::Silent { .. } | E::Stalled { .. } | E::Broken { .. } => {
            "look at the name, at DNS, at firewalls, and at HTTPS_PROXY and NO_PROXY in oncefs's environment (systemctl edit oncefs)".to_owned()
        }
        E::Busy { .. } => "log in, or ask through a mirror: hosts.toml below /etc/containerd/certs.d".to_owned(),
        E::HostFile { .. } | E::CaFile { .. } => "mend that file".to_owned(),
        E::NotFound { .. } | E::NoTag { .. } | E::NoPlatform { .. } | E::SeveralTags { .. } => {
            format!("name an image that is there instead of {image}; --platform asks for another platform")
        }
        _ => "ask who runs the registry".to_owned(),
    }
}

fn clock(registry: &Registry, report: &mut Report) {
    let Some(ahead) = registry.clock_ahead_secs() else { return };
    let skew = ahead.unsigned_abs();
    let direction = if ahead > 0 { "ahead of" } else { "behind" };
    let found = format!("this machine's clock is {skew} s {direction} the registry's");
    let change = "set the clock: timedatectl set-ntp true, or chronyc makestep";
    match skew {
        0..SKEW_SECS_MUCH => report.ok("this machine's clock agrees with the registry's"),
        SKEW_SECS_MUCH..SKEW_SECS_MAX => report.warning(found, change),
        _ => report.problem(format!("{found}: certificates and tokens may be refused"), change),
    }
}
