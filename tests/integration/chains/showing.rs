//! Chains shown through the real FUSE mount, as containers see them.

use std::path::PathBuf;
use std::process::Command;

use oncefs::snapshotter::Chains as _;
use oncefs::sys::mount;

use super::stage::{Stage, chain, image, lazily, push, wanted};
use crate::cli::image::{Image, Layer, Tar};
use crate::cli::node::{cat, ls, run, until};
use crate::support::debian_registry::DebianRegistry;

/// An overlay mount, until this is dropped.
struct Overlay(PathBuf);

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = mount::detach(&self.0);
    }
}

/// Each layer changes what the one below shows.
fn layered() -> Image {
    let bottom = Tar::new().file("etc/hello", b"from the bottom\n").file("etc/gone", b"hidden later\n");
    let middle = Tar::new().file("etc/.wh.gone", b"").file("srv/page", b"a page\n");
    let top = Tar::new().file("etc/hello", b"from the top\n");
    Image::of(&[Layer::plain(&bottom.done()), Layer::zstd(&middle.done()), Layer::gzip(&top.done())])
}

#[test]
fn privileged_each_chain_shows_its_own_layers_and_those_below() {
    let (stage, registry, image) = (Stage::with(lazily), DebianRegistry::start(None), layered());
    let name = push(&registry, &image, "app:1", None);
    assert!(stage.chains.show(&chain(&image, 1)).is_err(), "nobody has claimed it");
    assert!(stage.find_all(&image, &name));
    let [one, two, three] = [1, 2, 3].map(|length| stage.chains.show(&chain(&image, length)).unwrap());
    assert!(stage.layers().is_empty(), "nothing is fetched before somebody looks");
    assert_eq!(ls(&one.join("etc")), ["gone", "hello"]);
    stage.until_layers_are(&image.layers[..1]);
    assert_eq!((ls(&two), ls(&two.join("etc"))), (vec!["etc".into(), "srv".into()], vec!["hello".into()]));
    assert_eq!(cat(&two.join("etc/hello")), "from the bottom\n");
    assert_eq!(cat(&three.join("etc/hello")), "from the top\n");
}

#[test]
fn privileged_a_container_writes_over_a_chain() {
    let (stage, registry, image) = (Stage::new(), DebianRegistry::start(None), layered());
    let name = push(&registry, &image, "app:1", None);
    assert!(stage.find_all(&image, &name));
    let lower = stage.chains.show(&chain(&image, 3)).unwrap();
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| stage.directory(name));
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    run(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&merged)).well();
    let _overlay = Overlay(merged.clone());
    assert_eq!(cat(&merged.join("etc/hello")), "from the top\n");
    run(Command::new("sh").arg("-c").arg("echo mine > etc/hello; rm srv/page").current_dir(&merged)).well();
    assert_eq!((cat(&merged.join("etc/hello")), ls(&merged.join("srv"))), ("mine\n".into(), Vec::<String>::new()));
    assert_eq!(
        (cat(&lower.join("etc/hello")), cat(&lower.join("srv/page"))),
        ("from the top\n".into(), "a page\n".into())
    );
}

#[test]
fn privileged_a_chain_that_went_and_came_back_is_read_anew() {
    let (stage, registry, image) = (Stage::new(), DebianRegistry::start(None), image(&[1, 2]));
    let name = push(&registry, &image, "app:1", None);
    stage.settle();
    for _ in 0..3 {
        assert!(stage.find_all(&image, &name));
        let at = stage.chains.show(&chain(&image, 2)).unwrap();
        assert_eq!(ls(&at), ["file-1", "file-2"]);
        assert!(!cat(&at.join("file-1")).is_empty());
        stage.until_layers_are(&image.layers);
        stage.release_all(&image);
        stage.until_layers_are(&[]);
        assert!(stage.chains.show(&chain(&image, 2)).is_err());
        assert!(!at.exists(), "nothing is shown of what nobody claims");
    }
}

#[test]
fn privileged_a_mount_that_somebody_took_away_is_mounted_again() {
    let (stage, registry, image) = (Stage::new(), DebianRegistry::start(None), image(&[3]));
    let name = push(&registry, &image, "app:1", None);
    assert!(stage.find_all(&image, &name));
    let at = stage.chains.show(&chain(&image, 1)).unwrap();
    assert_eq!(ls(&at), ["file-3"]);
    mount::detach(at.parent().unwrap()).unwrap();
    until("the chain is shown again", || at.join("file-3").exists());
}

#[test]
fn privileged_usage_is_an_estimate_until_the_layer_is_here() {
    let (stage, registry, image) = (Stage::with(lazily), DebianRegistry::start(None), image(&[4]));
    let name = push(&registry, &image, "app:1", None);
    assert!(stage.find(&wanted(&image, &name, 1)));
    let estimate = stage.chains.usage(&chain(&image, 1));
    assert!(estimate.bytes > 0 && estimate.inodes > 0);
    stage.pull(&name);
    let usage = stage.chains.usage(&chain(&image, 1));
    assert!(usage != estimate && usage.bytes > 500_000 && (1..4).contains(&usage.inodes), "{usage:?}");
}
