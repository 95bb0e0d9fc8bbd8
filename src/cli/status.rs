//! `oncefs status`

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::connection::{Asked, unexpected};
use super::mount::absolute;
use super::progress::{Shown, bytes, short};
use super::{Setting, counted, print_json, print_line};
use crate::control::{
    AwayReport, CacheReport, Call, ClaimedReport, Failure, FailureKind, ImageReport, LayerReport, MountReport, Outcome,
    State, StatusReport, WaitReport,
};
use crate::errors::without_login;
use crate::registry::{Reference, Remote};
use crate::sys::file::space;

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
        let root = &setting.config.root;
        let status = match setting.call_running(&Call::Status, &mut Shown::new()).await {
            Some(answered) => of_outcome(answered?)?,
            // Who only asks makes no store.
            None if root.is_absolute() && is_missing(root) => of_no_store(root),
            None => match setting.ask(&Call::Status, &mut Shown::new()).await? {
                Asked::Answered(outcome) => of_outcome(outcome)?,
                Asked::Here(node) => node.status().await?,
            },
        };
        match &self.image {
            Some(image) => print_one(&status, image, self.json)?,
            None if self.json => print_json(&status),
            None => print(&status),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn of_outcome(outcome: Outcome) -> Result<StatusReport, Failure> {
    match outcome {
        Outcome::Status(status) => Ok(*status),
        other => Err(unexpected(&other)),
    }
}

fn is_missing(root: &Path) -> bool {
    root.join("lock").symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Of where a store would be made.
fn of_no_store(root: &Path) -> StatusReport {
    let disk = root.ancestors().find_map(|place| File::open(place).ok()).and_then(|place| space(&place).ok());
    StatusReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        root: root.to_owned(),
        free_bytes: disk.as_ref().map_or(0, |disk| disk.available),
        total_bytes: disk.as_ref().map_or(0, |disk| disk.total),
        ..StatusReport::default()
    }
}

/// Images that are mounted, that containerd has, or that are known; one that is several of this once.
fn all_images(status: &StatusReport) -> Vec<&ImageReport> {
    let mounted = status.mounts.iter().map(|mount| &mount.image);
    let used = mounted.chain(status.claimed.iter().map(|claimed| &claimed.image));
    let mut all: Vec<&ImageReport> = Vec::new();
    for image in used.chain(&status.images) {
        if !all.iter().any(|other| is_same(image, other)) {
            all.push(image);
        }
    }
    all
}

fn is_same(one: &ImageReport, other: &ImageReport) -> bool {
    one.manifest_digest == other.manifest_digest && has_name_of(one, other)
}

fn has_name_of(one: &ImageReport, other: &ImageReport) -> bool {
    (&one.reference, &one.platform) == (&other.reference, &other.platform)
}

/// By its name; where a tag has moved, and the name means two of those that are here, with its digest.
fn called(status: &StatusReport, image: &ImageReport) -> String {
    let is_another = |other: &&ImageReport| has_name_of(image, other) && !is_same(image, other);
    match all_images(status).iter().any(is_another) {
        true => format!("{}@{}", image.reference, image.manifest_digest),
        false => image.reference.clone(),
    }
}

/// All images of this name, one for each platform; of this digest, one for each name.
fn print_one(status: &StatusReport, image: &str, json: bool) -> Result<(), Failure> {
    let name =
        absolute(image).parse::<Reference>().map_or_else(|_| without_login(image).into(), |name| name.to_string());
    let is_meant = |one: &&ImageReport| one.reference == name || one.manifest_digest.to_string() == image;
    let meant: Vec<_> = all_images(status).into_iter().filter(is_meant).collect();
    if meant.is_empty() {
        let message = match alike(status, &name) {
            Some(alike) => format!("{name} is not known here; {alike} is"),
            None => format!("{name} is not known here; `oncefs pull` or `oncefs mount` makes it so"),
        };
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

/// An image whose repository has the same last name: most have left the registry out.
fn alike(status: &StatusReport, name: &str) -> Option<String> {
    let last_name = |name: &str| Some(name.parse::<Remote>().ok()?.repository.path().rsplit('/').next()?.to_owned());
    let wanted = last_name(name)?;
    let alike = status.images.iter().find(|image| last_name(&image.reference).is_some_and(|name| name == wanted))?;
    Some(alike.reference.clone())
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
    if status.server.is_none() && is_missing(&status.root) {
        let root = status.root.display();
        return print_line(&format!("no store at {root} yet ({free}); `oncefs mount` or `oncefs pull` makes one"));
    }
    print_line(&format!("store: {} ({free}); {server}", status.root.display()));
    if let Some(failure) = &status.database_failure {
        print_line(&format!("nothing can be recorded until the server is started again: {failure}"));
    }
    print_cache(&status.cache);
    status.unverified.iter().for_each(|sentence| print_line(&format!("warning: {sentence}")));
    for mount in &status.mounts {
        print_line("");
        print_mount(mount, &called(status, &mount.image));
    }
    for claimed in &status.claimed {
        print_line("");
        print_claimed(claimed, &called(status, &claimed.image));
    }
    if status.leaving > 0 {
        print_line(&format!("\nout of sight but still in use: {}", status.leaving));
    }
    // Without a server nobody knows who uses them.
    let unused = match (status.server, status.claimed.is_empty()) {
        (None, _) => "",
        (Some(_), true) => " that no mount uses",
        (Some(_), false) => " that neither a mount nor containerd uses",
    };
    let images = status.mounts.iter().map(|mount| &mount.image);
    let used: Vec<_> = images.chain(status.claimed.iter().map(|claimed| &claimed.image)).collect();
    let others = status.images.iter().filter(|image| !used.iter().any(|other| is_same(image, other)));
    for (n, image) in others.enumerate() {
        if n == 0 {
            print_line(&format!("\nimages{unused}:"));
        }
        print_image(image, &called(status, image));
    }
    let used: Vec<_> = used.into_iter().flat_map(|image| &image.layers).map(|layer| layer.digest).collect();
    for (n, layer) in status.layers.iter().filter(|layer| !used.contains(&layer.digest)).enumerate() {
        if n == 0 {
            print_line(&format!("\nlayers{unused}:"));
        }
        print_layer(layer);
    }
}

/// One line: nobody uses it, or not as this.
fn print_image(image: &ImageReport, name: &str) {
    let here = image.layers.iter().map(|layer| layer.resident_bytes).sum();
    let layers = counted(image.layers.len() as u64, "layer");
    print_line(&format!("  {name}  {}  {layers}, {} resident", image.platform, bytes(here)));
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

fn print_mount(mount: &MountReport, name: &str) {
    let image = &mount.image;
    let has_failed = image.layers.iter().any(|layer| matches!(layer.state, State::Failed));
    let loaded = if mount.loaded || has_failed { "" } else { " (nobody has looked into it yet)" };
    print_line(&format!("{}  {name}  {}{loaded}", mount.at.display(), image.platform));
    image.layers.iter().for_each(print_layer);
}

fn print_claimed(ClaimedReport { image, claims }: &ClaimedReport, name: &str) {
    print_line(&format!("containerd  {name}  {}  claims: {claims}", image.platform));
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
        if let Some(AwayReport { since_ms, tries, cause }) = &waiting.away {
            let seconds = *since_ms as f64 / 1000.0;
            let tries = counted(u64::from(*tries), "time");
            print_line(&format!("                            away for {seconds:.1} s, asked again {tries}: {cause}"));
        }
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
