//! Sockets that systemd has made: `systemd-socket-activate` hands them over as the service manager does.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::process::Signal;

use super::stage::{Service, get, needed};
use crate::cli::node::{ONCEFS, until};

fn activated(service: &mut Service, names: Option<&str>) {
    std::fs::create_dir(service.run_dir()).unwrap();
    std::fs::set_permissions(service.run_dir(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let mut command = service.command(&needed("systemd-socket-activate"));
    for name in ["control", "snapshotter", "cri"] {
        command.arg("--listen").arg(service.socket(name));
    }
    if let Some(names) = names {
        command.arg(format!("--fdname={names}"));
    }
    for variable in ["NOTIFY_SOCKET", "PATH", "HOME"] {
        command.arg(format!("--setenv={variable}"));
    }
    command.arg(ONCEFS).args(service.arguments()).arg("serve");
    service.started_by(&mut command);
    until("systemd listens", || service.socket("cri").exists());
}

#[test]
fn sockets_of_systemd_are_used_by_name_or_by_place_and_left_to_it() {
    for names in [Some("control:snapshotter:cri"), None] {
        let mut service = Service::new("");
        activated(&mut service, names);
        // It is started by this.
        let first = UnixStream::connect(service.socket("control")).unwrap();
        assert_eq!(get(first, "/healthz").body, "ok\n");
        service.hear("READY=1");
        service.signal(Signal::TERM);
        service.end().well();
        for name in ["control", "snapshotter", "cri"] {
            assert!(service.socket(name).exists(), "{name} is systemd's, and was taken away");
        }
    }
}

/// A unit's SocketGroup= would be true of containerd's socket too.
#[test]
fn of_the_sockets_of_systemd_only_the_control_socket_is_given_to_the_group() {
    let mut service = Service::new("[server]\ngroup = \"47110\"\n");
    activated(&mut service, None);
    let first = UnixStream::connect(service.socket("control")).unwrap();
    assert_eq!(get(first, "/healthz").body, "ok\n");
    let mode_and_group = |path: &Path| path.metadata().map(|it| (it.mode() & 0o777, it.gid())).unwrap();
    assert_eq!(mode_and_group(&service.socket("control")), (0o660, 47110));
    assert_eq!(mode_and_group(&service.run_dir()), (0o710, 47110));
    for socket in ["snapshotter", "cri"] {
        let (mode, group) = mode_and_group(&service.socket(socket));
        assert_eq!((mode & 0o022, group), (0, 0), "{socket}: {mode:o}: connecting is writing");
    }
}

#[test]
fn sockets_that_are_meant_for_another_process_are_not_taken() {
    let mut service = Service::new("");
    service.start(&[("LISTEN_PID", "1"), ("LISTEN_FDS", "3"), ("LISTEN_FDNAMES", "control:snapshotter:cri")]);
    service.hear("READY=1");
    assert_eq!(service.get("/healthz").status, 200);
}
