//! `oncefs index push|ls|verify|rm IMAGE`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::connection::{unexpected, with_news};
use super::mount::absolute;
use super::progress::{Shown, bytes};
use super::{ImageArgs, Setting, print_json, print_line};
use crate::control::{Call, Failure, FailureKind, IndexAction, IndexCall, IndexReport, IndexSummary, Outcome};
use crate::digest::Digest;

const EXAMPLES: &str = "\
Examples:
  openssl genpkey -algorithm ed25519 -out key.pem
  oncefs index push --sign key.pem IMAGE  scans it if it was not, and pushes
  openssl pkey -in key.pem -pubout        the line for [index] keys elsewhere
  oncefs index ls IMAGE                   what there is, and who signed it
  oncefs index verify IMAGE               compares it with a scan of this node
  oncefs index rm IMAGE                   takes it away

With an index a node mounts an image after a few small requests, and fetches what is read; without one it fetches a layer whole when it is first touched. An index lies in the image's repository as an artifact that refers to the image: the image is not changed. A node uses one that a key of its configuration has signed.";

const PUSH_EXAMPLES: &str = "\
The login needs the right to push to the image's repository. Layers are fetched, verified and kept where they were not. The same image gives the same index on every node, so pushing it again changes nothing.";

/// Share what a scan has found out of an image, so that others need no scan
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Index {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make an image's index and push it beside the image
    #[command(after_help = PUSH_EXAMPLES)]
    Push {
        #[command(flatten)]
        image: ImageArgs,
        /// An Ed25519 private key in PEM to sign it with
        #[arg(long, value_name = "KEYFILE")]
        sign: Option<PathBuf>,
        #[command(flatten)]
        how: How,
    },
    /// List the indexes beside an image
    Ls {
        #[command(flatten)]
        image: ImageArgs,
        #[command(flatten)]
        how: How,
    },
    /// Compare the indexes beside an image with a scan of this node; one that differs gives exit code 3
    Verify {
        #[command(flatten)]
        image: ImageArgs,
        #[command(flatten)]
        how: How,
    },
    /// Remove the indexes beside an image
    Rm {
        #[command(flatten)]
        image: ImageArgs,
        /// Only this one
        #[arg(long, value_name = "DIGEST")]
        digest: Option<Digest>,
        #[command(flatten)]
        how: How,
    },
}

#[derive(Debug, Args)]
struct How {
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
    /// Do the work in this process; the store must not be in use
    #[arg(long)]
    in_process: bool,
}

impl Index {
    pub(super) async fn run(self, setting: &Setting) -> Result<ExitCode, Failure> {
        let (ImageArgs { image, platform }, how, action) = match self.action {
            Action::Push { image, sign, how } => {
                let sign = sign.map(|path| std::path::absolute(&path).unwrap_or(path));
                (image, how, IndexAction::Push { sign })
            }
            Action::Ls { image, how } => (image, how, IndexAction::List),
            Action::Verify { image, how } => (image, how, IndexAction::Verify),
            Action::Rm { image, digest, how } => (image, how, IndexAction::Remove { digest }),
        };
        let call = IndexCall { image: absolute(&image), platform, action };
        let summary = ask(setting, &call, how.in_process).await?;
        if how.json {
            print_json(&summary);
        } else {
            print(&call.action, &summary);
        }
        let is_wrong = call.action == IndexAction::Verify && summary.indexes.iter().any(|one| !one.problems.is_empty());
        Ok(if is_wrong { super::exit_code(FailureKind::Corrupt) } else { ExitCode::SUCCESS })
    }
}

const CONVERT_EXAMPLES: &str = "\
Example:
  oncefs convert registry.example/app:1 registry.example/app:1-lazy

The layers stay as they are; the new manifest has the digest of each layer's index in an annotation, so nodes use the indexes without a key, and tools that know nothing of them see the same image. Layers of another repository are taken over from it by the registry.";

/// Push an image under a new name, with a manifest that binds its layers' indexes
#[derive(Debug, Args)]
#[command(after_help = CONVERT_EXAMPLES)]
pub(super) struct Convert {
    #[command(flatten)]
    image: ImageArgs,
    /// What the new image is called: NAME[:TAG] in the same registry
    #[arg(value_name = "NEWREF")]
    to: String,
    /// Replace NEWREF if it is there, be it an image for one platform or for several
    #[arg(long)]
    force: bool,
    /// An Ed25519 private key in PEM to sign the index with, too
    #[arg(long, value_name = "KEYFILE")]
    sign: Option<PathBuf>,
    #[command(flatten)]
    how: How,
}

impl Convert {
    pub(super) async fn run(self, setting: &Setting) -> Result<ExitCode, Failure> {
        let Self { image: ImageArgs { image, platform }, to, force, sign, how } = self;
        let sign = sign.map(|path| std::path::absolute(&path).unwrap_or(path));
        let action = IndexAction::Convert { to, sign, force };
        let call = IndexCall { image: absolute(&image), platform, action };
        let summary = ask(setting, &call, how.in_process).await?;
        if how.json {
            print_json(&summary);
        } else {
            print_line(&format!("{}@{}", summary.reference, summary.manifest_digest));
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn ask(setting: &Setting, call: &IndexCall, in_process: bool) -> Result<IndexSummary, Failure> {
    let mut shown = Shown::new();
    if in_process {
        let node = setting.node().await?;
        return with_news(&mut shown, |news| async move { node.index(call, &news).await }).await;
    }
    match setting.call(&Call::Index(call.clone()), &mut shown).await?.outcome {
        Outcome::Indexes(summary) => Ok(summary),
        other => Err(unexpected(&other)),
    }
}

fn print(action: &IndexAction, summary: &IndexSummary) {
    let IndexSummary { reference, platform, manifest_digest, image_bytes, indexes } = summary;
    if indexes.is_empty() {
        print_line(&format!("{reference} {platform} ({manifest_digest}) has no index beside it"));
    }
    for index in indexes {
        let what = match (action, index.problems.is_empty()) {
            (IndexAction::Push { .. } | IndexAction::Convert { .. }, _) => "pushed",
            (IndexAction::List, _) => "there",
            (IndexAction::Verify, true) => "as a scan here says",
            (IndexAction::Verify, false) => "NOT as a scan here says",
            (IndexAction::Remove { .. }, true) => "removed",
            (IndexAction::Remove { .. }, false) => "taken off the list",
        };
        print_line(&format!("{}  {what}; {}", index.digest, measured(index, *image_bytes)));
        for problem in &index.problems {
            print_line(&format!("  {problem}"));
        }
    }
}

/// How large it is, and by whom.
fn measured(index: &IndexReport, image_bytes: u64) -> String {
    let share = index.size() as f64 * 100.0 / image_bytes.max(1) as f64;
    let signed = match (&index.signed_by, &index.unknown_key) {
        (Some(key), _) => format!("signed with {key}"),
        // A key's digest: the key itself is not in the index.
        (None, Some(id)) => format!("signed with the key {id}, it says, and with none of [index] keys"),
        (None, None) => "not signed".to_owned(),
    };
    let profile = if index.profile_bytes.is_some() { ", with a start-up profile" } else { "" };
    format!("{} layers, {}, {share:.1} % of the image{profile}; {signed}", index.layers.len(), bytes(index.size()))
}
