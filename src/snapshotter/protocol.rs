//! containerd's protocol as Rust: made by `build.rs` of `proto/`, named as containerd names it.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]

mod made {
    include!(concat!(env!("OUT_DIR"), "/protocols.rs"));
}

pub use made::containerd::services::namespaces::v1 as namespaces;
pub use made::containerd::services::snapshots::v1;
pub use made::containerd::services::version::v1 as version;
pub use made::containerd::types;
