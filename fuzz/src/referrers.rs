//! What lies beside an image, from the registry's list of it on: artifacts that a believed key has signed, another one, or nobody, and the indexes
//! in them, oncefs's own and SOCI's. All with arbitrary content and with digests that fit. Nothing counts as signed that was not.
//!
//! An input has four bytes: what is believed, how many manifests there are, and the size of a blob that a ztoc is of, in two. The list and the manifests come next,
//! with a zero byte after each, and at the end the index of a layer. In the texts MANIFEST0, MANIFEST1 and so on, INDEX and LAYER stand for digests, SIZE for the
//! bytes of the index, KEY for the believed key's name, and SIGNATURE for what that key gives for the manifest around it.

use std::sync::LazyLock;

use oncefs::blob::{Layered, Referrer};
use oncefs::digest::{DiffId, Digest, LayerDigest};
use oncefs::index::frames::Bond;
use oncefs::index::published::artifact::{ARTIFACT_TYPE, Artifact, Listed, Subject};
use oncefs::index::published::signature::{PublicKey, SigningKey};
use oncefs::index::sources::{Beliefs, candidates};
use oncefs::registry::fuzzing::referrers;

use super::documents::{Documents, layer_of};
use super::sources::{look_into, parts};

/// The key of RFC 8032, section 7.1, test 3, which is no secret.
const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIMWqjfQ/n4N77bdELzHct7Fm04U1B28JS4XOOi4LRFj3\n-----END PRIVATE KEY-----\n";

const SIGNATURE: &str = "vnd.oncefs.index.signature";

/// More than are looked at.
const MANIFESTS_MAX: usize = 10;

struct Key {
    secret: SigningKey,
    public: [PublicKey; 1],
}

static KEY: LazyLock<Key> = LazyLock::new(|| {
    let secret = SigningKey::of_pem(PEM).expect("a key");
    Key { public: [secret.public().expect("its public half")], secret }
});

pub(crate) fn fuzz(bytes: &[u8]) {
    let _any_answer_will_do = found(bytes);
}

/// Why the index is believed that was found, if one was.
pub fn found(bytes: &[u8]) -> Option<Bond> {
    let (&[believed, count, size_low, size_high], rest) = bytes.split_first_chunk()?;
    let image = Digest::of(b"image");
    let keys = if believed & 1 == 0 { &[][..] } else { &KEY.public };
    let beliefs = Beliefs { keys, unsigned: (believed & 2 != 0).then_some(image) };
    let (list, mut rest) = parts(rest);
    let mut manifests = Vec::new();
    for _ in 0..usize::from(count).min(MANIFESTS_MAX) {
        let (manifest, after) = parts(rest);
        manifests.push(String::from_utf8_lossy(manifest));
        rest = after;
    }
    let (layer, blob) = layer_with(rest, u16::from_le_bytes([size_low, size_high]).into());

    let mut beside = Documents::default();
    let index = beside.put(rest).to_string();
    let mut list = String::from_utf8_lossy(list).replace("KEY", &KEY.public[0].id().to_string());
    let is_signed = manifests.iter().any(|manifest| manifest.contains("SIGNATURE"));
    for (n, manifest) in manifests.iter().enumerate() {
        let named = manifest
            .replace("KEY", &KEY.public[0].id().to_string())
            .replace("INDEX", &index)
            .replace("SIZE", &rest.len().to_string())
            .replace("LAYER", &layer.digest.to_string());
        let manifest = signed(&named);
        look_at(manifest.as_bytes());
        list = list.replace(&format!("MANIFEST{n}"), &beside.put(manifest.as_bytes()).to_string());
    }
    let listed = referrers(list.as_bytes()).ok()?;
    assert_candidates(&listed, &beliefs);
    beside.referrers = listed.into();
    let bond = look_into(&layer, blob, &beside, &beliefs)?;
    match bond {
        Bond::Signature(key) => assert!(is_signed && keys.iter().any(|one| one.id() == key)),
        bond => assert_eq!(Some(bond), beliefs.unsigned.map(Bond::Referrer)),
    }
    Some(bond)
}

/// The layer that an index says it is of, or a gzip of so many bytes, which is as much as a ztoc says of one; and its blob, if that is looked at.
fn layer_with(index: &[u8], size: usize) -> (Layered, Vec<u8>) {
    let mut blob = vec![0x1f, 0x8b, 8, 0];
    blob.resize(size, 0);
    let digest = |at: usize| Some(Digest::from_bytes(index.get(at..at + 32)?.try_into().ok()?));
    let own = || {
        index.strip_prefix(b"1cINDEX\0")?;
        let size = u64::from_le_bytes(index.get(80..88)?.try_into().ok()?);
        let (digest, diff_id) = (LayerDigest(digest(16)?), DiffId(digest(48)?));
        Some(Layered { digest, diff_id, size, media_type: String::new(), annotations: Default::default() })
    };
    (own().unwrap_or_else(|| layer_of(&blob, "gzip", &[])), blob)
}

/// The text with the signature that fits it, where it wants one.
fn signed(text: &str) -> String {
    let Some(artifact) = Artifact::read(text.as_bytes()).filter(|_| text.contains("SIGNATURE")) else {
        return text.to_owned();
    };
    let indexes: Vec<Listed> = artifact.indexes().collect();
    let subject = Subject { media_type: String::new(), digest: Digest::of(b""), size: 0 };
    let signed = Artifact::new(&subject, &indexes, None, Some(&KEY.secret));
    text.replace("SIGNATURE", &signed.annotations()[SIGNATURE])
}

/// What is read of an artifact is written again as it was.
fn look_at(manifest: &[u8]) {
    let Some(artifact) = Artifact::read(manifest) else { return };
    let again = Artifact::read(&artifact.bytes()).expect("it is understood again");
    assert!(artifact.indexes().eq(again.indexes()));
    assert_eq!(artifact.profile(), again.profile());
    assert_eq!(artifact.signer(&KEY.public), again.signer(&KEY.public));
}

fn assert_candidates(listed: &[Referrer], beliefs: &Beliefs<'_>) {
    let found: Vec<_> = candidates(listed, beliefs).collect();
    assert!(found.len() <= 8, "each costs a request");
    assert!(found.iter().all(|one| one.artifact_type == ARTIFACT_TYPE));
    assert!(
        !found.is_empty() || beliefs.unsigned.is_none() || listed.iter().all(|one| one.artifact_type != ARTIFACT_TYPE)
    );
}
