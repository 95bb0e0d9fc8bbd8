//! Servers that are killed, and followed by others: who reads notices a pause.

mod ends;
mod keeping;
mod readers;
mod restarted;
pub(crate) mod stage;
