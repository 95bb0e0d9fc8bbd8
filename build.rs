//! Makes Rust of `proto/`: with a compiler of protocols that is itself Rust, so that nothing needs to be installed.

use std::error::Error;

const FILES: [&str; 1] = ["snapshots.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure().include_file("protocols.rs").compile_fds(descriptors)?;
    Ok(())
}
