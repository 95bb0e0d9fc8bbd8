//! containerd's configuration as far as it concerns oncefs: the file, and those it imports.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::doctor::text;
use crate::errors::of_toml;

/// Files that one may import, at most.
const IMPORTS_MAX: usize = 64;

/// All files taken together: later ones win, table by table.
#[derive(Debug, Default)]
pub(super) struct Settings(Table);

/// What came of reading them.
#[derive(Debug)]
pub(super) enum Read {
    Here(Settings),
    Missing,
    /// Which file, and what is wrong with it.
    Wrong(String),
}

/// An entry of proxy_plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProxyPlugin {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) address: String,
    pub(super) capabilities: Vec<String>,
    /// In its exports.
    pub(super) root: Option<String>,
}

// === impl Settings ===

impl Settings {
    pub(super) fn read(path: &Path) -> Read {
        let mut table = match read_one(path) {
            Ok(Some(table)) => table,
            Ok(None) => return Read::Missing,
            Err(cause) => return Read::Wrong(cause),
        };
        let imports = strings(table.get("imports"));
        for import in imports.iter().flat_map(|pattern| matching(path, pattern)).take(IMPORTS_MAX) {
            match read_one(&import) {
                Ok(Some(more)) => merge(&mut table, more),
                Ok(None) => {}
                Err(cause) => return Read::Wrong(cause),
            }
        }
        Read::Here(Self(table))
    }

    /// Of the file's form: 2 is containerd 1's, 3 and above are containerd 2's; 0 is not said.
    pub(super) fn version(&self) -> i64 {
        self.0.get("version").and_then(Value::as_integer).unwrap_or(0)
    }

    pub(super) fn proxy_plugins(&self) -> Vec<ProxyPlugin> {
        let Some(Value::Table(plugins)) = self.0.get("proxy_plugins") else { return Vec::new() };
        let plugin = |(name, entry): (&String, &Value)| {
            let said = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
            let root = entry.get("exports").and_then(|exports| exports.get("root")?.as_str());
            ProxyPlugin {
                name: name.clone(),
                kind: said("type").unwrap_or_default(),
                address: said("address").unwrap_or_default(),
                capabilities: strings(entry.get("capabilities")),
                root: root.map(str::to_owned),
            }
        };
        plugins.iter().map(plugin).collect()
    }

    /// Whether the plugin's exports tell containerd from 2.1 on to send the names of images.
    pub(super) fn exports_annotations(&self, plugin: &str) -> bool {
        let keys = ["proxy_plugins", plugin, "exports"];
        self.text(&keys, "enable_remote_snapshot_annotations").as_deref() == Some("true")
    }

    /// Where CRI's images are configured: what people call it, and its keys.
    pub(super) fn images_section(&self, is_of_2: bool) -> (&'static str, Vec<&'static str>) {
        if is_of_2 {
            ("[plugins.\"io.containerd.cri.v1.images\"]", vec!["plugins", "io.containerd.cri.v1.images"])
        } else {
            (
                "[plugins.\"io.containerd.grpc.v1.cri\".containerd]",
                vec!["plugins", "io.containerd.grpc.v1.cri", "containerd"],
            )
        }
    }

    /// Where CRI's containers are.
    pub(super) fn runtime_section(&self, is_of_2: bool) -> (&'static str, Vec<&'static str>) {
        if is_of_2 {
            ("[plugins.\"io.containerd.cri.v1.runtime\"]", vec!["plugins", "io.containerd.cri.v1.runtime"])
        } else {
            ("[plugins.\"io.containerd.grpc.v1.cri\"]", vec!["plugins", "io.containerd.grpc.v1.cri"])
        }
    }

    /// Whom the transfer service gives images to.
    pub(super) fn unpackers(&self) -> Vec<String> {
        let config = self.at(&["plugins", "io.containerd.transfer.v1.local"]);
        let entries = config.and_then(|config| config.get("unpack_config")?.as_array());
        let named = entries.into_iter().flatten().filter_map(|entry| entry.get("snapshotter")?.as_str());
        named.map(str::to_owned).collect()
    }

    /// Where containerd listens.
    pub(super) fn socket(&self) -> String {
        self.text(&["grpc"], "address").unwrap_or_else(|| "/run/containerd/containerd.sock".to_owned())
    }

    pub(super) fn text(&self, section: &[&str], key: &str) -> Option<String> {
        self.at(section)?.get(key)?.as_str().map(str::to_owned)
    }

    pub(super) fn boolean(&self, section: &[&str], key: &str) -> Option<bool> {
        self.at(section)?.get(key)?.as_bool()
    }

    fn at(&self, section: &[&str]) -> Option<&Table> {
        section.iter().try_fold(&self.0, |table, key| table.get(*key)?.as_table())
    }
}

fn read_one(path: &Path) -> Result<Option<Table>, String> {
    match text(path) {
        Ok(text) => {
            let wrong = |error| format!("{} cannot be used: {}", path.display(), of_toml(&text, &error));
            text.parse().map(Some).map_err(wrong)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
    }
}

/// Files that an import names: one, or with `*` for a part of the last name those of a folder, in the order of their names. What is
/// relative is so to the importing file.
fn matching(importing: &Path, pattern: &str) -> Vec<PathBuf> {
    let path = importing.parent().unwrap_or(Path::new("/")).join(pattern);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((begin, end)) = name.split_once('*') else { return vec![path] };
    let Some(entries) = path.parent().and_then(|folder| std::fs::read_dir(folder).ok()) else { return Vec::new() };
    let is_meant = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.len() >= begin.len() + end.len() && name.starts_with(begin) && name.ends_with(end)
    };
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_meant).collect();
    files.sort();
    files
}

fn merge(table: &mut Table, more: Table) {
    for (key, value) in more {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => drop(table.insert(key, value)),
        }
    }
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_come_in_the_order_of_their_names_and_add_to_tables() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write(
            "config.toml",
            "version = 3\nimports = [\"conf.d/*.toml\", \"none.toml\"]\n[grpc]\naddress = \"/a\"\nuid = 1\n",
        );
        std::fs::create_dir(folder.path().join("conf.d")).unwrap();
        write("conf.d/2.toml", "[grpc]\naddress = \"/c\"\n");
        write("conf.d/1.toml", "[grpc]\naddress = \"/b\"\n[proxy_plugins.x]\ntype = \"snapshot\"\naddress = \"/s\"\n");
        write("conf.d/readme", "nonsense");
        let Read::Here(settings) = Settings::read(&folder.path().join("config.toml")) else { panic!("it is there") };
        assert_eq!((settings.version(), settings.socket()), (3, "/c".to_owned()));
        assert_eq!(settings.at(&["grpc"]).unwrap()["uid"].as_integer(), Some(1));
        let plugins = settings.proxy_plugins();
        assert_eq!((plugins.len(), plugins[0].address.as_str()), (1, "/s"));
        write("conf.d/3.toml", "[plugins.cri.registry.configs.x.auth]\npassword = \"s3cret\n");
        let Read::Wrong(cause) = Settings::read(&folder.path().join("config.toml")) else { panic!("it is wrong") };
        assert!(cause.contains("3.toml") && cause.contains("line 2") && !cause.contains("s3cret"), "{cause}");
    }
}
