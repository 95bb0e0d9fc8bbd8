//! `oncefs prune`

use std::process::ExitCode;

use clap::Args;

use super::connection::{Asked, unexpected};
use super::progress::{Shown, bytes};
use super::{Setting, counted, print_json, print_line};
use crate::control::{Call, Failure, Outcome, PruneCall, PruneSummary};

const EXAMPLES: &str = "\
Examples:
  oncefs prune             layers that no mount, snapshot, image or pin needs
  oncefs prune --to 10GiB  and what was not read for longest, down to 10 GiB
  oncefs prune --all       and all content that is not pinned

An image that was pulled or mounted by name is needed until `oncefs rm IMAGE`. What is let go of what is needed is fetched \
again when somebody reads it, so the registry must be reachable then; what no place has any more stays.";

/// Free space of the store
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Prune {
    /// Let go of all content that is not pinned
    #[arg(long, conflicts_with = "to")]
    all: bool,
    /// Let go of content until no more than this is left; as in 500MB or 10GiB
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    to: Option<u64>,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Prune {
    pub(super) async fn run(self, setting: &Setting) -> Result<ExitCode, Failure> {
        let call = PruneCall { to_bytes: if self.all { Some(0) } else { self.to } };
        let summary = match setting.ask(&Call::Prune(call.clone()), &mut Shown::new()).await? {
            Asked::Answered(Outcome::Pruned(summary)) => summary,
            Asked::Answered(other) => return Err(unexpected(&other)),
            Asked::Here(node) => node.prune(&call).await?,
        };
        if self.json {
            print_json(&summary);
        } else {
            print(&summary, call.to_bytes);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(summary: &PruneSummary, to_bytes: Option<u64>) {
    for layer in &summary.layers {
        print_line(&format!("removed {layer}"));
    }
    let (layers, frames) = (counted(summary.layers.len() as u64, "layer"), counted(summary.frames, "frame"));
    let mut said = format!("{layers} removed ({})", bytes(summary.layer_bytes));
    if to_bytes.is_some() {
        said += &format!(", {frames} of others let go ({})", bytes(summary.frame_bytes));
    }
    let used = summary.cache.used_bytes;
    print_line(&format!("{said}; {} are left", bytes(used)));
    if to_bytes.is_some_and(|to| used > to) {
        print_line("what is left is pinned, or cannot be fetched again");
    }
}

/// A number of bytes as people write it.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or_default().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        other => return Err(format!("{other} is no unit; there are KB, MB, GB, TB and KiB, MiB, GiB, TiB")),
    };
    let number: u64 = digits.trim().parse().map_err(|_| "it does not begin with a number".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "it is too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse_bytes;

    #[test]
    fn bytes_are_written_with_a_unit_or_without() {
        for (text, bytes) in
            [("0", 0), ("10", 10), ("1k", 1024), ("5MB", 5_000_000), ("10GiB", 10 << 30), ("2 T", 2 << 40)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", "-1", "1.5G", "10 parsecs", "99999999999T"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
