//! What containerd asks for is found, once for all who ask, or refused with its reason.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use oncefs::digest::{Digest, LayerDigest};
use oncefs::snapshotter::{Chains as _, Wanted};

use super::stage::{Stage, chain, hex, image, layer, lazily, push, unlabelled, wanted};
use crate::cli::image::Image;
use crate::cli::node::sha256sum;
use crate::index::made;
use crate::support::debian_registry::{Account, Answered, DebianRegistry, bytes_of_blobs};
use crate::support::ports;

fn gets(answered: &[Answered], part: &str) -> usize {
    answered.iter().filter(|answer| answer.method == "GET" && answer.uri.contains(part)).count()
}

/// Each blob was sent once, whatever was looked at before.
#[track_caller]
fn assert_sent_once(answered: &[Answered], image: &Image) {
    let sent = bytes_of_blobs(answered);
    for layer in &image.layers {
        assert_eq!(sent[&hex(layer.digest())], layer.blob.len() as u64);
    }
}

#[test]
fn privileged_twenty_at_once_ask_for_one_manifest_and_each_blob_once() {
    let (stage, registry, image) = (Stage::new(), DebianRegistry::start(None), image(&[1, 2, 3, 4, 5]));
    let name = push(&registry, &image, "app:1", None);
    let (_, stopped) = registry.stop();
    let registry = stopped.start();
    let finds = (0..20).map(|n| stage.chains.find(wanted(&image, &name, n % 5 + 1)));
    let found = stage.runtime.block_on(join_all(finds));
    assert_eq!(found, vec![Some(()); 20]);
    stage.until_layers_are(&image.layers);
    let at = stage.chains.show(&chain(&image, 5)).unwrap();
    assert_eq!(sha256sum(&at.join("file-3")), hex(Digest::of(&made::program(3, 500_000))));
    let (answered, _) = registry.stop();
    assert_eq!(gets(&answered, "/manifests/"), 1, "{answered:#?}");
    assert_eq!(gets(&answered, &hex(Digest::of(&image.config))), 1, "{answered:#?}");
    assert_sent_once(&answered, &image);
}

#[test]
fn privileged_layers_that_are_here_are_had_under_any_name_without_a_request() {
    let (stage, registry, image) = (Stage::new(), DebianRegistry::start(None), image(&[11, 12]));
    let name = push(&registry, &image, "app:1", None);
    assert!(stage.find_all(&image, &name));
    stage.until_layers_are(&image.layers);
    let (answered, _) = registry.stop();
    assert!(gets(&answered, "/manifests/") > 0);
    // Nobody is there to be asked: another name, another namespace of containerd, no name at all.
    assert!(stage.find_all(&image, &name.replace("app:1", "other/copy:2")));
    assert!(stage.find_all(&image, &name));
    assert!(stage.find(&unlabelled(&image, 1)) && stage.find(&unlabelled(&image, 2)));
}

#[test]
fn privileged_another_image_with_shared_layers_fetches_only_its_own() {
    let (stage, registry) = (Stage::new(), DebianRegistry::start(None));
    let (one, two) = (image(&[21, 22, 23]), image(&[21, 22, 24]));
    let (first, second) = (push(&registry, &one, "one:1", None), push(&registry, &two, "two:1", None));
    let (_, stopped) = registry.stop();
    let registry = stopped.start();
    assert!(stage.find_all(&one, &first));
    stage.until_layers_are(&one.layers);
    assert!(stage.find_all(&two, &second));
    let all: Vec<_> = one.layers.iter().chain(&two.layers).cloned().collect();
    stage.until_layers_are(&all);
    let (answered, _) = registry.stop();
    assert_sent_once(&answered, &one);
    assert_sent_once(&answered, &two);
}

#[test]
fn privileged_labels_that_lie_are_not_believed() {
    let (stage, registry) = (Stage::with(lazily), DebianRegistry::start(None));
    let (app, other) = (image(&[31, 32]), image(&[33, 34]));
    let name = push(&registry, &app, "app:1", None);
    let honest = wanted(&app, &name, 2);
    let lie = |change: &dyn Fn(&mut Wanted)| {
        let mut lie = honest.clone();
        change(&mut lie);
        lie
    };
    let lies = [
        lie(&|wanted| wanted.chain = chain(&other, 2)),
        lie(&|wanted| wanted.parent = None),
        lie(&|wanted| wanted.parent = Some(chain(&other, 1))),
        lie(&|wanted| wanted.source.as_mut().unwrap().layer = LayerDigest(other.layers[1].digest())),
        lie(&|wanted| wanted.source.as_mut().unwrap().layer = LayerDigest(app.layers[0].digest())),
        lie(&|wanted| wanted.source.as_mut().unwrap().image = "oci:/etc".into()),
        lie(&|wanted| wanted.source.as_mut().unwrap().image = "No/Image At All".into()),
        lie(&|wanted| wanted.source.as_mut().unwrap().manifest = Some(Digest::of(b"another"))),
    ];
    for lie in &lies {
        assert!(!stage.find(lie), "{lie:?}");
    }
    assert!(stage.status().claimed.is_empty());
    assert!(stage.find(&honest));
    // Now that the chain is known, the labels still have to fit.
    for lie in &lies[..6] {
        assert!(!stage.find(lie), "{lie:?}");
    }
    assert_eq!(stage.status().claimed[0].claims, 1);
}

