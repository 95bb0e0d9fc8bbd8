//! Makes Rust of `proto/`: with a compiler of protocols that is itself Rust, so that nothing needs to be installed.

use std::error::Error;

const CONTAINERD: [&str; 3] = ["snapshots.proto", "namespaces.proto", "version.proto"];
/// Messages only: the proxy passes calls on as bytes.
const CRI: [&str; 1] = ["cri.proto"];
/// Their `Debug` would show passwords.
const SECRET: [&str; 2] = ["runtime.v1.AuthConfig", "runtime.v1.PullImageRequest"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(CONTAINERD, ["proto"])?;
    tonic_prost_build::configure().include_file("protocols.rs").compile_fds(descriptors)?;
    let messages = tonic_prost_build::configure().build_client(false).build_server(false);
    messages.skip_debug(SECRET).compile_fds(protox::compile(CRI, ["proto"])?)?;
    Ok(())
}
