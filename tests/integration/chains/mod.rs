//! Chains as containerd asks for them: found once however many ask, shown through FUSE, and deleted when nobody needs them.

mod finding;
mod freeing;
mod remembering;
mod showing;
mod stage;
mod stalling;
