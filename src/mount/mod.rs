//! What to mount for a snapshot: lists of mounts as containerd performs them. Pure; nothing is mounted here.
//!
//! The forms are those of containerd's own overlay snapshotter, so that everything that works on its mounts (idmapping,
//! shortening of long options, turning a view into a read-only root) works on ours.

use std::path::PathBuf;

/// One mount that containerd performs, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub kind: Kind,
    pub source: PathBuf,
    pub options: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bind,
    Overlay,
}

/// Where a container's writes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upper {
    pub fs: PathBuf,
    pub work: PathBuf,
}

/// Users and groups of a container, as containerd writes them: `CONTAINER:HOST:LENGTH`, separated by commas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    pub users: Option<String>,
    pub groups: Option<String>,
}

// === impl Kind ===

impl Kind {
    /// As mount(2) names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Overlay => "overlay",
        }
    }
}

// === impl Mapping ===

impl Mapping {
    /// Users and groups in the kernel's form (user_namespaces(7)), if both are said.
    pub fn maps(&self) -> Option<(String, String)> {
        let lines = |text: &String| text.split(',').map(|range| range.replace(':', " ") + "\n").collect();
        Some((self.users.as_ref().map(lines)?, self.groups.as_ref().map(lines)?))
    }

    /// Not the kernel's: containerd takes them out, and has the mount idmapped.
    fn options(&self) -> impl Iterator<Item = String> {
        let users = self.users.iter().map(|users| format!("uidmap={users}"));
        users.chain(self.groups.iter().map(|groups| format!("gidmap={groups}")))
    }
}

/// The mounts of a snapshot to write to. `lower` is top first: at most one directory for all remote layers, and one for each
/// that containerd unpacked.
pub fn writable(upper: &Upper, lower: &[PathBuf], mapping: &Mapping) -> Vec<Mount> {
    if lower.is_empty() {
        return vec![bind(upper.fs.clone(), "rw", mapping)];
    }
    let mut options = vec![format!("workdir={}", upper.work.display()), format!("upperdir={}", upper.fs.display())];
    options.push(lowerdir(lower));
    vec![overlay(options, mapping)]
}

/// The mounts of a snapshot that is only looked at; `own` is its own empty directory, which is all there is to see
/// without a parent.
pub fn read_only(own: PathBuf, lower: &[PathBuf], mapping: &Mapping) -> Vec<Mount> {
    match lower {
        [] => vec![bind(own, "ro", mapping)],
        [only] => vec![bind(only.clone(), "ro", mapping)],
        _ => vec![overlay(vec![lowerdir(lower)], mapping)],
    }
}

/// Whether overlayfs can be told of this directory: its options have no way to write these.
pub fn is_nameable(path: &std::path::Path) -> bool {
    path.to_str().is_some_and(|path| !path.contains([':', ',', '\\']))
}

fn bind(source: PathBuf, access: &str, mapping: &Mapping) -> Mount {
    let mut options = vec![access.to_owned(), "rbind".to_owned()];
    options.extend(mapping.options());
    Mount { kind: Kind::Bind, source, options }
}

fn overlay(mut options: Vec<String>, mapping: &Mapping) -> Mount {
    // Without the index: a lower directory that several containers share is what it would object to.
    options.insert(0, "index=off".to_owned());
    options.extend(mapping.options());
    Mount { kind: Kind::Overlay, source: "overlay".into(), options }
}

fn lowerdir(lower: &[PathBuf]) -> String {
    let directories: Vec<String> = lower.iter().map(|directory| directory.display().to_string()).collect();
    format!("lowerdir={}", directories.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upper() -> Upper {
        Upper { fs: "/s/3/fs".into(), work: "/s/3/work".into() }
    }

    #[test]
    fn what_has_no_parent_is_its_own_directory() {
        let options = |mounts: Vec<Mount>| (mounts[0].kind, mounts[0].source.clone(), mounts[0].options.join(","));
        assert_eq!(
            options(writable(&upper(), &[], &Mapping::default())),
            (Kind::Bind, "/s/3/fs".into(), "rw,rbind".into())
        );
        assert_eq!(
            options(read_only("/s/3/fs".into(), &[], &Mapping::default())),
            (Kind::Bind, "/s/3/fs".into(), "ro,rbind".into())
        );
    }

    #[test]
    fn a_container_has_an_overlay_over_what_is_below_it_top_first() {
        let mounts = writable(&upper(), &["/s/2/fs".into(), "/r/fs/ab".into()], &Mapping::default());
        let want = "index=off,workdir=/s/3/work,upperdir=/s/3/fs,lowerdir=/s/2/fs:/r/fs/ab";
        assert_eq!((mounts.len(), mounts[0].kind, mounts[0].options.join(",").as_str()), (1, Kind::Overlay, want));
    }

    #[test]
    fn looking_at_one_layer_needs_no_overlay() {
        let one = read_only("/s/3/fs".into(), &["/r/fs/ab".into()], &Mapping::default());
        assert_eq!((one[0].kind, one[0].source.to_str()), (Kind::Bind, Some("/r/fs/ab")));
        let two = read_only("/s/3/fs".into(), &["/s/2/fs".into(), "/r/fs/ab".into()], &Mapping::default());
        assert_eq!(two[0].options.join(","), "index=off,lowerdir=/s/2/fs:/r/fs/ab");
    }

    #[test]
    fn a_user_namespace_is_told_at_the_end() {
        let mapping = Mapping { users: Some("0:100000:65536".into()), groups: Some("0:200000:65536".into()) };
        let mounts = writable(&upper(), &["/r/fs/ab".into()], &mapping);
        let told = ["uidmap=0:100000:65536".into(), "gidmap=0:200000:65536".into()];
        assert!(mounts[0].options.ends_with(&told));
        assert!(writable(&upper(), &[], &mapping)[0].options.ends_with(&told));
        assert!(read_only("/s/3/fs".into(), &["/r/fs/ab".into()], &mapping)[0].options.ends_with(&told));
    }

    #[test]
    fn a_directory_that_an_option_cannot_name_is_known() {
        assert!(is_nameable(std::path::Path::new("/var/lib/oncefs")));
        assert!(!is_nameable(std::path::Path::new("/var/lib/a:b")) && !is_nameable(std::path::Path::new("/a,b")));
    }
}
