//! `oncefs pin IMAGE` and `oncefs unpin IMAGE`

use std::process::ExitCode;

use clap::Args;

use super::connection::{Asked, unexpected, unless_interrupted};
use super::mount::absolute;
use super::progress::{Shown, bytes};
use super::{ImageArgs, Setting, print_line};
use crate::control::{Call, Failure, Outcome, PinSummary, PullCall};

const PIN_EXAMPLES: &str = "\
Examples:
  oncefs pin docker.io/library/redis:7
  oncefs pull docker.io/library/redis:7     fetches all of it, too

What is here of the image, and what comes of it, is never evicted or pruned, across restarts, until it is unpinned. The \
pin is on the name: it follows a tag that comes to mean another image.";

/// Keep an image's layers in the cache, whatever its bound
#[derive(Debug, Args)]
#[command(after_help = PIN_EXAMPLES)]
pub(super) struct Pin {
    #[command(flatten)]
    image: ImageArgs,
}

/// Let a pinned image's layers go as others do
#[derive(Debug, Args)]
pub(super) struct Unpin {
    #[command(flatten)]
    image: ImageArgs,
}

impl Pin {
    pub(super) async fn run(self, setting: &Setting) -> Result<ExitCode, Failure> {
        let call = call(self.image);
        let summary = match setting.ask(&Call::Pin(call.clone()), &mut Shown::new()).await? {
            Asked::Answered(Outcome::Pinned(summary)) => summary,
            Asked::Answered(other) => return Err(unexpected(&other)),
            Asked::Here(node) => unless_interrupted(node.pin(&call)).await?,
        };
        let PinSummary { reference, platform, resident_bytes, was_pinned } = summary;
        let pinned = if was_pinned { "was pinned already" } else { "pinned" };
        let here = bytes(resident_bytes.unwrap_or(0));
        print_line(&format!("{reference} {platform}: {pinned}; {here} of it are here"));
        Ok(ExitCode::SUCCESS)
    }
}

impl Unpin {
    pub(super) async fn run(self, setting: &Setting) -> Result<ExitCode, Failure> {
        let call = call(self.image);
        let summary = match setting.ask(&Call::Unpin(call.clone()), &mut Shown::new()).await? {
            Asked::Answered(Outcome::Unpinned(summary)) => summary,
            Asked::Answered(other) => return Err(unexpected(&other)),
            Asked::Here(node) => node.unpin(&call).await?,
        };
        print_line(&format!("{} {}: unpinned", summary.reference, summary.platform));
        Ok(ExitCode::SUCCESS)
    }
}

fn call(ImageArgs { image, platform }: ImageArgs) -> PullCall {
    PullCall { image: absolute(&image), platform }
}
