//! `oncefs doctor [IMAGE]`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::mount::absolute;
use super::serve::keep_logins_from_view;
use super::{counted, print_json, print_line, set_up};
use crate::config::{Config, Environment, Flags};
use crate::control::{Failure, FailureKind};
use crate::doctor::{Finding, Level, Machine, examine};
use crate::errors::{with_causes, without_login};
use crate::registry::{Platform, Reference};

const EXAMPLES: &str = "\
Examples:
  oncefs doctor            kernel, disk, server, mounts, containerd, kubelet
  oncefs doctor redis:7    and the image's registry: reach, login, clock
  oncefs doctor --json | jq '.[] | select(.level != \"ok\")'

Nothing is changed. The exit code is 1 if there is a problem; a warning is none.";

/// Look for what keeps oncefs from working well, and say what to change
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Doctor {
    /// An image that should be usable here
    #[arg(value_name = "IMAGE")]
    image: Option<String>,
    /// The platform to take of an image for several, as in linux/arm64 [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Where containerd's configuration is [default: /etc/containerd/config.toml]
    #[arg(long, value_name = "FILE")]
    containerd_config: Option<PathBuf>,
    /// Where kubelet's configuration is [default: /var/lib/kubelet/config.yaml]
    #[arg(long, value_name = "FILE")]
    kubelet_config: Option<PathBuf>,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// A configuration that is wrong is something to be told, and no reason not to look at the rest.
    pub(super) fn run(self, flags: Flags) -> Result<ExitCode, Failure> {
        let image = self.image()?;
        let (config, config_error) = match set_up(flags.clone(), false) {
            Ok(setting) => (setting.config, None),
            Err(failure) => (without_file(&flags)?, Some(failure.message)),
        };
        let (containerd_config, kubelet_config) = (self.containerd_config, self.kubelet_config);
        let machine = Machine { config, config_error, image, containerd_config, kubelet_config };
        keep_logins_from_view();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(FailureKind::Other, format!("cannot start: {error}")))?;
        let findings = runtime.block_on(examine(&machine));
        runtime.shutdown_background();
        if self.json {
            print_json(&findings);
        } else {
            print(&findings);
        }
        let has_problem = findings.iter().any(|finding| finding.level == Level::Problem);
        Ok(if has_problem { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn image(&self) -> Result<Option<(Reference, Platform)>, Failure> {
        let Some(image) = &self.image else { return Ok(None) };
        let shown = without_login(image);
        let wrong = |error: &dyn std::fmt::Display| Failure::new(FailureKind::Usage, format!("{shown}: {error}"));
        let reference = absolute(image).parse().map_err(|error| wrong(&error))?;
        let platform = match &self.platform {
            Some(platform) => platform.parse().map_err(|error| wrong(&error))?,
            None => Platform::host(),
        };
        Ok(Some((reference, platform)))
    }
}

/// What would be in force if nobody had written anything but these flags.
fn without_file(flags: &Flags) -> Result<Config, Failure> {
    let uid = rustix::process::geteuid().as_raw();
    let flags = Flags {
        root: flags.root.clone(),
        run: flags.run.clone(),
        config: Some("/dev/null".into()),
        ..Flags::default()
    };
    let Environment(mut variables) = Environment::of_process();
    variables.retain(|name, _| !name.starts_with("ONCEFS_"));
    let config = Config::load(&flags, &Environment(variables), uid);
    let wrong = |error| Failure::new(FailureKind::Usage, with_causes(&error));
    Ok(config.map_err(wrong)?.with_absolute_places())
}

fn print(findings: &[Finding]) {
    let mut group = "";
    for finding in findings {
        if finding.group != group {
            group = finding.group;
            print_line(group);
        }
        let level = match finding.level {
            Level::Ok => "ok     ",
            Level::Warning => "WARNING",
            Level::Problem => "PROBLEM",
        };
        print_line(&format!("  {level}  {}", finding.found));
        if let Some(change) = &finding.change {
            print_line(&format!("           to do: {change}"));
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count() as u64;
    let (problems, warnings) = (counted(count(Level::Problem), "problem"), counted(count(Level::Warning), "warning"));
    print_line(&format!("{problems}, {warnings}"));
}
