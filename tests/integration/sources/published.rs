//! oncefs's own index: scanned and pushed by one node, used by others that have never seen the image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::cli::image::{Image, Layer, Tar};
use crate::cli::node::{Node, cat, ls, run, sha256sum};
use crate::support::debian_registry::{DebianRegistry, bytes_of_blobs};
use crate::support::sample::noise;

/// Some content to begin with, then what nobody wants to fetch for it.
pub(super) const SMALL: (&str, &str) = ("etc/small", "small\n");
pub(super) const LARGE_BYTES: usize = 12 << 20;

fn image() -> Image {
    let bottom = Tar::new().file(SMALL.0, SMALL.1.as_bytes()).file("large", &noise(LARGE_BYTES, 7));
    let top = Tar::new().file("etc/.wh.nothing", b"").file("page", b"a page\n");
    Image::of(&[Layer::gzip(&bottom.done()), Layer::zstd(&top.done())])
}

/// An image in Debian's registry, and keys to sign with.
pub(super) struct Stage {
    pub(super) image: Image,
    pub(super) registry: DebianRegistry,
    keys: tempfile::TempDir,
}

impl Stage {
    pub(super) fn new() -> Self {
        Self::with(image())
    }

    pub(super) fn with(image: Image) -> Self {
        let registry = DebianRegistry::start(None);
        let keys = tempfile::tempdir().unwrap();
        let layout = keys.path().join("layout");
        fs::create_dir(&layout).unwrap();
        image.write_layout(&layout);
        registry.push_only(&layout, "team/app:1");
        Self { image, registry, keys }
    }

    /// The same with a registry that has answered nothing yet.
    pub(super) fn anew(self) -> Self {
        let Self { image, registry, keys } = self;
        let (_answered, stopped) = registry.stop();
        Self { image, registry: stopped.start(), keys }
    }

    pub(super) fn name(&self) -> String {
        format!("{}/team/app:1", self.registry.address)
    }

