//! The program `oncefs`.

fn main() {}
