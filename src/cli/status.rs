//! `oncefs status`

use std::process::ExitCode;

use clap::Args;

use super::connection::{Asked, unexpected};
use super::progress::{Shown, bytes, short};
use super::{Setting, print_json, print_line};
use crate::control::{
    CacheReport, Call, ClaimedReport, Failure, LayerReport, MountReport, Outcome, State, StatusReport,
};

const EXAMPLES: &str = "\
Examples:
  oncefs status
  oncefs status --json | jq -r '.mounts[].at'";

/// Say what is mounted, which layers are here, and how much of each
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Status {
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) async fn run(self, setting: &Setting) -> Result<ExitCode, Failure> {
        let status = match setting.ask(&Call::Status, &mut Shown::new()).await? {
            Asked::Answered(Outcome::Status(status)) => *status,
            Asked::Answered(other) => return Err(unexpected(&other)),
            Asked::Here(node) => node.status().await?,
        };
        if self.json {
            print_json(&status);
        } else {
            print(&status);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(status: &StatusReport) {
    let server = status.server.map_or("no server runs".to_owned(), |pid| format!("server: process {pid}"));
    let free = format!("{} free of {}", bytes(status.free_bytes), bytes(status.total_bytes));
    print_line(&format!("store: {} ({free}); {server}", status.root.display()));
    print_cache(&status.cache);
    for mount in &status.mounts {
        print_line("");
        print_mount(mount);
    }
    for claimed in &status.claimed {
        print_line("");
        print_claimed(claimed);
    }
    if status.leaving > 0 {
        print_line(&format!("\nout of sight but still in use: {}", status.leaving));
    }
    let images = status.mounts.iter().map(|mount| &mount.image);
    let images = images.chain(status.claimed.iter().map(|claimed| &claimed.image));
    let used: Vec<_> = images.flat_map(|image| &image.layers).map(|layer| layer.digest).collect();
    let others: Vec<_> = status.layers.iter().filter(|layer| !used.contains(&layer.digest)).collect();
    if !others.is_empty() {
        print_line(match status.claimed.is_empty() {
            true => "\nlayers that no mount uses:",
            false => "\nlayers that neither a mount nor containerd uses:",
        });
        others.into_iter().for_each(print_layer);
    }
}

fn print_cache(cache: &CacheReport) {
    let bound = match cache.max_bytes {
        0 => "no bound".to_owned(),
        max => format!("of {}; above {} some goes", bytes(max), bytes(cache.high_bytes)),
    };
    let unkept = match cache.unkept_frames {
        0 => String::new(),
        frames => format!("; {frames} frames served without being kept"),
    };
    print_line(&format!("cache: {} used, {bound}{unkept}", bytes(cache.used_bytes)));
    cache.pinned.iter().for_each(|pinned| print_line(&format!("pinned: {pinned}")));
}

fn print_mount(mount: &MountReport) {
    let image = &mount.image;
    let loaded = if mount.loaded { "" } else { " (nobody has looked into it yet)" };
    print_line(&format!("{}  {}  {}{loaded}", mount.at.display(), image.reference, image.platform));
    image.layers.iter().for_each(print_layer);
}

fn print_claimed(ClaimedReport { image, claims }: &ClaimedReport) {
    print_line(&format!("containerd  {}  {}  claims: {claims}", image.reference, image.platform));
    image.layers.iter().for_each(print_layer);
}

/// One line a layer: which, how large, how it is.
pub(super) fn print_layer(layer: &LayerReport) {
    let state = match layer.state {
        State::Untouched => "not here".to_owned(),
        State::Queued => "waits for other layers".to_owned(),
        State::Scanning => format!("scanning, {} of {}", bytes(layer.fetched), bytes(layer.size)),
        State::Ready => {
            let index = layer.index.as_deref().unwrap_or("unknown");
            format!("{} of {} resident, index: {index}", bytes(layer.resident_bytes), bytes(layer.data_bytes))
        }
        State::Failed => format!("failed: {}", layer.error.as_deref().unwrap_or("unknown cause")),
    };
    print_line(&format!("  {}  {:>10}  {state}", short(layer), bytes(layer.size)));
    if let Some(cause) = &layer.declined {
        print_line(&format!("                            {cause}"));
    }
}
