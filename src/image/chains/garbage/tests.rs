//! What goes and what stays, against examples and against the rule itself.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::ledger::{Deleting, Holding};
use super::super::uses::Needed;
use super::*;
use crate::blob::Origin;
use crate::digest::{ChainId, DiffId, Digest};

fn layered(number: u8) -> Layered {
    let digest = LayerDigest(Digest::of(&[number]));
    let diff_id = DiffId(Digest::of(&[number, number]));
    Layered { digest, diff_id, size: 1, media_type: String::new(), annotations: BTreeMap::new() }
}

fn image(layers: &[u8]) -> Arc<Image> {
    let image = Image {
        reference: format!("{layers:?}"),
        platform: "linux/amd64".into(),
        manifest_digest: Digest::of(layers),
        media_type: String::new(),
        layers: layers.iter().map(|number| layered(*number)).collect(),
        origin: Origin("oci:/images".into()),
        config: Vec::new(),
        remembered: false,
    };
    Arc::new(image)
}

fn key(image: &Image) -> ImageKey {
    ImageKey::new(&image.reference, &image.platform)
}

/// A ledger that knows these images, unkept, and whose earlier claims have been made.
fn settled(images: &[&Arc<Image>]) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.is_settled = true;
    images.iter().for_each(|image| ledger.note(&key(image), image, false));
    ledger
}

/// Collects, with every layer in the store, and says which layers go.
fn collect(ledger: &mut Ledger) -> Vec<LayerDigest> {
    let mut garbage = ledger.collect(|_| true);
    garbage.layers.sort();
    garbage.layers
}

fn digests(layers: &[u8]) -> Vec<LayerDigest> {
    let mut digests: Vec<_> = layers.iter().map(|number| layered(*number).digest).collect();
    digests.sort();
    digests
}

#[test]
fn an_image_goes_with_the_last_claim_on_it() {
    let app = image(&[1, 2]);
    let mut ledger = settled(&[&app]);
    let [lower, upper] = app.chains()[..] else { panic!() };
    assert!(ledger.claim_with(&lower, None) && ledger.claim_with(&upper, None) && ledger.claim_with(&upper, None));
    assert!(!ledger.release(&upper));
    assert_eq!(collect(&mut ledger), []);
    assert!(ledger.release(&upper));
    assert_eq!(collect(&mut ledger), digests(&[2]));
    assert!(ledger.release(&lower));
    assert!(!ledger.release(&lower), "once more than it was claimed");
    let is_left = |layer: &LayerDigest| *layer == layered(1).digest;
    assert_eq!(ledger.collect(is_left), Garbage { layers: digests(&[1]), images: vec![key(&app)] });
    assert!(ledger.images.is_empty() && ledger.chains.is_empty());
    assert!(ledger.deleting.images.contains(&key(&app)) && ledger.deleting.layers.len() == 2);
}

#[test]
fn nothing_goes_before_all_claims_are_made_again() {
    let app = image(&[1, 2]);
    let mut ledger = settled(&[&app]);
    ledger.is_settled = false;
    ledger.pending.everything = true;
    assert_eq!(ledger.collect(|_| true), Garbage::default());
    ledger.is_settled = true;
    assert_eq!(collect(&mut ledger), digests(&[1, 2]));
}

#[test]
fn a_base_that_another_image_has_too_is_served_with_that_one() {
    let (one, two) = (image(&[1, 2]), image(&[1, 3]));
    let mut ledger = settled(&[&one, &two]);
    let (base, upper) = (one.chains()[0], one.chains()[1]);
    ledger.claim_with(&base, Some(&key(&one)));
    ledger.claim_with(&upper, Some(&key(&one)));
    ledger.release(&upper);
    assert_eq!(ledger.collect(|_| true), Garbage { layers: digests(&[2]), images: vec![key(&one)] });
    assert_eq!(ledger.chains[&base].served, Some(key(&two)));
}

#[test]
fn an_image_that_is_taken_out_leaves_what_others_need() {
    let (one, two) = (image(&[1, 2]), image(&[1, 3]));
    let mut ledger = settled(&[]);
    [&one, &two].iter().for_each(|image| ledger.note(&key(image), image, true));
    let here = digests(&[1, 2, 3]).into_iter().collect();
    assert_eq!(ledger.take_image(&key(&one), &here), Ok(digests(&[2])));
    assert_eq!(ledger.take_image(&key(&one), &here), Err(Needed::Unknown));
    assert!(ledger.deleting.images.contains(&key(&one)), "until its record is gone nobody writes it");
    assert_eq!(ledger.take_image(&key(&two), &here), Ok(digests(&[1, 3])));
    assert!(ledger.chains.is_empty());
}

