//! A registry whose name is not found, for a while and for good. Its host is spoken to over plain HTTP, and that is told.

use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use super::proxy::Proxy;
use super::stage::{Hub, assert_eio, assert_read, needed};
use crate::cli::node::{ONCEFS, Ran, Running, run, until};
use crate::daemon::stage::Service;

const NAME: &str = "hub.oncefs.test";

/// A server with a table of hosts of its own, in a mount namespace of its own, and no name server; it has an image mounted.
struct Named {
    service: Service,
    at: PathBuf,
    // Its connections are not kept open: each request looks for the name.
    _proxy: Proxy,
    _hub: Hub,
}

// === impl Named ===

impl Named {
    fn start(outage_secs: u32, seed: u64) -> Self {
        let hub = Hub::with_layers(1, seed);
        let proxy = Proxy::before(hub.address());
        let service = Service::new("");
        let lines = format!(
            "[registry]\ninsecure_hosts = [\"{NAME}\"]\nretries = 1\nretry_pause_ms = 10\n[profile]\nrecord_secs = 0\n\
             [fetch]\nbackground = \"off\"\nread_ahead_bytes_max = 0\noutage_secs = {outage_secs}\n"
        );
        std::fs::write(service.path("config.toml"), lines).unwrap();
        std::fs::write(service.path("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").unwrap();
        let at = service.path("mnt");
        std::fs::create_dir(&at).unwrap();
        let mut named = Self { at, _proxy: proxy, _hub: hub, service };
        named.is_known(true);
        let line = "mount --bind hosts /etc/hosts && mount --bind resolv.conf /etc/resolv.conf && exec \"$@\"";
        let mut command = named.service.command(&needed("unshare"));
        command.args(["--mount", "sh", "-ec", line, "sh", ONCEFS]).args(named.service.arguments()).arg("serve");
        named.service.started_by(&mut command);
        named.service.hear("READY=1");
        let image = format!("{NAME}:{}/image:1", named._proxy.address().port());
        named.oncefs(&["mount", &image, named.at.to_str().unwrap()]).well();
        run(named.inside("ls").arg(named.at.join("layer-0"))).well();
        named
    }

    /// From now on the table has the name, or has not.
    fn is_known(&self, is_so: bool) {
        let name = if is_so { NAME } else { "" };
        std::fs::write(self.service.path("hosts"), format!("127.0.0.1 localhost {name}\n")).unwrap();
    }

    /// A program in the server's namespace.
    fn inside(&self, program: &str) -> Command {
        let mut command = self.service.command(&needed("nsenter"));
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.service.pid())).arg(program);
        command
    }

    fn oncefs(&self, arguments: &[&str]) -> Ran {
        run(self.inside(ONCEFS).args(self.service.arguments()).args(arguments))
    }

    fn starts_reading(&self, file: usize) -> Running {
        Running::start(self.inside("sha256sum").arg(self.at.join(format!("layer-0/file-{file}"))))
    }

    /// Unmounts, stops the server, and gives what it has said.
    fn end(mut self) -> Ran {
        self.oncefs(&["umount", self.at.to_str().unwrap()]).well();
        self.service.signal(Signal::TERM);
        self.service.end()
    }
}

#[test]
fn readers_wait_for_a_name_that_is_not_found() {
    const SEED: u64 = 5_700;
    let named = Named::start(100, SEED);
    named.is_known(false);
    let reader = named.starts_reading(0);
    until("the name is looked for again", || named.service.metric("oncefs_fetch_outage_tries_total") >= 1.0);
    named.is_known(true);
    assert_read(reader.end(), SEED, 0, 0);
    let said = named.end();
    let told = said.err.lines().filter(|line| line.contains("is not verified")).collect::<Vec<_>>();
    assert!(told.len() == 1 && told[0].contains(NAME) && told[0].contains("registry.insecure_hosts"), "{said:?}");
}

#[test]
fn a_name_that_is_not_found_for_long_is_an_error() {
    const SEED: u64 = 5_800;
    let named = Named::start(1, SEED);
    named.is_known(false);
    assert_eio(&named.starts_reading(0).end());
    named.is_known(true);
    assert_read(named.starts_reading(0).end(), SEED, 0, 0);
    named.end();
}
