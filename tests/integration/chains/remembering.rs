//! What names mean may change; what is claimed does not.

use oncefs::snapshotter::Chains as _;

use super::stage::{Stage, chain, image, push, unlabelled};
use crate::cli::node::ls;
use crate::support::debian_registry::DebianRegistry;

#[test]
fn privileged_a_claim_survives_that_its_tag_moves_and_a_restart() {
    let (stage, registry) = (Stage::new(), DebianRegistry::start(None));
    let (old, new) = (image(&[1, 2]), image(&[1, 3]));
    let name = push(&registry, &old, "app:1", None);
    stage.pull(&name);
    assert!(stage.find(&unlabelled(&old, 1)) && stage.find(&unlabelled(&old, 2)));
    push(&registry, &new, "app:1", None);
    stage.pull(&name);
    assert!(stage.find(&unlabelled(&new, 2)));
    drop(registry);
    let stage = stage.restarted();
    stage.chains.claim(&chain(&old, 1)).unwrap();
    stage.chains.claim(&chain(&old, 2)).unwrap();
    stage.settle();
    assert_eq!(ls(&stage.chains.show(&chain(&old, 2)).unwrap()), ["file-1", "file-2"]);
    stage.chains.release(&chain(&old, 2));
    stage.chains.release(&chain(&old, 1));
    stage.until_layers_are(&new.layers);
}

#[test]
fn privileged_who_pulls_what_containerd_has_keeps_it() {
    let (stage, registry, image) = (Stage::new(), DebianRegistry::start(None), image(&[11, 12]));
    let name = push(&registry, &image, "app:1", None);
    stage.settle();
    assert!(stage.find_all(&image, &name));
    stage.pull(&name);
    stage.release_all(&image);
    let stage = stage.restarted();
    stage.settle();
    assert!(stage.find(&unlabelled(&image, 2)));
    assert_eq!(stage.layers().len(), 2);
}
