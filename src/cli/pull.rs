//! `oncefs pull IMAGE`

use std::process::ExitCode;

use clap::Args;

use super::connection::with_news;
use super::mount::absolute;
use super::progress::Shown;
use super::{ImageArgs, Setting, print_line};
use crate::control::{Call, Failure, Outcome, PullCall};

const EXAMPLES: &str = "\
Examples:
  oncefs pull docker.io/library/redis:7
  oncefs pull --platform linux/arm64 debian:12

What several pulls and mounts want at the same time is fetched once. Interrupted, a pull leaves nothing that counts as a \
layer; layers it had finished stay. What was let go of before is fetched again; what the cache cannot hold \
([cache] max_bytes) is said.";

/// Fetch, verify and index every layer of an image without mounting it
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Pull {
    #[command(flatten)]
    image: ImageArgs,
    /// Do the work in this process; the store must not be in use
    #[arg(long)]
    in_process: bool,
}

impl Pull {
    pub(super) async fn run(self, setting: &Setting) -> Result<ExitCode, Failure> {
        let call = PullCall { image: absolute(&self.image.image), platform: self.image.platform };
        let mut shown = Shown::new();
        let pulled = if self.in_process {
            let node = setting.node().await?;
            let pulled = with_news(&mut shown, |news| {
                let node = node.clone();
                async move { node.pull(&call, &news).await }
            });
            pulled.await?
        } else {
            match setting.call(&Call::Pull(call), &mut shown).await?.outcome {
                Outcome::Pulled(image) => image,
                other => return Err(super::connection::unexpected(&other)),
            }
        };
        shown.say_what_is_missing(&pulled.reference);
        print_line(&format!("{}@{}", pulled.reference, pulled.manifest_digest));
        Ok(ExitCode::SUCCESS)
    }
}
