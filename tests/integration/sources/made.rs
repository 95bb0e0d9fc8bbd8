//! An image with every kind of entry, and the same image as other programs convert it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use oncefs::digest::Digest;
use serde_json::Value;

use crate::cli::image::{Image, Layer, MANIFEST};
use crate::cli::node::{Node, Ran, run, until};
use crate::cli::registry::Registry;
use crate::index::made::program;

/// An image as it lies in a registry: its manifest, and its blobs by digest.
#[derive(Clone)]
pub(crate) struct Indexed {
    pub(crate) manifest: Value,
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    /// A manifest beside the image's.
    pub(crate) index: Option<Value>,
    /// The manifest of the image with the tables of contents, if they are not in the layers.
    pub(crate) tables: Option<Value>,
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What stands after that image's tag.
pub(crate) const TABLES_ENDING: &str = "-esgztoc";

/// A small file among large ones.
pub(crate) const SMALL: (&str, &str) = ("srv/small", "a small file\n");

const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Three layers: every kind of entry with attributes of every kind, programs of some size, and what hides the others.
pub(crate) fn original() -> Image {
    Image::of(&layers().map(|tar| Layer::gzip(&tar)))
}

/// The same, not packed.
pub(crate) fn plain() -> Image {
    Image::of(&layers().map(|tar| Layer::plain(&tar)))
}

fn layers() -> [Vec<u8>; 3] {
    let bottom = Kinds::new()
        .entry(tar::EntryType::Directory, "dev", 0o755, b"", None)
        .entry(tar::EntryType::Char, "dev/null", 0o666, b"", Some((1, 3)))
        .entry(tar::EntryType::Block, "dev/disk", 0o660, b"", Some((8, 1)))
        .entry(tar::EntryType::Fifo, "dev/pipe", 0o600, b"", None)
        .entry(tar::EntryType::Directory, "tmp", 0o1777, b"", None)
        .entry(tar::EntryType::Regular, "bin-su", 0o4755, b"set-user-id\n", None)
        .xattrs([("user.note", b"one\0two"), ("security.capability", &CAPABILITY)])
        .entry(tar::EntryType::Regular, "with-attributes", 0o640, b"attributes\n", None)
        .entry(tar::EntryType::Regular, "name with spaces and \u{fc}\u{4e16}", 0o644, b"letters\n", None)
        .entry(tar::EntryType::Regular, "only/parents/implied", 0o644, b"deep\n", None)
        .entry(tar::EntryType::Regular, "old/hidden", 0o644, b"hidden\n", None)
        .entry(tar::EntryType::Regular, "gone", 0o644, b"gone\n", None)
        .entry(tar::EntryType::Regular, "holes", 0o644, &[&program(5, 9_000)[..], &[0; 200_001], b"end"].concat(), None)
        .entry(tar::EntryType::Regular, "zeros", 0o644, &[0; 40_000], None)
        .entry(tar::EntryType::Regular, "large", 0o644, &program(77, 5_000_000), None)
        .entry(tar::EntryType::Regular, SMALL.0, 0o644, SMALL.1.as_bytes(), None);
    let long = format!("usr/{}name", "long-directory-name/".repeat(12));
    let sizes = [100, 5_000, 70_000, 900_000, 200_000, 3_000, 1, 512, 40_000];
    let programs = sizes.into_iter().zip(0u32..).fold(Kinds::new(), |made, (size, n)| {
        let name = format!("usr/bin/program-{n}");
        made.entry(tar::EntryType::Regular, &name, 0o755 - (n & 2), &program(n.into(), size), None)
    });
    let middle = programs
        .link(tar::EntryType::Symlink, "bin", "usr/bin")
        .link(tar::EntryType::Link, "usr/bin/same", "usr/bin/program-3")
        .entry(tar::EntryType::Regular, "etc/empty", 0o644, b"", None)
        .entry(tar::EntryType::Regular, &long, 0o644, b"long\n", None);
    let top = Kinds::new()
        .entry(tar::EntryType::Regular, ".wh.gone", 0o644, b"", None)
        .entry(tar::EntryType::Regular, "old/.wh..wh..opq", 0o644, b"", None)
        .entry(tar::EntryType::Regular, "old/new", 0o600, b"new\n", None);
    [bottom.done(), middle.done(), top.done()]
}

/// A tar whose entries have owners and times of their own.
struct Kinds(tar::Builder<Vec<u8>>);

impl Kinds {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn entry(
        mut self,
        kind: tar::EntryType,
        path: &str,
        mode: u32,
        content: &[u8],
        device: Option<(u32, u32)>,
    ) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1000 + u64::from(mode));
        header.set_gid(100);
        header.set_mtime(1_600_000_000 + u64::from(mode));
        header.set_size(content.len() as u64);
        if let Some((major, minor)) = device {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        }
        self.0.append_data(&mut header, path, content).unwrap();
        self
    }

    fn link(mut self, kind: tar::EntryType, path: &str, target: &str) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o777);
        header.set_mtime(1_600_000_000);
        header.set_size(0);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    /// Of the entry that follows.
    fn xattrs(mut self, attributes: [(&str, &[u8]); 2]) -> Self {
        let records = attributes.map(|(name, value)| (format!("SCHILY.xattr.{name}"), value));
        self.0.append_pax_extensions(records.iter().map(|(name, value)| (name.as_str(), *value))).unwrap();
        self
    }

    fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

