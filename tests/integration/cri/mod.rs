//! The CRI proxy: what it passes on, what it looks into, and what it makes of a PullImage.
#![allow(clippy::disallowed_methods)] // tests hold tasks and end them; the model checker has no part in it

mod alike;
mod backend;
mod calls;
mod passing;
mod proxied;
mod pulling;
mod real;
mod verified;

use calls::{Call, Caller, frame_of_pull};
use proxied::Proxied;
