//! Chains of layers, from their tars to the merged view, against a naive unpacking and against other people's programs.

mod any;
mod chain;
mod disk;
mod kernel;
mod merged;
mod seen;
mod tangle;
mod tarball;
mod umoci;