// === impl Indexed ===

impl Indexed {
    fn of(manifest: Value, blob: impl Fn(&Value) -> Vec<u8>) -> Self {
        let named = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
        let digests = named.map(|descriptor| &descriptor["digest"]);
        let blobs = digests.map(|digest| (digest.as_str().unwrap().to_owned(), blob(digest))).collect();
        Self { manifest, blobs, index: None, tables: None }
    }

    /// An image as it is, without an index.
    pub(crate) fn plain(image: &Image) -> Self {
        let blobs = image.blobs().into_iter().map(|(digest, bytes)| (digest.to_string(), bytes)).collect();
        Self { manifest: serde_json::from_slice(&image.manifest).unwrap(), blobs, index: None, tables: None }
    }

    /// A registry that has it with the tag `1` under every name.
    pub(crate) fn registry(&self) -> Registry {
        let registry = Registry::empty();
        self.put(&registry, "1");
        registry
    }

    pub(crate) fn put(&self, registry: &Registry, tag: &str) {
        let manifest = self.manifest.to_string().into_bytes();
        registry.put(tag, MANIFEST, &manifest);
        registry.put(&Digest::of(&manifest).to_string(), MANIFEST, &manifest);
        if let Some(index) = &self.index {
            let document = index.to_string();
            if index["subject"].is_object() {
                self.put_beside(registry, index["config"]["mediaType"].as_str().unwrap(), document.as_bytes());
            } else {
                registry.put(&Digest::of(document.as_bytes()).to_string(), MANIFEST, document.as_bytes());
            }
        }
        if let Some(tables) = &self.tables {
            registry.put(&format!("{tag}{TABLES_ENDING}"), MANIFEST, tables.to_string().as_bytes());
        }
        for (digest, bytes) in &self.blobs {
            registry.put(digest, "application/octet-stream", bytes);
        }
    }

    /// Puts a manifest beside the image's, under the tag that stands in for the referrers API.
    pub(crate) fn put_beside(&self, registry: &Registry, artifact_type: &str, document: &[u8]) {
        let digest = Digest::of(document).to_string();
        registry.put(&digest, MANIFEST, document);
        let listed = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
            {"mediaType": MANIFEST, "digest": digest, "size": document.len(), "artifactType": artifact_type}]});
        let tag = Digest::of(self.manifest.to_string().as_bytes()).to_string().replace(':', "-");
        registry.put(&tag, INDEX, listed.to_string().as_bytes());
    }

    /// Has the image's manifest name the index, unless the index names the image.
    pub(crate) fn bind_index(&mut self) {
        let index = self.index.as_ref().unwrap();
        if index["subject"].is_object() {
            return;
        }
        let digest = Digest::of(index.to_string().as_bytes()).to_string();
        self.manifest["annotations"] = serde_json::json!({"com.amazon.soci.index-digest": digest});
    }

    pub(crate) fn layer_digest(&self, n: usize) -> String {
        self.manifest["layers"][n]["digest"].as_str().unwrap().to_owned()
    }

    pub(crate) fn layer(&self, n: usize) -> &[u8] {
        &self.blobs[&self.layer_digest(n)]
    }

    pub(crate) fn annotations(&mut self, n: usize) -> &mut serde_json::Map<String, Value> {
        self.manifest["layers"][n]["annotations"].as_object_mut().unwrap()
    }
}

