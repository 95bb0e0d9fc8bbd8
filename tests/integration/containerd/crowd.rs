//! Many pulls at once, and the registry's log as the witness of what they cost.

use std::collections::BTreeMap;

use super::harness::{CRI_NAMESPACE, Images, Node, Snapshotter, assert_sent_once};
use super::images::{Image, noise, with_shell};
use crate::cli::image::Layer;
use crate::cli::node::until;
use crate::index::made;

const CROWD: usize = 20;

#[test]
fn twenty_lazy_pulls_of_one_image_fetch_it_once() {
    twenty_pulls_of_one_image(Snapshotter::Oncefs);
}

#[test]
fn twenty_pulls_of_one_image_through_the_proxy_fetch_it_once() {
    twenty_pulls_of_one_image(Snapshotter::OncefsThroughProxy);
}

#[test]
fn twenty_lazy_pulls_of_five_images_fetch_each_layer_once() {
    twenty_pulls_of_five_images(Snapshotter::Oncefs);
}

#[test]
fn twenty_pulls_of_five_images_through_the_proxy_fetch_each_layer_once() {
    twenty_pulls_of_five_images(Snapshotter::OncefsThroughProxy);
}

fn twenty_pulls_of_one_image(snapshotter: Snapshotter) {
    let image = with_shell(&[noise("opt/one", 81, 3_000_000), noise("opt/two", 82, 2_000_000)]);
    assert_fetched_once(snapshotter, &[image]);
}

/// They share layers in three ways: the bottom, a layer at the same height, and a layer at another height.
fn twenty_pulls_of_five_images(snapshotter: Snapshotter) {
    let shared = [noise("opt/a", 83, 2_000_000), noise("opt/b", 84, 1_000_000)];
    let [a, b] = shared;
    let own = |seed| noise("opt/own", seed, 500_000);
    let five: [&[Layer]; 5] = [
        &[a.clone(), own(1)],
        &[a.clone(), own(2)],
        &[a.clone(), b.clone(), own(3)],
        &[b.clone(), a.clone(), own(4)],
        &[own(5), a, b],
    ];
    assert_fetched_once(snapshotter, &five.map(with_shell));
}

fn assert_fetched_once(snapshotter: Snapshotter, crowd: &[Image]) {
    let images = Images::of(&["pause"]);
    let names: Vec<String> =
        crowd.iter().enumerate().map(|(n, image)| images.add(image, &format!("crowd/image-{n}:1"))).collect();
    let node = Node::start(snapshotter, &images);
    let wanted: Vec<String> = names.iter().cycle().take(CROWD).cloned().collect();
    for (image, pulled) in wanted.iter().zip(node.cri.pull_at_once(&wanted)) {
        pulled.unwrap_or_else(|status| panic!("{image}: {status}"));
    }
    let mut layers: Vec<Layer> = crowd.iter().flat_map(|image| image.layers.clone()).collect();
    layers.sort_by_key(Layer::digest);
    layers.dedup_by_key(|layer| layer.digest());
    if snapshotter == Snapshotter::OncefsThroughProxy {
        assert_eq!(
            node.oncefs().layers().len(),
            layers.len(),
            "a pull through the proxy means that the layers are here"
        );
    }
    until("the layers are here", || node.oncefs().layers().len() == layers.len());
    for (n, (name, image)) in names.iter().zip(crowd).enumerate() {
        let look = ["sh", "-c", "cat /opt/* | wc -c"];
        let said = node.containerd.say(CRI_NAMESPACE, &["--rm"], name, &format!("look-{n}"), &look);
        assert_eq!(said.trim().parse(), Ok(bytes_in_opt(image)), "{name}");
    }
    assert_sent_once(&images.stop().0, &layers, crowd.len());
}

/// What the files of an image's upper layers have in them, as their tars say; of files of one name the topmost counts.
fn bytes_in_opt(image: &Image) -> u64 {
    let mut sizes = BTreeMap::new();
    for layer in &image.layers[1..] {
        let tar = made::through("gzip", &["-dc"], &layer.blob);
        for entry in tar::Archive::new(tar.as_slice()).entries().unwrap() {
            let header = entry.unwrap().header().clone();
            sizes.insert(header.path().unwrap().into_owned(), header.size().unwrap());
        }
    }
    sizes.values().sum()
}
