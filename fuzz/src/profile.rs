//! A start-up profile of arbitrary bytes, with a right checksum and without: what is read of it is written again as it was.

use oncefs::digest::Digest;
use oncefs::index::profile::Profile;

pub(crate) fn fuzz(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    let manifest =
        bytes.get(8..40).and_then(|digest| digest.try_into().ok()).map_or(Digest::of(b""), Digest::from_bytes);
    let _damaged_for_sure = Profile::from_bytes(&bytes, &manifest);
    let checksum = Digest::of(&bytes);
    bytes.extend(checksum.as_bytes());
    if let Ok(profile) = Profile::from_bytes(&bytes, &manifest) {
        let again = profile.to_bytes(&manifest);
        assert_eq!(Profile::from_bytes(&again, &manifest).as_ref(), Ok(&profile));
        assert_eq!(profile.clone().with_start(profile.parts.clone()).parts.len(), profile.parts.len());
    }
}
