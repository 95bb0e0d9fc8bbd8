//! The view of random chains against the naive unpacking, and what node ids promise.

use oncefs::index::tree::Nid;
use oncefs::view::{LayerSlot, NodeId, ViewSlot};
use proptest::prelude::*;

use super::any::{EVERYTHING, Spice, any_chain, any_layers};
use super::chain::Chain;
use super::seen::{as_model, ids, renumbered};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

/// Nothing that could lead from one place to another.
const PLAIN: Spice = Spice { symlinks: 0, hard_links: 0, ..EVERYTHING };

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn a_view_shows_what_unpacking_the_layers_makes(any in any_chain(EVERYTHING)) {
        let chain = Chain::lay(&any.layers).unwrap();
        prop_assert_eq!(as_model(&chain), renumbered(any.model));
    }

    #[test]
    fn whiteouts_and_opaque_directories_alone_merge_as_unpacking_does(any in any_chain(PLAIN)) {
        let chain = Chain::lay(&any.layers).unwrap();
        prop_assert_eq!(as_model(&chain), renumbered(any.model));
    }

    #[test]
    fn every_id_is_found_again_without_the_cache(any in any_chain(EVERYTHING)) {
        let chain = Chain::lay(&any.layers).unwrap();
        let known = ids(&chain);
        let told = |id: NodeId| {
            let names = chain.view.list(id).map(|merged| {
                let items = merged.after(0).unwrap().map(Result::unwrap);
                items.map(|item| (item.name.to_vec(), item.id, item.offset)).collect::<Vec<_>>()
            });
            (chain.view.node(id).unwrap(), chain.view.parent(id).ok(), names.ok())
        };
        let before: Vec<_> = known.values().map(|id| told(*id)).collect();
        for (id, before) in known.values().zip(before) {
            chain.cache.clear();
            prop_assert_eq!(told(*id), before);
        }
    }

    #[test]
    fn a_listing_goes_on_after_any_of_its_offsets(any in any_chain(EVERYTHING)) {
        let chain = Chain::lay(&any.layers).unwrap();
        for id in ids(&chain).values() {
            let Ok(merged) = chain.view.list(*id) else { continue };
            let all: Vec<_> = merged.after(0).unwrap().map(Result::unwrap).collect();
            for (seen, item) in all.iter().enumerate() {
                chain.cache.clear();
                let again = chain.view.list(*id).unwrap();
                let rest: Vec<_> = again.after(item.offset).unwrap().map(Result::unwrap).collect();
                prop_assert_eq!(&rest[..], &all[seen + 1..]);
            }
        }
    }

    #[test]
    fn impossible_layers_are_refused_or_shown_but_never_panic(layers in any_layers(EVERYTHING)) {
        if let Ok(chain) = Chain::lay(&layers) {
            ids(&chain);
        }
    }

    #[test]
    fn no_id_panics_or_never_ends(any in any_chain(EVERYTHING), wild: Vec<u64>, nids: Vec<u32>) {
        let chain = Chain::lay(&any.layers).unwrap();
        let near = nids.into_iter().flat_map(|nid| {
            // Real nodes are near the start, virtual ones at the end of the numbers.
            [nid % 500, u32::MAX - nid % 70_000].into_iter().flat_map(move |nid| {
                let slot = LayerSlot(1000 + nid % 6);
                let dirs = (0..7).map(move |layer| NodeId::directory(ViewSlot(77), layer, Nid(nid)));
                dirs.chain([NodeId::file(slot, Nid(nid))])
            })
        });
        for id in wild.into_iter().map(NodeId).chain(near) {
            let view = &chain.view;
            let _ = (view.node(id), view.lookup(id, b"a"), view.target(id), view.parent(id), view.xattrs(id));
            let _ = (view.file(id).is_ok(), view.xattr(id, b"user.x"));
            if let Ok(merged) = view.list(id) {
                assert!(merged.after(0).unwrap().count() < 10_000);
            }
        }
    }
}
