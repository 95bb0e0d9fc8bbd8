//! Views through a real FUSE mount: what programs and the kernel see.

mod idmapped;
mod metadata;
mod names;
mod overlay;
mod reads;
mod session;
mod source;
mod stage;
mod tars;
mod waiting;
