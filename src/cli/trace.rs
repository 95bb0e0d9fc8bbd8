//! `oncefs trace IMAGE`

mod page;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::connection::{Asked, unexpected};
use super::mount::absolute;
use super::progress::Shown;
use super::{ImageArgs, Setting, counted, print_json, print_line};
use crate::control::{Call, Failure, FailureKind, Outcome, PullCall};

const EXAMPLES: &str = "\
Examples:
  oncefs trace redis:7     writes oncefs-trace.html, for a browser
  oncefs trace redis:7 --output start.html
  oncefs trace redis:7 --json | jq '.requests | length'

A start begins when somebody first looks into the image, and is watched for the time that record_secs in [profile] says. The page needs nothing but itself: it can be mailed.";

/// Show the last start of an image: which file, which frame, which request, when
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Trace {
    #[command(flatten)]
    image: ImageArgs,
    /// Where the page is written; `-` is standard output
    #[arg(long, short, value_name = "FILE", default_value = "oncefs-trace.html")]
    output: PathBuf,
    /// As JSON on standard output, for programs
    #[arg(long)]
    json: bool,
}

impl Trace {
    pub(super) async fn run(self, setting: &Setting) -> Result<ExitCode, Failure> {
        let call = PullCall { image: absolute(&self.image.image), platform: self.image.platform };
        let traced = match setting.ask(&Call::Trace(call.clone()), &mut Shown::new()).await? {
            Asked::Answered(Outcome::Traced(traced)) => *traced,
            Asked::Answered(other) => return Err(unexpected(&other)),
            Asked::Here(node) => node.trace(&call).await?,
        };
        if self.json {
            print_json(&traced);
        } else if self.output == Path::new("-") {
            print_line(&page::html(&traced));
        } else {
            std::fs::write(&self.output, page::html(&traced)).map_err(|error| {
                let message = format!("cannot write {}: {error}", self.output.display());
                Failure::new(FailureKind::Other, message)
            })?;
            let (touches, requests) = (traced.touches.len(), traced.requests.len());
            let (touches, requests) = (counted(touches as u64, "first read"), counted(requests as u64, "request"));
            print_line(&format!("{}: {touches}, {requests}", self.output.display()));
        }
        Ok(ExitCode::SUCCESS)
    }
}
