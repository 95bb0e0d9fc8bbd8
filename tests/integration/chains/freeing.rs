//! What nobody needs any more goes; everything else stays.

use oncefs::snapshotter::Chains as _;

use super::stage::{Stage, chain, image, push, wanted};
use super::stalling::Stalling;
use crate::cli::node::until;
use crate::support::debian_registry::DebianRegistry;

#[test]
fn privileged_the_last_release_frees_the_layers() {
    let (stage, registry, image) = (Stage::new(), DebianRegistry::start(None), image(&[1, 2, 3]));
    let name = push(&registry, &image, "app:1", None);
    stage.settle();
    assert!(stage.find_all(&image, &name) && stage.find_all(&image, &name), "two namespaces");
    stage.until_layers_are(&image.layers);
    stage.release_all(&image);
    assert_eq!(stage.status().claimed[0].claims, 3);
    stage.chains.release(&chain(&image, 3));
    stage.until_layers_are(&image.layers[..2]);
    stage.chains.release(&chain(&image, 2));
    stage.chains.release(&chain(&image, 1));
    stage.until_layers_are(&[]);
    assert!(stage.status().claimed.is_empty());
}

#[test]
fn privileged_layers_of_another_claim_and_of_a_pulled_image_stay() {
    let (stage, registry) = (Stage::new(), DebianRegistry::start(None));
    let (one, two, kept) = (image(&[11, 12, 13]), image(&[11, 12, 14]), image(&[11, 15]));
    let names = [(&one, "one:1"), (&two, "two:1"), (&kept, "kept:1")];
    let [first, second, third] = names.map(|(image, name)| push(&registry, image, name, None));
    stage.settle();
    assert!(stage.find_all(&one, &first) && stage.find_all(&two, &second));
    stage.pull(&third);
    let all = [&one.layers[..], &two.layers[2..], &kept.layers[1..]].concat();
    stage.until_layers_are(&all);
    stage.release_all(&one);
    stage.until_layers_are(&[&two.layers[..], &kept.layers[1..]].concat());
    stage.release_all(&two);
    stage.until_layers_are(&kept.layers);
}

#[test]
fn privileged_a_chain_is_found_again_while_it_is_being_freed() {
    let (stage, registry, image) = (Stage::new(), DebianRegistry::start(None), image(&[21, 22, 23, 24]));
    let name = push(&registry, &image, "app:1", None);
    stage.settle();
    for _ in 0..10 {
        assert!(stage.find_all(&image, &name));
        stage.release_all(&image);
        assert!(stage.find_all(&image, &name));
        stage.until_layers_are(&image.layers);
        let at = stage.chains.show(&chain(&image, 4)).unwrap();
        assert_eq!(crate::cli::node::ls(&at).len(), 4);
        stage.release_all(&image);
    }
    stage.until_layers_are(&[]);
}

#[test]
fn privileged_a_release_lets_go_of_scans_that_are_under_way() {
    let (stage, registry, image) = (Stage::new(), DebianRegistry::start(None), image(&[31, 32, 33]));
    let name = push(&registry, &image, "app:1", None);
    let stalling = Stalling::before(registry.address);
    stage.settle();
    assert!(stage.find(&wanted(&image, &name.replace(&registry.address.to_string(), &stalling.host()), 1)));
    until("all layers are being fetched", || stalling.waiting() == 3);
    stage.chains.release(&chain(&image, 1));
    until("nobody waits for them any more", || stalling.waiting() == 0);
    stage.until_layers_are(&[]);
    assert!(stage.status().claimed.is_empty());
}

#[test]
fn privileged_what_a_crash_left_over_is_removed_when_the_claims_are_made_again() {
    let (stage, registry) = (Stage::new(), DebianRegistry::start(None));
    let (one, two, kept) = (image(&[41, 42]), image(&[41, 43]), image(&[44]));
    let names = [(&one, "one:1"), (&two, "two:1"), (&kept, "kept:1")];
    let [first, second, third] = names.map(|(image, name)| push(&registry, image, name, None));
    assert!(stage.find_all(&one, &first) && stage.find_all(&two, &second));
    stage.pull(&third);
    let all = [&one.layers[..], &two.layers[1..], &kept.layers[..]].concat();
    stage.until_layers_are(&all);
    drop(registry);
    let stage = stage.restarted();
    assert!(stage.chains.claim(&chain(&two, 1)).is_ok() && stage.chains.claim(&chain(&two, 2)).is_ok());
    assert!(stage.chains.claim(&chain(&image(&[45]), 1)).is_err());
    assert_eq!(stage.layers().len(), all.len(), "nothing goes before all claims are made");
    stage.settle();
    stage.until_layers_are(&[&two.layers[..], &kept.layers[..]].concat());
    let at = stage.chains.show(&chain(&two, 2)).unwrap();
    assert_eq!(crate::cli::node::ls(&at), ["file-41", "file-43"]);
    assert!(stage.chains.claim(&chain(&one, 2)).is_err(), "it was forgotten with its layers");
}
