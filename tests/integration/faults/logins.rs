//! What ends by itself when it is asked for anew: tokens, and the signatures of addresses.

use super::proxy::Proxy;
use super::stage::{Hub, Mounted, assert_read};

#[test]
fn a_token_that_ran_out_costs_one_new_token() {
    const SEED: u64 = 5_400;
    let hub = Hub::with_layers(1, SEED);
    let proxy = Proxy::before(hub.address());
    proxy.wants_new_token();
    let mounted = Mounted::through(&proxy, 0);
    assert_read(mounted.reads(0, 0), SEED, 0, 0);
    let given = proxy.tokens_given();
    proxy.wants_new_token();
    assert_read(mounted.reads(0, 1), SEED, 0, 1);
    assert_read(mounted.reads(0, 2), SEED, 0, 2);
    assert_eq!(proxy.tokens_given(), given + 1);
}

#[test]
fn an_address_whose_signature_ran_out_is_asked_for_again() {
    const SEED: u64 = 5_500;
    let hub = Hub::with_layers(1, SEED);
    let (proxy, storage) = (Proxy::before(hub.address()), Proxy::before(hub.address()));
    proxy.signs_anew(&storage);
    let mounted = Mounted::through(&proxy, 0);
    assert_read(mounted.reads(0, 0), SEED, 0, 0);
    proxy.signs_anew(&storage);
    assert_read(mounted.reads(0, 1), SEED, 0, 1);
    // The new address is remembered: the registry is not asked where the blob is.
    let asked = storage.asked(&hub.layer(0));
    assert_read(mounted.reads(0, 2), SEED, 0, 2);
    assert_eq!(storage.asked(&hub.layer(0)), asked + 1);
}