#[test]
fn an_image_that_somebody_needs_is_not_taken_out() {
    let app = image(&[1, 2]);
    let mut ledger = settled(&[&app]);
    let (name, here) = (key(&app), digests(&[1, 2]).into_iter().collect());
    ledger.is_settled = false;
    assert_eq!(ledger.take_image(&name, &here), Err(Needed::Unsettled));
    ledger.is_settled = true;
    ledger.claim_with(&app.chains()[0], Some(&name));
    assert_eq!(ledger.take_image(&name, &here), Err(Needed::Claimed));
    ledger.held.insert(1, Holding { image: app.clone(), chains: app.chains() });
    assert_eq!(ledger.take_image(&name, &here), Err(Needed::Held));
    ledger.pins.insert(name.clone());
    assert_eq!(ledger.take_image(&name, &here), Err(Needed::Pinned));
    (ledger.pins, ledger.held) = Default::default();
    // The same layers under another name serve the claim as well.
    let other = ImageKey::new("another", "linux/amd64");
    ledger.note(&other, &app, false);
    assert_eq!(ledger.take_image(&name, &here), Ok(digests(&[2])));
    assert_eq!(ledger.chains[&app.chains()[0]].served, Some(other));
}

#[test]
fn an_image_that_is_held_or_written_or_scanned_stays() {
    let app = image(&[1]);
    let mut ledger = settled(&[&app]);
    let sweep = |ledger: &mut Ledger| {
        ledger.pending.everything = true;
        collect(ledger)
    };
    ledger.held.insert(7, Holding { image: image(&[1]), chains: app.chains() });
    assert_eq!(sweep(&mut ledger), []);
    let held = ledger.held.remove(&7).unwrap();
    ledger.at_work.insert(layered(1).digest, 1);
    ledger.writing.insert(key(&app));
    assert_eq!(sweep(&mut ledger), []);
    ledger.at_work.clear();
    ledger.writing.clear();
    ledger.pending.images.push(held);
    assert_eq!(collect(&mut ledger), digests(&[1]), "who let go of it was the last");
}

#[test]
fn a_chain_that_is_released_while_its_layer_comes_is_looked_at_again() {
    let app = image(&[1, 2]);
    let mut ledger = settled(&[&app]);
    for chain in app.chains() {
        ledger.claim_with(&chain, None);
    }
    ledger.at_work.insert(layered(2).digest, 1);
    ledger.release(&app.chain());
    assert_eq!(collect(&mut ledger), []);
    ledger.at_work.clear();
    assert_eq!(collect(&mut ledger), digests(&[2]));
    assert!(ledger.pending.chains.is_empty());
}

#[test]
fn layers_of_an_image_that_is_being_pulled_stay_until_they_are_claimed() {
    let app = image(&[1, 2, 3]);
    let mut ledger = settled(&[&app]);
    ledger.claim_with(&app.chains()[0], Some(&key(&app)));
    ledger.pending.images.push(Holding { image: app.clone(), chains: app.chains() });
    ledger.pending.layers.insert(layered(3).digest);
    assert_eq!(collect(&mut ledger), []);
}

#[derive(Debug, Clone)]
enum Step {
    Claim(usize, usize),
    Release(usize, usize),
    Keep(usize),
    Collect,
}

fn step() -> impl Strategy<Value = Step> {
    let place = (0..4usize, 0..3usize);
    prop_oneof![
        4 => place.clone().prop_map(|(image, length)| Step::Claim(image, length)),
        4 => place.prop_map(|(image, length)| Step::Release(image, length)),
        1 => (0..4usize).prop_map(Step::Keep),
        2 => Just(Step::Collect),
    ]
}

proptest! {
    /// Against the rule itself: a layer is there as long as a claimed chain or a kept image has it, and no longer.
    #[test]
    fn just_what_is_needed_stays(steps in proptest::collection::vec(step(), 1..60)) {
        let images = [image(&[1, 2, 3]), image(&[1, 2, 4]), image(&[5, 6, 7]), image(&[1, 8, 3])];
        let mut ledger = settled(&[]);
        let mut claims: BTreeMap<ChainId, (usize, Vec<LayerDigest>)> = BTreeMap::new();
        let mut kept = BTreeSet::new();
        let mut store = BTreeSet::new();
        for step in steps.into_iter().chain([Step::Collect]) {
            match step {
                Step::Claim(at, length) => {
                    let (image, id) = (&images[at], images[at].chains()[length]);
                    ledger.note(&key(image), image, false);
                    ledger.claim_with(&id, Some(&key(image)));
                    let layers: Vec<_> = image.layers[..=length].iter().map(|layer| layer.digest).collect();
                    store.extend(layers.iter().copied());
                    claims.entry(id).or_insert((0, layers)).0 += 1;
                }
                Step::Release(at, length) => {
                    let id = images[at].chains()[length];
                    let Some((count, _)) = claims.get_mut(&id) else { continue };
                    *count -= 1;
                    let is_last = *count == 0;
                    if is_last {
                        claims.remove(&id);
                    }
                    prop_assert_eq!(ledger.release(&id), is_last);
                }
                Step::Keep(at) => {
                    ledger.note(&key(&images[at]), &images[at], true);
                    store.extend(images[at].layers.iter().map(|layer| layer.digest));
                    kept.insert(at);
                }
                Step::Collect => {
                    let garbage = ledger.collect(|layer| store.contains(layer));
                    store.retain(|layer| !garbage.layers.contains(layer));
                    ledger.deleting = Deleting::default();
                    let of_kept = kept.iter().flat_map(|at: &usize| &images[*at].layers).map(|layer| layer.digest);
                    let of_claims = claims.values().flat_map(|(_, layers)| layers.clone());
                    let needed: BTreeSet<_> = of_kept.chain(of_claims).collect();
                    prop_assert_eq!(&store, &needed);
                }
            }
        }
    }
}
