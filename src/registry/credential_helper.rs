//! Credential helpers: programs named `docker-credential-NAME` that are asked for one registry's login.
//!
//! The protocol is that of github.com/docker/docker-credential-helpers: the server's name on standard input, JSON on
//! standard output.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::registry::credentials::Credential;
use crate::registry::program::{self, Program};
use crate::registry::secret::Secret;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// The user name by which a helper says that its secret is an identity token.
const IDENTITY_USER: &str = "<token>";
const OUTPUT_BYTES_MAX: u64 = 64 << 10;
const PREFIX: &str = "docker-credential-";
/// How helpers say that they know no such server (their protocol knows no other way).
const NOT_FOUND: &[&str] = &["credentials not found", "no credentials server url", "no usable credentials"];

/// What the helper `name` knows of `server`; nothing is no error.
pub(super) async fn ask(
    name: &str,
    folders: &[PathBuf],
    timeout: Duration,
    server: &str,
) -> Result<Option<Credential>, String> {
    let program_name = program_of(name)?;
    let path = program::find(&program_name, folders)?;
    let args = ["get".to_owned()];
    let (name, path, args) = (program_name.as_str(), path.as_path(), args.as_slice());
    let program = Program { name, path, args, env: &[], timeout, output_bytes_max: OUTPUT_BYTES_MAX };
    let (ended, bytes) = program.run(server.as_bytes()).await?;
    if !ended.success() {
        let said = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        let knows_nothing = NOT_FOUND.iter().any(|known| said.contains(known));
        return if knows_nothing { Ok(None) } else { Err(format!("{program_name} failed ({ended})")) };
    }
    let answer: Answer =
        serde_json::from_slice(&bytes).map_err(|_| format!("{program_name} gave an answer that is no JSON"))?;
    Ok(match (answer.username.as_str(), answer.secret.is_empty()) {
        (_, true) => None,
        (IDENTITY_USER, _) => Some(Credential::Identity(Secret::new(answer.secret))),
        _ => Some(Credential::Password { user: answer.username, password: Secret::new(answer.secret) }),
    })
}

/// A name with a slash could mean any program of the machine.
fn program_of(name: &str) -> Result<String, String> {
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if is_name {
        Ok(format!("{PREFIX}{name}"))
    } else {
        Err(format!("{:?} is no name of a credential helper", name.chars().take(64).collect::<String>()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn with(name: &str, script: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            program::write_script(&dir.path().join(format!("docker-credential-{name}")), script);
            Self(dir)
        }

        async fn ask(&self, name: &str, secs: u64) -> Result<Option<Credential>, String> {
            let folders = [PathBuf::from("/nonexistent"), self.0.path().to_path_buf()];
            ask(name, &folders, Duration::from_secs(secs), "h.example:5000").await
        }
    }

    /// However slow the machine is.
    const LONG: u64 = 60;

    #[tokio::test]
    async fn a_helper_is_asked_for_the_server_and_believed() {
        let script = r#"read -r server; [ "$1" = get ] && printf '{"ServerURL":"%s","Username":"%s","Secret":"pw"}' "$server" "$server""#;
        let folder = Folder::with("test", script);
        let want = Credential::Password { user: "h.example:5000".into(), password: Secret::new("pw") };
        assert_eq!(folder.ask("test", LONG).await, Ok(Some(want)));
    }

    #[tokio::test]
    async fn a_helper_may_give_an_identity_token_or_know_nothing() {
        let folder = Folder::with("id", r#"echo '{"Username":"<token>","Secret":"t"}'"#);
        assert_eq!(folder.ask("id", LONG).await, Ok(Some(Credential::Identity(Secret::new("t")))));
        let folder = Folder::with("none", "echo 'credentials not found in native keychain'; exit 1");
        assert_eq!(folder.ask("none", LONG).await, Ok(None));
        let folder = Folder::with("empty", "echo '{}'");
        assert_eq!(folder.ask("empty", LONG).await, Ok(None));
    }

    #[tokio::test]
    async fn what_a_failing_helper_says_is_not_repeated() {
        let folder = Folder::with("bad", "echo hunter2; echo hunter2 >&2; exit 3");
        let refused = folder.ask("bad", LONG).await.unwrap_err();
        assert!(
            refused.contains("docker-credential-bad failed (exit status: 3)") && !refused.contains("hunter2"),
            "{refused}"
        );
        let folder = Folder::with("text", "echo hunter2");
        let refused = folder.ask("text", LONG).await.unwrap_err();
        assert!(refused.contains("no JSON") && !refused.contains("hunter2"), "{refused}");
    }

    #[tokio::test]
    async fn a_helper_that_hangs_or_floods_is_stopped() {
        let folder = Folder::with("slow", "exec sleep 100");
        let refused = folder.ask("slow", 1).await.unwrap_err();
        assert!(refused.contains("did not answer within 1 s"), "{refused}");
        let folder = Folder::with("flood", "exec cat /dev/zero");
        let refused = folder.ask("flood", LONG).await.unwrap_err();
        assert!(refused.contains("wrote more than 64 KiB"), "{refused}");
    }

    #[tokio::test]
    async fn only_a_program_of_the_folders_is_run() {
        let folder = Folder::with("x", "echo '{}'");
        for name in ["", "../x", "/bin/sh", "a b"] {
            assert!(folder.ask(name, 1).await.unwrap_err().contains("is no name of a credential helper"), "{name}");
        }
        assert!(
            folder
                .ask("other", 1)
                .await
                .unwrap_err()
                .contains("docker-credential-other was not found in /nonexistent:")
        );
    }
}
