//! What registries, mirrors and administrators write: challenges, hosts.toml, credential providers, manifests, configs, references.

use oncefs::registry::fuzzing::Text;

pub(crate) fn fuzz(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else { return };
    Text::ALL[usize::from(*which) % Text::ALL.len()].read(rest);
}
