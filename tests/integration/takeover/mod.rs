//! Servers that are killed, and followed by others: who reads notices a pause.

mod ends;
mod readers;
pub(crate) mod stage;
