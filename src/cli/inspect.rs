//! `oncefs inspect IMAGE`

use std::process::ExitCode;

use clap::Args;

use super::connection::{Asked, unexpected, unless_interrupted};
use super::mount::absolute;
use super::progress::{Shown, bytes};
use super::status::print_layer;
use super::{ImageArgs, Setting, print_json, print_line};
use crate::control::{Call, Failure, InspectReport, Outcome, PullCall};

const EXAMPLES: &str = "\
Examples:
  oncefs inspect docker.io/library/redis:7
  oncefs inspect --json redis:7 | jq .config.config.Cmd

Fetches the manifest and the config, and no layer.";

/// Say what an image is: its manifest, its layers, and what index each has here
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Inspect {
    #[command(flatten)]
    image: ImageArgs,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) async fn run(self, setting: &Setting) -> Result<ExitCode, Failure> {
        let call = PullCall { image: absolute(&self.image.image), platform: self.image.platform };
        let inspected = match setting.ask(&Call::Inspect(call.clone()), &mut Shown::new()).await? {
            Asked::Answered(Outcome::Inspected(report)) => *report,
            Asked::Answered(other) => return Err(unexpected(&other)),
            Asked::Here(node) => unless_interrupted(node.inspect(&call)).await?,
        };
        if self.json {
            print_json(&inspected);
        } else {
            print(&inspected);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(report: &InspectReport) {
    let image = &report.image;
    print_line(&format!("image:     {}", image.reference));
    print_line(&format!("manifest:  {}  {}", image.manifest_digest, report.media_type));
    print_line(&format!("platform:  {}", image.platform));
    let settings = report.config.get("config");
    for (name, key) in [("entry", "Entrypoint"), ("command", "Cmd"), ("user", "User"), ("directory", "WorkingDir")] {
        let value = settings.and_then(|settings| settings.get(key)).filter(|value| !value.is_null());
        if let Some(value) = value {
            print_line(&format!("{:<10} {value}", format!("{name}:")));
        }
    }
    let size: u64 = image.layers.iter().map(|layer| layer.size).sum();
    print_line(&format!("layers:    {}, {} compressed", image.layers.len(), bytes(size)));
    for (layer, media_type) in image.layers.iter().zip(&report.layer_media_types) {
        print_layer(layer);
        print_line(&format!("    {}  {media_type}", layer.digest));
    }
}
