//! Chains of layers, from their tars to the merged view, against a naive unpacking and against other people's programs.

mod any;
mod chain;
mod disk;
mod grafting;
mod kernel;
mod merged;
mod merging;
mod says;
mod seen;
mod tangle;
mod tarball;
mod umoci;
