//! The integration tests, one program of them: linked once, run side by side. A folder a topic.

mod tree;