/// The original as ctr-remote converts it with these options. Made once for all tests.
pub(crate) fn converted(options: &'static [&'static str]) -> Indexed {
    static MADE: OnceLock<parking::Made> = OnceLock::new();
    MADE.get_or_init(parking::Made::default).get(options)
}

mod parking {
    use super::*;
    use oncefs::sync::Mutex;

    #[derive(Default)]
    pub(super) struct Made(Mutex<BTreeMap<&'static [&'static str], Indexed>>);

    impl Made {
        pub(super) fn get(&self, options: &'static [&'static str]) -> Indexed {
            self.0.lock().entry(options).or_insert_with(|| convert(&original(), options)).clone()
        }
    }
}

/// The original as a recent skopeo packs it anew, in containers/storage's zstd:chunked. Made once for all tests.
pub(crate) fn repacked() -> Indexed {
    static MADE: OnceLock<Indexed> = OnceLock::new();
    MADE.get_or_init(repack).clone()
}

fn repack() -> Indexed {
    let dir = tempfile::tempdir().unwrap();
    let (source, layout) = (original().write_layout(&dir.path().join("original")), dir.path().join("repacked"));
    let (policy, target) = (dir.path().join("policy.json"), format!("oci:{}", layout.display()));
    fs::write(&policy, r#"{"default": [{"type": "insecureAcceptAnything"}]}"#).unwrap();
    let mut skopeo = Command::new(tool("skopeo"));
    skopeo.args(["copy", "--quiet", "--policy", policy.to_str().unwrap(), "--dest-force-compress-format"]);
    run(skopeo.args(["--dest-compress-format", "zstd:chunked", &source, &target])).well();
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let blob =
        |digest: &Value| fs::read(layout.join("blobs").join(digest.as_str().unwrap().replace(':', "/"))).unwrap();
    Indexed::of(serde_json::from_slice(&blob(&index["manifests"][0]["digest"])).unwrap(), |digest| blob(digest))
}

/// The image as ctr-remote converts it with these options.
pub(crate) fn convert(image: &Image, options: &[&str]) -> Indexed {
    let workshop = Workshop::open();
    let (from, to) = ("oncefs.test/image:original", "oncefs.test/image:converted");
    workshop.import(image, from);
    let ctr_remote = tool("ctr-remote");
    run(workshop.command(&ctr_remote).args(["images", "convert", "--oci"]).args(options).args([from, to])).well();
    let mut converted = workshop.export(to);
    if options.contains(&"--estargz-external-toc") {
        let tables = workshop.export(&format!("{to}{TABLES_ENDING}"));
        converted.blobs.extend(tables.blobs);
        converted.tables = Some(tables.manifest);
    }
    converted
}

/// The image with what soci makes of it with these options, bound by the manifest as version 2 of the format has it. The ztocs
/// are soci's own; the release at hand writes manifests of version 1 only.
pub(crate) fn with_soci(image: &Image, options: &[&str]) -> Indexed {
    let mut indexed = beside_soci(image, options);
    let index = indexed.index.as_mut().unwrap();
    index.as_object_mut().unwrap().remove("subject");
    index["config"]["mediaType"] = "application/vnd.amazon.soci.index.v2+json".into();
    indexed.bind_index();
    indexed
}

/// The image with what soci makes of it with these options beside it: version 1 of the format.
pub(crate) fn beside_soci(image: &Image, options: &[&str]) -> Indexed {
    let workshop = Workshop::open();
    let name = "oncefs.test/image:original";
    workshop.import(image, name);
    let at = workshop.dir.path();
    // It keeps its content where nobody else's may be touched.
    let line = format!(
        "mount -t tmpfs none /var/lib && mkdir /var/lib/soci-snapshotter-grpc && {soci} -a {at}/c.sock create {options} {name} && \
         cp -r /var/lib/soci-snapshotter-grpc/content/blobs/sha256 {at}/soci",
        soci = tool("soci").display(),
        at = at.display(),
        options = options.join(" "),
    );
    run(Command::new("unshare").args(["--mount", "sh", "-ec", &line])).well();
    let mut indexed = workshop.export(name);
    for entry in fs::read_dir(at.join("soci")).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        match serde_json::from_slice::<Value>(&bytes) {
            Ok(index) if index["layers"].is_array() => indexed.index = Some(index),
            _ => drop(indexed.blobs.insert(Digest::of(&bytes).to_string(), bytes)),
        }
    }
    let about = &mut indexed.index.as_mut().unwrap()["subject"]["digest"];
    assert_eq!(*about, image.manifest_digest().to_string());
    // The manifest is written anew here, with its keys in another order.
    *about = Digest::of(indexed.manifest.to_string().as_bytes()).to_string().into();
    indexed
}

