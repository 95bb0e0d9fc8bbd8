//! What registries, mirrors and administrators write: challenges, hosts.toml, credential providers, manifests, configs, references.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oncefs::registry::fuzzing::Text;

fuzz_target!(|data: &[u8]| {
    let Some((which, rest)) = data.split_first() else { return };
    Text::ALL[usize::from(*which) % Text::ALL.len()].read(rest);
});
