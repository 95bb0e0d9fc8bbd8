//! What containerd tells of a layer when it is about to unpack it: the labels of a Prepare, names as in containerd's
//! `pkg/snapshotters/annotations.go` (the same from 1.6 to 2.4).

use super::book::{CHAIN, Labels};
use super::chains::{LayerSource, Wanted};
use crate::digest::{ChainId, Digest, LayerDigest};
use crate::mount::Mapping;

const IMAGE: &str = "containerd.io/snapshot/cri.image-ref";
const LAYER: &str = "containerd.io/snapshot/cri.layer-digest";
const MANIFEST: &str = "containerd.io/snapshot/cri.manifest-digest";
const USERS: &str = "containerd.io/snapshot/uidmapping";
const GROUPS: &str = "containerd.io/snapshot/gidmapping";

/// The layer to be unpacked over `parent`; `None` if the labels speak of none, or make no sense.
pub(super) fn wanted(labels: &Labels, parent: Option<ChainId>) -> Option<Wanted> {
    let chain = digest(labels, CHAIN).map(ChainId)?;
    Some(Wanted { chain, parent, source: source(labels) })
}

fn source(labels: &Labels) -> Option<LayerSource> {
    let image = labels.get(IMAGE)?.clone();
    let layer = digest(labels, LAYER).map(LayerDigest)?;
    let manifest = match labels.get(MANIFEST) {
        Some(_) => Some(digest(labels, MANIFEST)?),
        None => None,
    };
    Some(LayerSource { image, manifest, layer })
}

fn digest(labels: &Labels, name: &str) -> Option<Digest> {
    let text = labels.get(name)?;
    match text.parse() {
        Ok(digest) => Some(digest),
        Err(error) => {
            tracing::warn!(label = name, %error, "a label of containerd's is no digest: the layer is unpacked as usual");
            None
        }
    }
}

/// The user namespace that a container's snapshot is for. A mapping that is none is left out.
pub(super) fn mapping(labels: &Labels) -> Mapping {
    let of = |name: &str| labels.get(name).filter(|text| root_of(text).is_some()).cloned();
    Mapping { users: of(USERS), groups: of(GROUPS) }
}

/// Whom a container's root is on the host, user and group, if it has a user namespace.
pub(super) fn root(labels: &Labels) -> Option<(u32, u32)> {
    let mapping = mapping(labels);
    Some((root_of(&mapping.users?)?, root_of(&mapping.groups?)?))
}

/// Whom the root of the mapping is on the host.
pub(super) fn root_of(mapping: &str) -> Option<u32> {
    let mut root = None;
    for line in mapping.split(',') {
        let mut numbers = line.split(':').map(str::parse::<u32>);
        let (container, host, length) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        if numbers.next().is_some() {
            return None;
        }
        if container == 0 && length > 0 {
            root = Some(host);
        }
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn named(byte: &str) -> String {
        format!("sha256:{}", byte.repeat(32))
    }

    #[test]
    fn what_cri_tells_is_understood() {
        let told = labels(&[
            (CHAIN, &named("aa")),
            (IMAGE, "docker.io/library/redis:7"),
            (LAYER, &named("bb")),
            (MANIFEST, &named("cc")),
        ]);
        let wanted = wanted(&told, None).unwrap();
        assert_eq!(wanted.chain.to_string(), named("aa"));
        let source = wanted.source.unwrap();
        assert_eq!((source.image.as_str(), source.layer.to_string()), ("docker.io/library/redis:7", named("bb")));
        assert_eq!(source.manifest.unwrap().to_string(), named("cc"));
    }

    #[test]
    fn a_chain_alone_is_a_chain_without_a_source_and_nonsense_is_nothing() {
        assert_eq!(wanted(&labels(&[(CHAIN, &named("aa"))]), None).unwrap().source, None);
        assert_eq!(wanted(&labels(&[]), None), None);
        assert_eq!(wanted(&labels(&[(CHAIN, "sha256:short")]), None), None);
        let lying = labels(&[(CHAIN, &named("aa")), (IMAGE, "redis"), (LAYER, &"x".repeat(4096))]);
        assert_eq!(wanted(&lying, None).unwrap().source, None);
    }

    #[test]
    fn a_mapping_says_who_root_is() {
        assert_eq!(root_of("0:100000:65536"), Some(100_000));
        assert_eq!(root_of("1:5:1,0:7:1"), Some(7));
        for none in ["", "0:1", "0:1:0", "1:2:3", "0:1:2:3", "0:-1:2", "a:b:c"] {
            assert_eq!(root_of(none), None, "{none}");
        }
        assert_eq!(mapping(&labels(&[(USERS, "0:1:2"), (GROUPS, "no")])).groups, None);
    }
}
