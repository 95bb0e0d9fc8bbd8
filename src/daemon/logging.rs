//! The log: lines on standard error, which for a server in the background is a file that stays small.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::sync::Mutex;

/// A log that has grown to this begins anew. Somebody who reads the end of it has it long before.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// Starts logging to standard error. `level` is a level for oncefs's own lines, or a filter of tracing-subscriber's.
pub fn start_logging(level: &str) {
    let is_level = level.chars().all(char::is_alphabetic);
    let directives = if is_level { format!("warn,fuser=error,oncefs={level}") } else { level.to_owned() };
    let filter = EnvFilter::try_new(&directives).unwrap_or_else(|_| EnvFilter::new("warn,fuser=error,oncefs=info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_ansi(false);
    // A second start, as in tests, keeps the first.
    let _is_started = match log_file() {
        Some(file) => builder.with_writer(Bounded::new(file)).try_init(),
        None => builder.with_writer(io::stderr).try_init(),
    };
}

/// Standard error, if it is a file.
fn log_file() -> Option<File> {
    use std::os::fd::AsFd as _;
    let file = File::from(io::stderr().as_fd().try_clone_to_owned().ok()?);
    file.metadata().ok()?.is_file().then_some(file)
}

/// A file that is cut to nothing when it has grown too long.
#[derive(Clone)]
struct Bounded {
    file: Arc<Mutex<(File, u64)>>,
}

impl Bounded {
    fn new(file: File) -> Self {
        let written = file.metadata().map_or(0, |metadata| metadata.len());
        Self { file: Arc::new(Mutex::new((file, written))) }
    }
}

impl Write for Bounded {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut guard = self.file.lock();
        let (file, written) = &mut *guard;
        if *written > LOG_BYTES_MAX {
            file.set_len(0)?;
            *written = 0;
        }
        file.write_all(line)?;
        *written += line.len() as u64;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Bounded {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_grew_too_long_begins_anew() {
        let file = tempfile::tempfile().unwrap();
        let mut log = Bounded::new(file.try_clone().unwrap());
        log.file.lock().1 = LOG_BYTES_MAX + 1;
        file.set_len(LOG_BYTES_MAX + 1).unwrap();
        log.write_all(b"first line of a new log\n").unwrap();
        assert!(file.metadata().unwrap().len() < LOG_BYTES_MAX);
    }
}
