//! The real program, as people and scripts use it: every command, every exit code, every bad input.

mod caching;
mod damage;
mod disk;
mod doctoring;
mod failing;
mod homes;
pub(crate) mod image;
mod interrupted;
mod lazy;
mod mirrored;
pub(crate) mod mounting;
pub(crate) mod node;
mod profiled;
mod pulling;
pub(crate) mod registry;
mod removing;
mod service;
mod traced;
mod unresolved;
mod unscanned;
mod user;
mod waited;
