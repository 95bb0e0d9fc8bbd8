//! Who may use the control socket: a group of operators, for what stays within the store; and nobody else.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use super::stage::{Service, needed};
use crate::cli::image::Image;
use crate::cli::node::{ONCEFS, Ran, copy_program, run};
use crate::cli::registry::Registry;

/// Groups and a user that nobody has a name for.
const OPERATORS: &str = "47110";
const OTHERS: &str = "47111";
const SOMEBODY: &str = "47112";

/// Runs the program as a user who has this group beside its own.
fn as_member(service: &Service, group: &str, arguments: &[&str]) -> Ran {
    let mut command = Command::new(needed("setpriv"));
    command.args(["--reuid", SOMEBODY, "--regid", SOMEBODY, "--groups", group, "--inh-caps=-all"]);
    command.arg(service.path("oncefs")).arg("--run").arg(service.run_dir()).args(arguments);
    // Without a home: whoever asks a server need not have a store of their own.
    run(command.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/"))
}

fn service(configuration: &str) -> Service {
    let service = Service::started(configuration);
    std::fs::set_permissions(service.path(""), std::fs::Permissions::from_mode(0o711)).unwrap();
    copy_program(ONCEFS, &service.path("oncefs"));
    service
}

fn mode_and_group(path: &Path) -> (u32, u32) {
    let metadata = path.metadata().unwrap();
    (metadata.mode() & 0o777, metadata.gid())
}

#[test]
fn operators_decide_what_is_in_the_cache_and_nothing_beyond_the_store() {
    let service = service(&format!("[server]\ngroup = \"{OPERATORS}\"\n"));
    let (image, at) = (Image::usual(350), service.path("mnt"));
    let (registry, place) = (Registry::with(&image), at.to_str().unwrap().to_owned());
    std::fs::create_dir(&at).unwrap();
    let group = OPERATORS.parse().unwrap();
    assert_eq!(mode_and_group(&service.socket("control")), (0o660, group));
    assert_eq!(mode_and_group(&service.run_dir()), (0o710, group), "it can be passed through, and not listed");
    for socket in ["snapshotter", "cri"] {
        assert_eq!(mode_and_group(&service.socket(socket)), (0o600, 0), "{socket}");
    }
    as_member(&service, OPERATORS, &["pull", &registry.image()]).well();
    as_member(&service, OPERATORS, &["pin", &registry.image()]).well();
    assert!(as_member(&service, OPERATORS, &["status"]).well().out.contains(&registry.image()));
    as_member(&service, OPERATORS, &["check"]).well();
    as_member(&service, OPERATORS, &["unpin", &registry.image()]).well();
    as_member(&service, OPERATORS, &["prune"]).well();

    let layout = image.write_layout(&service.path("layout"));
    let mut alone = Command::new(needed("setpriv"));
    alone.args(["--reuid", SOMEBODY, "--regid", SOMEBODY, "--clear-groups"]).arg(service.path("oncefs")).arg("status");
    run(alone.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/")).fails(2, &["HOME is not set", "--root"]);
    for refused in [&["mount", &registry.image(), &place][..], &["umount", "--all"], &["pull", &layout]] {
        as_member(&service, OPERATORS, refused).fails(5, &["only root", "operators may ask for status"]);
    }
    service.oncefs(&["mount", &registry.image(), &place]).end().well();
    as_member(&service, OPERATORS, &["umount", &place]).fails(5, &["only root"]);
    service.oncefs(&["umount", &place]).end().well();
}

#[test]
fn nobody_else_is_answered_however_they_get_to_the_socket() {
    let open = std::fs::Permissions::from_mode(0o777);
    for configuration in ["", &format!("[server]\ngroup = \"{OPERATORS}\"\n")] {
        let service = service(configuration);
        as_member(&service, OTHERS, &["status"]).fails(5, &["is not for this user to see"]);
        // As if somebody had made the way free: it is the kernel that says who calls.
        for path in [service.run_dir(), service.socket("control")] {
            std::fs::set_permissions(path, open.clone()).unwrap();
        }
        as_member(&service, OTHERS, &["status"]).fails(5, &["this server answers root"]);
        as_member(&service, "0", &["status"]).fails(5, &["this server answers root"]);
    }
}

/// It has passwords in it, and leaves no core. What the kernel shows of such a process belongs to root, whoever runs it.
#[test]
fn the_memory_of_a_server_is_not_for_its_user_to_see() {
    let mut service = Service::new("");
    copy_program(ONCEFS, &service.path("oncefs"));
    std::fs::set_permissions(service.path(""), std::fs::Permissions::from_mode(0o711)).unwrap();
    std::fs::set_permissions(service.path("notify"), std::fs::Permissions::from_mode(0o666)).unwrap();
    let somebody: u32 = SOMEBODY.parse().unwrap();
    for place in [service.path("root"), service.run_dir()] {
        std::fs::create_dir(&place).unwrap();
        std::os::unix::fs::chown(place, Some(somebody), Some(somebody)).unwrap();
    }
    let mut command = service.command(&needed("setpriv"));
    command.args(["--reuid", SOMEBODY, "--regid", SOMEBODY, "--clear-groups", "--inh-caps=-all"]);
    command.arg(service.path("oncefs")).args(service.arguments()).arg("serve");
    service.started_by(&mut command);
    service.hear("READY=1");
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    assert!(status.contains(&format!("Uid:\t{SOMEBODY}")), "{status}");
    let memory = std::fs::metadata(format!("/proc/{}/mem", service.pid())).unwrap();
    assert_eq!(memory.uid(), 0);
}

#[test]
fn a_group_that_there_is_not_is_told_at_the_start() {
    let mut service = Service::new("[server]\ngroup = \"no-such-group\"\n");
    service.start(&[]);
    service.end().fails(2, &["no-such-group", "[server] group"]);
}
