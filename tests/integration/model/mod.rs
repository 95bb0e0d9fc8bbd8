//! What things should be, told as simply as possible: slow, in memory, and obviously right.

pub(crate) mod unpack;
