//! What registries, mirrors and administrators write: challenges, hosts.toml, credential providers, manifests, configs, references,
//! lists of referrers.

use oncefs::registry::fuzzing::Text;

pub(crate) fn fuzz(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else { return };
    // A digit says which; of a number that does not change when a text is added, so that seeds stay what they are.
    if let Some(text) = Text::ALL.get(usize::from(*which) % 16) {
        text.read(rest);
    }
}
