//! `/metrics` and `/healthz`: what they show is what happened, and what docs/metrics.md says.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags};

use super::stage::{Service, get};
use crate::cli::image::Image;
use crate::cli::mounting::assert_usual;
use crate::cli::node::{run, until};
use crate::cli::registry::{Fault, Registry};
use crate::support::ports;

#[test]
fn bytes_and_requests_are_those_of_the_registrys_log() {
    let service = Service::started("");
    let image = Image::usual(331);
    let registry = Registry::with(&image);
    service.oncefs(&["pull", &registry.image()]).end().well();
    let blobs: usize = image.layers.iter().map(|layer| registry.count(layer.digest()).bytes).sum();
    assert_eq!(service.metric("oncefs_registry_blob_received_bytes_total"), blobs as f64);
    let requests = registry.layer_requests(&image);
    assert_eq!(service.metric("oncefs_registry_blob_requests_total"), requests as f64);
    let timed = [r#"{kind="blob"}"#, r#"{kind="range"}"#]
        .map(|kind| service.metric(&format!("oncefs_registry_request_duration_seconds_count{kind}")));
    assert!(timed.iter().sum::<f64>() >= requests as f64, "{timed:?}");
    let layers = image.layers.len() as f64;
    assert_eq!(service.metric("oncefs_layers"), layers);
    assert_eq!(service.metric("oncefs_scans_started_total"), layers);
    assert_eq!(service.metric("oncefs_layers_resident_bytes"), service.metric("oncefs_layers_data_bytes"));
}

#[test]
fn what_readers_get_is_counted() {
    let service = Service::started("");
    let registry = Registry::with(&Image::usual(332));
    let at = service.path("mnt");
    std::fs::create_dir(&at).unwrap();
    service.oncefs(&["mount", &registry.image(), at.to_str().unwrap()]).end().well();
    assert_eq!(service.metric("oncefs_mounts"), 1.0);
    assert_usual(&at, 332);
    let file = run(Command::new("wc").arg("-c").arg(at.join("etc/hello"))).well();
    let size: f64 = file.out.split(' ').next().unwrap().parse().unwrap();
    assert!(service.metric("oncefs_fuse_read_bytes_total") >= size);
    assert!(service.metric(r#"oncefs_fuse_read_duration_seconds_count{waited="false"}"#) >= 1.0);
    assert!(service.metric("oncefs_fuse_view_waits_total") >= 1.0, "the first look waited for the layers");
    service.oncefs(&["umount", at.to_str().unwrap()]).end().well();
    assert_eq!(service.metric("oncefs_mounts"), 0.0);
}

#[test]
fn failures_are_counted_by_their_cause() {
    let service = Service::started("");
    let image = Image::usual(333);
    let registry = Registry::with(&image);
    registry.fault(image.layers[0].digest(), Fault::FlippedAt(50));
    service.oncefs(&["pull", &registry.image()]).end().fails(3, &[]);
    service.oncefs(&["pull", &format!("{}/images/usual:2", registry.host())]).end().fails(4, &[]);
    for (cause, count) in [("corrupt", 1.0), ("not_found", 1.0), ("denied", 0.0)] {
        assert_eq!(service.metric(&format!("oncefs_call_failures_total{{cause=\"{cause}\"}}")), count, "{cause}");
    }
}

/// What is served, by name: its type, unit and meaning.
fn served(text: &str) -> BTreeMap<String, (String, String)> {
    let mut all = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, meaning)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            all.entry(name.to_owned()).or_insert((String::new(), String::new())).1 =
                meaning.trim_end_matches('.').to_owned();
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            all.entry(name.to_owned()).or_insert((String::new(), String::new())).0 = kind.to_owned();
        }
    }
    all
}

#[test]
fn each_metric_is_in_the_documentation_and_no_other() {
    let page = Service::started("").get("/metrics");
    assert!(
        page.head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{}",
        page.head
    );
    assert!(page.body.ends_with("# EOF\n"));
    let documentation = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let documentation = std::fs::read_to_string(documentation).unwrap();
    let mut documented = BTreeMap::new();
    for row in documentation.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, meaning] = cells[..] else { panic!("{row}") };
        documented.insert(name.trim_matches('`').to_owned(), (kind.to_owned(), meaning.to_owned()));
    }
    assert_eq!(documented, served(&page.body));
}

#[test]
fn health_is_denied_while_the_mount_cannot_be_reached() {
    let service = Service::started("");
    assert_eq!(service.get("/healthz").status, 200);
    let fs = service.run_dir().join("fs");
    rustix::mount::mount("tmpfs", &fs, "tmpfs", MountFlags::empty(), None::<&std::ffi::CStr>).unwrap();
    let page = service.get("/healthz");
    assert_eq!(page.status, 503);
    assert!(page.body.contains("not mounted") && page.body.contains(fs.to_str().unwrap()), "{}", page.body);
    rustix::mount::unmount(&fs, UnmountFlags::DETACH).unwrap();
    assert_eq!(service.get("/healthz").status, 200);
    // It is mounted again when somebody takes it away by force.
    rustix::mount::unmount(&fs, UnmountFlags::DETACH).unwrap();
    until("the mount is there again", || service.get("/healthz").status == 200);
}

#[test]
fn metrics_and_health_are_served_over_tcp_where_the_configuration_says_so_and_nothing_else_is() {
    let address = ports::unused();
    let service = Service::started(&format!("[metrics]\nlisten = \"{address}\"\n"));
    let ask = |path: &str| get(TcpStream::connect(address).unwrap(), path);
    assert_eq!(ask("/healthz").body, "ok\n");
    assert!(ask("/metrics").body.contains("oncefs_layers 0"));
    assert_eq!(ask("/v1/status").status, 404);
    assert_eq!(service.get("/healthz").status, 200);
}