#[test]
fn privileged_an_image_cannot_say_that_its_blob_is_another_images_layer() {
    let (stage, registry) = (Stage::with(lazily), DebianRegistry::start(None));
    let app = image(&[41]);
    let mut evil = layer("evil", 42);
    let honest = evil.clone();
    evil.diff_id = app.layers[0].diff_id;
    let (evil, honest) = (Image::of(&[evil]), Image::of(&[honest]));
    let evil_name = push(&registry, &evil, "evil:1", None);
    let honest_name = push(&registry, &honest, "honest:1", None);
    let name = push(&registry, &app, "app:1", None);
    // The evil image's blob is here, with its true content.
    stage.pull(&honest_name);
    assert!(stage.find(&wanted(&evil, &evil_name, 1)), "nobody can tell yet");
    let at = stage.chains.show(&chain(&evil, 1)).unwrap();
    assert!(stage.find(&wanted(&app, &name, 1)));
    assert_eq!(at, stage.chains.show(&chain(&app, 1)).unwrap());
    assert_eq!(crate::cli::node::ls(&at), ["file-41"]);
}

#[test]
fn privileged_without_a_source_what_is_all_here_or_claimed_is_served() {
    let (stage, registry, image) = (Stage::with(lazily), DebianRegistry::start(None), image(&[51, 52]));
    let name = push(&registry, &image, "app:1", None);
    assert!(!stage.find(&unlabelled(&image, 1)), "unknown");
    assert!(stage.find(&wanted(&image, &name, 1)));
    assert!(stage.find(&unlabelled(&image, 1)), "another client has it");
    stage.chains.release(&chain(&image, 1));
    stage.chains.release(&chain(&image, 1));
    assert!(!stage.find(&unlabelled(&image, 1)), "known, but nobody has fetched it");
    stage.pull(&name);
    assert!(stage.find(&unlabelled(&image, 1)) && stage.find(&unlabelled(&image, 2)));
}

#[test]
fn privileged_an_image_for_another_platform_is_found_by_its_digest() {
    let (stage, registry) = (Stage::with(lazily), DebianRegistry::start(None));
    let image = Image::for_architecture(&[layer("program", 61)], "s390x");
    let name = push(&registry, &image, "app:1", None);
    assert!(stage.find(&wanted(&image, &name, 1)));
    assert_eq!(stage.status().claimed[0].image.platform, "linux/s390x");
}

#[test]
fn privileged_who_may_not_have_an_image_is_not_served_it() {
    let account = Account { user: "ann", password: "a-secret-of-ann" };
    let (stage, registry) = (Stage::new(), DebianRegistry::start(Some(&account)));
    let image = image(&[71]);
    let name = push(&registry, &image, "app:1", Some(&account));
    assert!(!stage.find(&wanted(&image, &name, 1)));
    assert!(stage.layers().is_empty() && stage.status().claimed.is_empty());
}

#[test]
fn privileged_all_layers_share_that_their_registry_does_not_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counting = calls.clone();
    // It takes calls and says nothing.
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            counting.fetch_add(1, Ordering::Relaxed);
            open.push(stream);
        }
    });
    let stage = Stage::with(|config| config.snapshotter.check_timeout_secs = 1);
    let seeds: Vec<u64> = (80..100).collect();
    let image = image(&seeds);
    let name = format!("{address}/app:1");
    for length in 1..=20 {
        assert!(!stage.find(&wanted(&image, &name, length)));
    }
    assert_eq!(calls.load(Ordering::Relaxed), 1, "the first one asked for all");
}

#[test]
fn privileged_a_registry_that_is_gone_is_told_at_once() {
    let address = ports::unused();
    let (stage, image) = (Stage::new(), image(&[101, 102]));
    assert!(!stage.find(&wanted(&image, &format!("{address}/app:1"), 1)));
    assert!(!stage.find(&wanted(&image, &format!("{address}/app:1"), 2)));
}
