//! Indexes that lie beside an image and that nobody vouches for: used where registries are trusted, compared with the layers, and
//! quarantined if they lie.

use std::process::Command;

use oncefs::digest::Digest;
use oncefs::index::frames::Frames;
use oncefs::index::published::artifact::{ARTIFACT_TYPE, Artifact, EMPTY, Listed, Subject};
use oncefs::index::published::pack;
use oncefs::index::scan::Limits;
use oncefs::index::tree::read::Tree;
use oncefs::index::tree::write::{Labels, Source, write};

use super::completing::assert_quarantined;
use super::made::{Indexed, SMALL, assert_same_trees, beside_soci, indexes, original};
use super::ztocs::with_mode;
use crate::cli::image::MANIFEST;
use crate::cli::node::{Node, cat, ls, run, until};
use crate::cli::registry::{Fault, Registry};
use crate::index::made;

const REGISTRY: &str = "[index]\ntrust = \"registry\"\n";
const SPANS: [&str; 4] = ["--min-layer-size", "2000", "--span-size", "100000"];

/// The index of the layer as a scan would publish it, but for what is done to its tree.
fn packed(image: &Indexed, n: usize, retell: &dyn Fn(&mut Source)) -> Vec<u8> {
    let (layer, parts) = (image.layered(n), made::parts());
    made::scan_into(&layer, &made::in_memory(image.layer(n)), &parts, &Limits::default()).unwrap();
    let frames = Frames::open(&parts.frames).unwrap();
    let mut tree = Tree::open(&parts.tree).unwrap().source().unwrap();
    retell(&mut tree);
    let (file, heading) = (tempfile::tempfile().unwrap(), *frames.heading());
    write(&tree, &Labels { diff_id: layer.diff_id, data_bytes: heading.data_bytes }, &file).unwrap();
    pack(&Tree::open(&file).unwrap(), &frames).unwrap()
}

/// The original with oncefs's own index beside it, signed by nobody.
fn own(retell: &dyn Fn(&mut Source)) -> Registry {
    let mut image = Indexed::plain(&original());
    let mut listed = Vec::new();
    for n in 0..image.layers() {
        let packed = packed(&image, n, retell);
        let (digest, size) = (Digest::of(&packed), packed.len() as u64);
        listed.push(Listed { layer: image.layered(n).digest, digest, size });
        image.blobs.insert(digest.to_string(), packed);
    }
    image.blobs.insert(Digest::of(&EMPTY).to_string(), EMPTY.to_vec());
    let manifest = image.manifest.to_string();
    let (digest, size) = (Digest::of(manifest.as_bytes()), manifest.len() as u64);
    let artifact = Artifact::new(&Subject { media_type: MANIFEST.to_owned(), digest, size }, &listed, None, None);
    let registry = image.registry();
    image.put_beside(&registry, ARTIFACT_TYPE, &artifact.bytes());
    registry
}

#[test]
fn what_lies_beside_an_image_is_used_where_registries_are_trusted_and_found_to_be_right() {
    let plain = Registry::with(&original());
    let scanner = Node::new();
    let expected = scanner.mount(&plain.image(), "expected");
    let soci = "SOCI, beside the image and bound by nothing";
    let oncefs = "oncefs, made elsewhere, beside the image and bound by nothing";
    let v1 = beside_soci(&original(), &SPANS);
    // SOCI leaves out what is small.
    for (registry, sources) in [(v1.registry(), [soci, soci, "scan of gzip"]), (own(&|_| {}), [oncefs; 3])] {
        let careful = Node::new();
        ls(&careful.mount(&registry.image(), "careful"));
        assert_eq!(indexes(&careful), ["scan of gzip"; 3], "nothing binds it");

        let node = Node::new();
        node.configure(REGISTRY);
        let at = node.mount(&registry.image(), "mnt");
        assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
        let found = indexes(&node);
        assert!(found.iter().zip(sources).all(|(index, source)| index.starts_with(source)), "{found:?}");
        assert!(!node.oncefs(&["status"]).well().out.contains("declined"));
        assert_same_trees(&expected, &at);
        let is_right = |index: &String| index.ends_with("verified as a whole)") && !index.contains("not verified");
        until("all content is verified", || {
            indexes(&node).iter().all(|index| is_right(index) || index.starts_with("scan"))
        });
        assert!(node.oncefs(&["check"]).well().out.contains("all is well"));
    }
}

#[test]
fn what_lies_beside_an_image_and_is_not_true_is_quarantined_and_the_layer_scanned() {
    let mut v1 = beside_soci(&original(), &SPANS);
    v1.replace_ztocs(|ztoc| with_mode(ztoc, "with-attributes", 0o104_755));
    let set_user_id = |tree: &mut Source| {
        // The only one that has this mode.
        tree.inodes.iter_mut().filter(|inode| inode.mode & 0o7777 == 0o640).for_each(|inode| inode.mode |= 0o4000);
    };
    let (other_mode, other_span) = ("/with-attributes has another mode", "quarantined, its index was wrong");
    let told = [(v1.registry(), other_mode), (own(&set_user_id), other_mode), (own(&|_| {}), other_span)];
    for (registry, told) in told {
        let node = Node::new();
        node.configure(REGISTRY);
        let at = node.mount(&registry.image(), "mnt");
        if told == other_span {
            registry.fault(v1.layer_digest(0), Fault::FlippedAt(v1.layer(0).len() / 2));
        }
        ls(&at);
        assert_quarantined(&node, &at, told);

        registry.heal();
        let second = node.mount(&registry.image(), "second");
        let stat = run(Command::new("stat").args(["-c", "%a"]).arg(second.join("with-attributes"))).well();
        assert_eq!((stat.out.as_str(), cat(&second.join(SMALL.0)).as_str()), ("640\n", SMALL.1));
    }
}
