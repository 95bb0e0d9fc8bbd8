//! Mirrors of `hosts.toml` that give wrong layers: the whole layer comes from the next place.

use super::image::Image;
use super::node::Node;
use super::registry::{Fault, Registry};

/// The node asks `mirrors` first, in this order, for what `upstream` has.
fn mirrored(node: &Node, upstream: &Registry, mirrors: &[&Registry]) {
    let folder = node.place("hosts").join(upstream.host().replace(':', "_") + "_");
    std::fs::create_dir(&folder).unwrap();
    let text: String = mirrors.iter().map(|mirror| format!("[host.\"http://{}\"]\n", mirror.host())).collect();
    std::fs::write(folder.join("hosts.toml"), text).unwrap();
    node.configure(&format!("config_path = [\"{}\"]\n", node.path("hosts").display()));
}

#[test]
fn a_layer_that_a_mirror_gives_wrongly_comes_from_the_next_place() {
    for fault in [Fault::FlippedAt(3000), Fault::Status(404), Fault::Status(500)] {
        let (node, image) = (Node::new(), Image::usual(60));
        let [lies, honest, upstream] = [(); 3].map(|()| Registry::with(&image));
        mirrored(&node, &upstream, &[&lies, &honest]);
        let bad = image.layers[0].digest();
        lies.fault(bad, fault);
        node.oncefs(&["pull", &upstream.image()]).well();
        assert_eq!(node.layers().len(), 3);
        node.oncefs(&["check"]).well();
        assert_eq!(honest.count(bad).requests, 1, "{fault:?}");
        assert_eq!((honest.layer_requests(&image), upstream.layer_requests(&image)), (1, 0), "{fault:?}");
        node.assert_at_rest();
    }
}

#[test]
fn a_layer_that_nobody_gives_rightly_is_an_error_that_names_it() {
    let (node, image) = (Node::new(), Image::usual(61));
    let [lies, upstream] = [(); 2].map(|()| Registry::with(&image));
    mirrored(&node, &upstream, &[&lies]);
    let bad = image.layers[0].digest();
    for registry in [&lies, &upstream] {
        registry.fault(bad, Fault::FlippedAt(3000));
    }
    let ran = node.oncefs(&["pull", &upstream.image()]);
    ran.fails(3, &[&bad.to_string(), &upstream.image(), "digest"]);
    assert_eq!((lies.count(bad).requests, upstream.count(bad).requests), (1, 1));
    node.assert_at_rest();
}
