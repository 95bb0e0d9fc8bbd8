//! Programs that are asked for credentials: one text in, one text out, within a deadline and a bound.
//!
//! Nothing of what they write gets into an error, their standard error included: it may hold half a password.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::{Access, access};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

/// A program, and how it is called.
pub(super) struct Program<'a> {
    /// What errors call it.
    pub(super) name: &'a str,
    pub(super) path: &'a Path,
    pub(super) args: &'a [String],
    /// Beside those of this process.
    pub(super) env: &'a [(String, String)],
    pub(super) timeout: Duration,
    pub(super) output_bytes_max: u64,
}

/// The program `name` in the first of the folders that has it.
pub(super) fn find(name: &str, folders: &[PathBuf]) -> Result<PathBuf, String> {
    let is_program = |path: &PathBuf| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    folders.iter().map(|folder| folder.join(name)).find(is_program).ok_or_else(|| {
        if let Some(path) = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file()) {
            return format!("the program {} may not be run: chmod 755 {0}", path.display());
        }
        let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        format!("the program {name} was not found in {}", folders.join(":"))
    })
}

/// Writes a script that can be run at once. Another process writes it: what this one has open for writing, a program that another test
/// starts has too for a moment, and until then nobody can run it.
#[cfg(test)]
pub(super) fn write_script(path: &Path, script: &str) {
    use std::io::Write as _;
    let mut writing = std::process::Command::new("sh");
    writing.args(["-c", r#"cat > "$0" && chmod 755 "$0""#]).arg(path).stdin(Stdio::piped());
    let mut writing = writing.spawn().unwrap();
    writing.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{script}\n").as_bytes()).unwrap();
    assert!(writing.wait().unwrap().success());
}

// === impl Program ===

impl Program<'_> {
    /// How it ended, and its standard output. It is killed at the deadline, and when this is dropped.
    pub(super) async fn run(&self, input: &[u8]) -> Result<(ExitStatus, Vec<u8>), String> {
        match tokio::time::timeout(self.timeout, self.talk(input)).await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(cause)) => Err(format!("{} {cause}", self.name)),
            Err(_) => Err(format!("{} did not answer within {} s", self.name, self.timeout.as_secs())),
        }
    }

    async fn talk(&self, input: &[u8]) -> Result<(ExitStatus, Vec<u8>), String> {
        let mut command = Command::new(self.path);
        command.args(self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| format!("cannot be started: {error}"))?;
        let bytes = self.exchange(&mut child, input).await?;
        let ended = child.wait().await.map_err(|error| format!("was lost: {error}"))?;
        Ok((ended, bytes))
    }

    async fn exchange(&self, child: &mut Child, input: &[u8]) -> Result<Vec<u8>, String> {
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read has its own idea of what is asked; its answer will tell.
            let _ = stdin.write_all(input).await;
        }
        let mut bytes = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            let read = stdout.take(self.output_bytes_max + 1).read_to_end(&mut bytes).await;
            read.map_err(|error| format!("cannot be read from: {error}"))?;
        }
        if bytes.len() as u64 > self.output_bytes_max {
            return Err(format!("wrote more than {} KiB", self.output_bytes_max >> 10));
        }
        Ok(bytes)
    }
}