    /// A private key of OpenSSL's, and the public one as a configuration has it.
    pub(super) fn key(&self, name: &str) -> (PathBuf, String) {
        let file = self.keys.path().join(name);
        run(Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(&file)).well();
        let public = run(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&file)).well().out;
        (file, public.lines().nth(1).unwrap().to_owned())
    }

    /// A node that has scanned the image pushes its index. Gives the summary.
    fn push(&self, arguments: &[&str]) -> Value {
        let node = Node::new();
        let name = self.name();
        let arguments = [&["index", "push", "--json", &name], arguments].concat();
        serde_json::from_str(&node.oncefs(&arguments).well().out).unwrap()
    }

    /// A node that believes this key.
    pub(super) fn believer(&self, public: &str) -> Node {
        let node = Node::new();
        node.configure(&format!("[index]\nkeys = [\"{public}\"]\n"));
        node
    }

    /// What a tag leads to.
    fn digest_of(&self, repository: &str, tag: &str) -> String {
        let repositories = self.registry.data().join("docker/registry/v2/repositories");
        fs::read_to_string(repositories.join(repository).join("_manifests/tags").join(tag).join("current/link"))
            .unwrap()
    }

    /// Where the registry keeps a blob, or a manifest.
    fn data_of(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.registry.data().join("docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    /// Changes one byte of a blob, or of a manifest, where the registry keeps it.
    fn damage(&self, digest: &str, at: impl Fn(usize) -> usize) {
        let data = self.data_of(digest);
        let mut bytes = fs::read(&data).unwrap();
        let at = at(bytes.len());
        bytes[at] ^= 1;
        fs::write(&data, bytes).unwrap();
    }
}

/// What the layers' indexes are.
fn indexes(node: &Node) -> Vec<String> {
    let status = node.status();
    let layers = status["mounts"][0]["image"]["layers"].as_array().unwrap().iter();
    layers.map(|layer| layer["index"].as_str().unwrap_or("none").to_owned()).collect()
}

pub(super) const PUBLISHED: &str = "oncefs, made elsewhere, signed (blob not verified as a whole)";
const BOUND: &str = "oncefs, made elsewhere, bound by the manifest (blob not verified as a whole)";

fn large(at: &Path) -> String {
    sha256sum(&at.join("large"))
}

#[test]
fn what_one_node_has_scanned_another_mounts_without_fetching_it() {
    let stage = Stage::new();
    let (key, public) = stage.key("key.pem");
    let pushed = stage.push(&["--sign", key.to_str().unwrap()]);
    let index = &pushed["indexes"][0];
    assert_eq!(index["layers"].as_array().unwrap().len(), 2);
    let sizes = index["layers"].as_array().unwrap().iter().map(|layer| layer["size"].as_u64().unwrap());
    let (bytes, of) = (sizes.sum::<u64>(), pushed["image_bytes"].as_u64().unwrap());
    assert!(bytes * 1000 < of * 15, "{bytes} of {of}");
    assert_eq!(
        stage.push(&["--sign", key.to_str().unwrap()])["indexes"][0]["digest"],
        index["digest"],
        "deterministic"
    );

    let layer = stage.image.layers[0].digest().hex();
    let (name, stage) = (stage.name(), stage.anew());
    let node = stage.believer(&public);
    let at = node.mount(&name, "mnt");
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    assert_eq!(ls(&at), ["etc", "large", "page"]);
    assert_eq!(indexes(&node), [PUBLISHED, PUBLISHED]);
    let reader = Node::new();
    let scanned = reader.mount(&name, "scanned");
    assert_eq!(large(&at), large(&scanned));
    assert_eq!(indexes(&reader), ["scan of gzip", "scan of zstd"], "no key of this node");
    drop((node, reader));

    let (_answered, stopped) = stage.registry.stop();
    let registry = stopped.start();
    let node = Node::new();
    node.configure(&format!("[index]\nkeys = [\"{public}\"]\n"));
    let at = node.mount(&name, "mnt");
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    drop(node);
    let (answered, _stopped) = registry.stop();
    let fetched = bytes_of_blobs(&answered)[&layer];
    assert!(fetched < stage.image.layers[0].blob.len() as u64 / 2, "{fetched} bytes of the layer for one small file");
}

#[test]
fn indexes_are_listed_verified_and_removed() {
    let stage = Stage::new();
    let (key, public) = stage.key("key.pem");
    let node = stage.believer(&public);
    let name = stage.name();
    assert!(node.oncefs(&["index", "ls", &name]).well().out.contains("has no index beside it"));
    node.oncefs(&["index", "verify", &name]).fails(4, &["has no such index beside it", "oncefs index push"]);
    stage.push(&["--sign", key.to_str().unwrap()]);
    stage.push(&[]);
    let listed = node.oncefs(&["index", "ls", "--json", &name]).well().out;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let indexes = listed["indexes"].as_array().unwrap();
    assert_eq!(indexes.len(), 2, "{listed}");
    assert_eq!(indexes.iter().filter(|index| index["signed_by"] == public.as_str()).count(), 1, "{listed}");
    let said = node.oncefs(&["index", "ls", &name]).well().out;
    assert_eq!(
        (said.matches("; not signed\n").count(), said.matches(&format!("signed with {public}")).count()),
        (1, 1),
        "{said}"
    );
    let said = Node::new().oncefs(&["index", "ls", &name]).well().out;
    assert_eq!(
        (said.matches("; not signed\n").count(), said.matches("none of [index] keys").count()),
        (1, 1),
        "{said}"
    );
    let verified = node.oncefs(&["index", "verify", &name]).well().out;
    assert_eq!(verified.matches(" as a scan here says").count(), 2, "{verified}");

    let blob = indexes[0]["layers"][0].clone();
    assert_eq!(blob["layer"], stage.image.layers[0].digest().to_string());
    let one = indexes[0]["digest"].as_str().unwrap();
    assert!(node.oncefs(&["index", "rm", "--digest", one, &name]).well().out.contains("removed"));
    assert!(node.oncefs(&["index", "rm", &name]).well().out.contains("removed"));
    assert!(node.oncefs(&["index", "ls", &name]).well().out.contains("has no index beside it"));
}

#[test]
fn what_was_tampered_with_or_is_not_signed_costs_a_scan_and_readers_get_what_is_right() {
    let stage = Stage::new();
    let (key, public) = stage.key("key.pem");
    let (other, _) = stage.key("other.pem");
    // Nothing that a key of the node has signed.
    stage.push(&[]);
    stage.push(&["--sign", other.to_str().unwrap()]);
    let node = stage.believer(&public);
    let at = node.mount(&stage.name(), "mnt");
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    assert_eq!(indexes(&node), ["scan of gzip", "scan of zstd"]);
    let right = large(&at);

    // The blob of a layer, the artifact: each is another than its digest says.
    let pushed = stage.push(&["--sign", key.to_str().unwrap()]);
    let artifact = pushed["indexes"][0]["digest"].as_str().unwrap().to_owned();
    stage.damage(&artifact, |len| len / 2);
    let node = stage.believer(&public);
    let at = node.mount(&stage.name(), "mnt");
    assert_eq!(large(&at), right);
    assert_eq!(indexes(&node), ["scan of gzip", "scan of zstd"]);
    assert!(node.oncefs(&["status"]).well().out.contains("declined"));
}

#[test]
fn a_layer_that_was_tampered_with_gives_an_error_and_never_a_byte() {
    let stage = Stage::new();
    let (key, public) = stage.key("key.pem");
    stage.push(&["--sign", key.to_str().unwrap()]);
    let node = stage.believer(&public);
    let at = node.mount(&stage.name(), "mnt");
    assert_eq!(indexes_after_looking(&node, &at), [PUBLISHED, PUBLISHED]);
    stage.damage(&stage.image.layers[0].digest().to_string(), |len| len / 2);
    let read = run(Command::new("cat").arg(at.join("large")));
    assert!(read.code != Some(0) && read.err.contains("Input/output"), "{:?}", read.err);
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
}

#[test]
fn a_converted_image_brings_its_index_and_needs_no_key() {
    let stage = Stage::new();
    let (maker, name) = (Node::new(), stage.name());
    for to in [name.replace(":1", ":lazy"), name.replace("team/app:1", "other/place:lazy")] {
        maker.oncefs(&["convert", &name, &to]).well();
        let node = Node::new();
        let at = node.mount(&to, "mnt");
        assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
        assert_eq!(indexes(&node), [BOUND, BOUND], "{to}");
        assert_eq!(large(&at), sha256_of_large());
        assert!(maker.oncefs(&["index", "verify", &to]).well().out.contains(" as a scan here says"));
    }
    // The index of the first layer is another than the manifest says: the layer is scanned.
    let to = name.replace(":1", ":lazy");
    let listed: Value = serde_json::from_str(&maker.oncefs(&["index", "ls", "--json", &to]).well().out).unwrap();
    let artifact = listed["indexes"][0]["digest"].as_str().unwrap();
    let artifact: Value = serde_json::from_slice(&fs::read(stage.data_of(artifact)).unwrap()).unwrap();
    stage.damage(artifact["layers"][0]["digest"].as_str().unwrap(), |len| len / 2);
    let node = Node::new();
    let at = node.mount(&to, "mnt");
    assert_eq!(large(&at), sha256_of_large());
    assert_eq!(indexes(&node), ["scan of gzip", BOUND]);
    assert!(node.oncefs(&["status"]).well().out.contains("declined"));
}

#[test]
fn no_name_in_a_registry_is_taken_from_another_image_unless_that_is_wanted() {
    let stage = Stage::new();
    let (node, name) = (Node::new(), stage.name());
    let (lazy, before) = (name.replace(":1", ":lazy"), stage.digest_of("team/app", "1"));
    node.oncefs(&["convert", &name, &name]).fails(2, &["is the image itself", "another name"]);
    node.oncefs(&["convert", "--force", &format!("{name}@{before}"), &name]).fails(2, &["is the image itself"]);
    node.oncefs(&["convert", &name, &lazy]).well();
    let first = stage.digest_of("team/app", "lazy");
    node.oncefs(&["convert", &lazy, &name]).fails(2, &["is there already", "--force"]);
    assert_eq!(stage.digest_of("team/app", "1"), before);
    let to = name.replace("team/app:1", "other/place:lazy");
    node.oncefs(&["convert", &name, &to]).well();
    node.oncefs(&["convert", "--force", &to, &lazy]).well();
    assert_eq!(stage.digest_of("team/app", "lazy"), first, "the same image, bound in the same way");
}

#[test]
fn an_image_on_this_machines_disk_is_refused_before_it_is_scanned() {
    let (stage, node) = (Stage::new(), Node::new());
    let layout = format!("oci:{}", stage.keys.path().join("layout").display());
    let to = stage.name().replace(":1", ":lazy");
    for arguments in [&["index", "push", &layout][..], &["convert", &layout, &to]] {
        node.oncefs(arguments).fails(2, &["only a registry can be pushed to"]);
    }
    assert_eq!(node.status()["layers"], serde_json::json!([]));
}

fn sha256_of_large() -> String {
    oncefs::digest::Digest::of(&noise(LARGE_BYTES, 7)).hex()
}

fn indexes_after_looking(node: &Node, at: &Path) -> Vec<String> {
    ls(at);
    indexes(node)
}