/// A program that `tests/index-tools.sh` has fetched.
pub(crate) fn tool(name: &str) -> PathBuf {
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/index").join(name);
    assert!(at.exists(), "this test needs {}: run tests/index-tools.sh", at.display());
    at
}

/// A containerd whose content the converters read and write.
struct Workshop {
    dir: tempfile::TempDir,
    child: Child,
}

impl Workshop {
    fn open() -> Self {
        let dir = tempfile::Builder::new().prefix("oncefs-workshop-").tempdir().unwrap();
        let at = dir.path().display();
        let configuration = format!(
            "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = \"{at}/c.sock\"\n"
        );
        fs::write(dir.path().join("config.toml"), configuration).unwrap();
        let mut command = Command::new("containerd");
        command.arg("--config").arg(dir.path().join("config.toml"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let workshop =
            Self { dir, child: child.expect("the program containerd is needed (Debian package containerd)") };
        until("containerd answers", || run(workshop.ctr().args(["images", "ls"])).code == Some(0));
        workshop
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("CONTAINERD_ADDRESS", self.dir.path().join("c.sock")).current_dir(self.dir.path());
        command
    }

    fn ctr(&self) -> Command {
        self.command(Path::new("ctr"))
    }

    fn import(&self, image: &Image, name: &str) {
        // As it is: skopeo would pack what is not packed.
        let layout = self.dir.path().join("layout");
        image.write_layout(&layout);
        let mut index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
        index["manifests"][0]["annotations"] = serde_json::json!({"io.containerd.image.name": name});
        fs::write(layout.join("index.json"), index.to_string()).unwrap();
        run(Command::new("tar").arg("-C").arg(&layout).arg("-cf").arg(self.dir.path().join("archive.tar")).arg("."))
            .well();
        run(self.ctr().args(["images", "import", "--no-unpack", "archive.tar"])).well();
    }

    fn content(&self, digest: &str) -> Vec<u8> {
        let done = self.ctr().args(["content", "get", digest]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    }

    fn export(&self, name: &str) -> Indexed {
        let Ran { out, .. } = run(self.ctr().args(["images", "ls", &format!("name=={name}")])).well();
        let digest = out.split_whitespace().find(|word| word.starts_with("sha256:")).unwrap();
        let manifest: Value = serde_json::from_slice(&self.content(digest)).unwrap();
        Indexed::of(manifest, |digest| self.content(digest.as_str().unwrap()))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// What `status` says of the indexes of the first mount's layers.
pub(crate) fn indexes(node: &Node) -> Vec<String> {
    let status = node.status();
    let layers = status["mounts"][0]["image"]["layers"].as_array().unwrap();
    layers.iter().map(|layer| layer["index"].as_str().unwrap_or("none").to_owned()).collect()
}

/// Compares two trees as every system call sees them.
pub(crate) fn assert_same_trees(a: &Path, b: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compare-trees.sh");
    run(Command::new("sh").arg(script).args([a, b])).well();
}
