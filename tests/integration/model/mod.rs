//! What things should be, told as simply as possible: slow, in memory, and obviously right.

mod store;
pub(crate) mod unpack;
