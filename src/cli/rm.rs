//! `oncefs rm IMAGE...`

use std::process::ExitCode;

use clap::Args;

use super::connection::{Asked, unexpected};
use super::mount::absolute;
use super::progress::{Shown, bytes};
use super::{Setting, counted, print_line};
use crate::control::{Call, Failure, Outcome, PullCall, RemoveSummary};

const EXAMPLES: &str = "\
Examples:
  oncefs rm docker.io/library/redis:7
  oncefs rm --platform linux/arm64 debian:12 debian:13

Layers go with the last image that has them. An image that is mounted, pinned, or in use by containerd stays, and that is \
an error; what else was named goes all the same. Nothing is removed from a registry.";

/// Forget images, with the layers that nothing else needs
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Rm {
    /// Images as they were pulled or mounted; `oncefs status` lists them
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// The platform that they were pulled for, as in linux/arm64 [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
}

impl Rm {
    /// To the end of the list. The first failure is the command's.
    pub(super) async fn run(self, setting: &Setting) -> Result<ExitCode, Failure> {
        let mut failed = Ok(ExitCode::SUCCESS);
        for image in &self.images {
            let call = PullCall { image: absolute(image), platform: self.platform.clone() };
            match remove(call, setting).await {
                Ok(summary) => print(&summary),
                Err(failure) if failed.is_ok() => failed = Err(failure),
                Err(another) => eprintln!("oncefs: {}", another.message),
            }
        }
        failed
    }
}

async fn remove(call: PullCall, setting: &Setting) -> Result<RemoveSummary, Failure> {
    match setting.ask(&Call::Remove(call.clone()), &mut Shown::new()).await? {
        Asked::Answered(Outcome::Removed(summary)) => Ok(summary),
        Asked::Answered(other) => Err(unexpected(&other)),
        Asked::Here(node) => node.remove(&call).await,
    }
}

fn print(RemoveSummary { reference, platform, layers, layer_bytes }: &RemoveSummary) {
    let layers = counted(layers.len() as u64, "layer");
    print_line(&format!("{reference} {platform}: removed, with {layers} ({})", bytes(*layer_bytes)));
}
