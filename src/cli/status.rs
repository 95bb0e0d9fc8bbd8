//! `oncefs status`

use std::process::ExitCode;

use clap::Args;

use super::connection::{Asked, unexpected};
use super::mount::absolute;
use super::progress::{Shown, bytes, short};
use super::{Setting, print_json, print_line};
use crate::control::{
    CacheReport, Call, ClaimedReport, Failure, FailureKind, ImageReport, LayerReport, MountReport, Outcome, State,
    StatusReport, WaitReport,
};
use crate::registry::Reference;

const EXAMPLES: &str = "\
Examples:
  oncefs status
  oncefs status redis:7    one image: who uses it, its layers, what is here
  oncefs status --json | jq -r '.mounts[].at'";

/// Say what is mounted, which layers are here, and how much of each
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Status {
    /// One image alone, by its name or its manifest's digest
    #[arg(value_name = "IMAGE")]
    image: Option<String>,
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
        match &self.image {
            Some(image) => print_one(&status, image, self.json)?,
            None if self.json => print_json(&status),
            None => print(&status),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// All images of this name, one for each platform; of this digest, one for each name.
fn print_one(status: &StatusReport, image: &str, json: bool) -> Result<(), Failure> {
    let name = absolute(image).parse::<Reference>().map_or_else(|_| image.to_owned(), |name| name.to_string());
    let is_meant = |one: &&ImageReport| one.reference == name || one.manifest_digest.to_string() == image;
    let meant: Vec<_> = status.images.iter().filter(is_meant).collect();
    if meant.is_empty() {
        let message = format!("{name} is not known here; `oncefs pull` or `oncefs mount` makes it so");
        return Err(Failure::new(FailureKind::NotFound, message));
    }
    if json {
        print_json(&meant);
        return Ok(());
    }
    for one in meant {
        print_line(&format!("{}  {}  {}", one.reference, one.platform, one.manifest_digest));
        users(status, one).iter().for_each(|user| print_line(&format!("  {user}")));
        let (here, all) =
            one.layers.iter().fold((0, 0), |(here, all), layer| (here + layer.resident_bytes, all + layer.data_bytes));
        print_line(&format!("  {} of {} resident", bytes(here), bytes(all)));
        one.layers.iter().for_each(|layer| print_layer_line(layer, true));
    }
    Ok(())
}

/// Who keeps the image.
fn users(status: &StatusReport, image: &ImageReport) -> Vec<String> {
    let mounts = status.mounts.iter().filter(|mount| mount.image.manifest_digest == image.manifest_digest);
    let mut users: Vec<String> = mounts.map(|mount| format!("mounted at {}", mount.at.display())).collect();
    let claimed = status.claimed.iter().filter(|claimed| claimed.image.manifest_digest == image.manifest_digest);
    users.extend(claimed.map(|claimed| format!("claimed by containerd: {} snapshots", claimed.claims)));
    let pinned = format!("{} {}", image.reference, image.platform);
    users.extend(status.cache.pinned.contains(&pinned).then(|| "pinned".to_owned()));
    users
}

fn percent(part: u64, whole: u64) -> String {
    let percent = u128::from(part) * 100 / u128::from(whole.max(1));
    if whole == 0 { "empty".to_owned() } else { format!("{percent} %") }
}

fn print(status: &StatusReport) {
    let server = status.server.map_or("no server runs".to_owned(), |pid| format!("server: process {pid}"));
    let free = format!("{} free of {}", bytes(status.free_bytes), bytes(status.total_bytes));
    print_line(&format!("store: {} ({free}); {server}", status.root.display()));
    if let Some(failure) = &status.database_failure {
        print_line(&format!("nothing can be recorded until the server is started again: {failure}"));
    }
    print_cache(&status.cache);
    status.unverified.iter().for_each(|sentence| print_line(&format!("warning: {sentence}")));
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
        // Without a server nobody knows who uses them.
        print_line(match (status.server, status.claimed.is_empty()) {
            (None, _) => "\nlayers:",
            (Some(_), true) => "\nlayers that no mount uses:",
            (Some(_), false) => "\nlayers that neither a mount nor containerd uses:",
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
    let has_failed = image.layers.iter().any(|layer| matches!(layer.state, State::Failed));
    let loaded = if mount.loaded || has_failed { "" } else { " (nobody has looked into it yet)" };
    print_line(&format!("{}  {}  {}{loaded}", mount.at.display(), image.reference, image.platform));
    image.layers.iter().for_each(print_layer);
}

fn print_claimed(ClaimedReport { image, claims }: &ClaimedReport) {
    print_line(&format!("containerd  {}  {}  claims: {claims}", image.reference, image.platform));
    image.layers.iter().for_each(print_layer);
}

/// One line a layer: which, how large, how it is.
pub(super) fn print_layer(layer: &LayerReport) {
    print_layer_line(layer, false);
}

fn print_layer_line(layer: &LayerReport, with_percent: bool) {
    let state = match layer.state {
        State::Untouched => "not here".to_owned(),
        State::Queued => "waits for other layers".to_owned(),
        State::Scanning => format!("scanning, {} of {}", bytes(layer.fetched), bytes(layer.size)),
        State::Ready => {
            let index = layer.index.as_deref().unwrap_or("unknown");
            let (here, all) = (layer.resident_bytes, layer.data_bytes);
            let percent = if with_percent { percent(here, all) + ", " } else { String::new() };
            format!("{percent}{} of {} resident, index: {index}", bytes(here), bytes(all))
        }
        State::Failed => format!("failed: {}", layer.error.as_deref().unwrap_or("unknown cause")),
    };
    print_line(&format!("  {}  {:>10}  {state}", short(layer), bytes(layer.size)));
    if let Some(waiting) = &layer.waiting {
        print_line(&format!("                            {}", of_waiting(waiting)));
    }
    if let Some(cause) = &layer.declined {
        print_line(&format!("                            {cause}"));
    }
}

fn of_waiting(waiting: &WaitReport) -> String {
    let (count, seconds) = (waiting.count, waiting.longest_ms as f64 / 1000.0);
    let what = match waiting.frames {
        Some((first, end)) if end.saturating_sub(first) == 1 => format!("frame {first}"),
        Some((first, end)) => format!("frames {first} to {}", end.saturating_sub(1)),
        None => "its index or its scan".to_owned(),
    };
    format!("waiting: {count}; the first for {seconds:.1} s, for {what}")
}
