//! The log: lines on standard error, which for a server in the background is a file that stays small; or entries of the journal.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::LogFormat;
use crate::sync::Mutex;

/// A log that has grown to this begins anew. Somebody who reads the end of it has it long before.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// What is logged where the configuration says nothing that can be understood.
const USUAL: &str = "warn,fuser=error,oncefs=info";

/// fuser answers an interrupt of a request that was answered a moment before, and finds it gone: nothing went wrong. Programs written in
/// Go interrupt their own system calls all the time.
const TOO_LATE: &str = "Failed to send FUSE reply: No such file or directory (os error 2)";

/// A line to the log that was started, to change what is logged.
#[derive(Clone)]
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Why what is logged stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("`log` is neither a level nor a filter")]
    Filter(#[from] ParseError),
    #[error("the log cannot be changed")]
    Reload(#[from] reload::Error),
}

/// Starts logging. `level` is a level for oncefs's own lines, or a filter of tracing-subscriber's; `journal` is what the service
/// manager says standard error is, if it is the journal's.
pub fn start_logging(level: &str, format: LogFormat, journal: Option<&str>) -> Log {
    let wrong = filter_of(level).err();
    let filter = filter_of(level).unwrap_or_else(|_| EnvFilter::new(USUAL));
    let (filter, handle) = reload::Layer::new(filter);
    let format = match format {
        LogFormat::Auto if journal.is_some_and(is_standard_error) => LogFormat::Journald,
        LogFormat::Auto => LogFormat::Text,
        chosen => chosen,
    };
    let (layer, failed) = match format {
        LogFormat::Journald => match tracing_journald::layer() {
            Ok(journal) => (journal.with_syslog_identifier("oncefs".to_owned()).boxed(), None),
            Err(error) => (lines(LogFormat::Text), Some(error)),
        },
        other => (lines(other), None),
    };
    // A second start, as in tests, keeps the first.
    let _is_started = tracing_subscriber::registry().with(filter).with(layer.with_filter(ButForNoise)).try_init();
    if let Some(error) = failed {
        tracing::warn!(%error, "the journal does not answer; lines go to standard error");
    }
    if let Some(error) = wrong {
        tracing::warn!(%error, log = level, "`log` is neither a level nor a filter; the usual is logged");
    }
    Log { filter: handle }
}

/// Whether `level` is a level or a filter.
pub(super) fn check_level(level: &str) -> Result<(), LogError> {
    Ok(filter_of(level).map(drop)?)
}

fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let writer = match log_file() {
        Some(file) => BoxMakeWriter::new(Bounded::new(file)),
        None => BoxMakeWriter::new(io::stderr),
    };
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer);
    match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        _ => lines.with_target(false).boxed(),
    }
}

fn filter_of(level: &str) -> Result<EnvFilter, ParseError> {
    let is_level = level.chars().all(char::is_alphabetic);
    let directives = if is_level { format!("warn,fuser=error,oncefs={level}") } else { level.to_owned() };
    EnvFilter::try_new(&directives)
}

/// Whether our standard error is what systemd.exec(5) describes in JOURNAL_STREAM: device and inode, with a colon between.
fn is_standard_error(stream: &str) -> bool {
    let Ok(stat) = rustix::fs::fstat(io::stderr().as_fd()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

// === impl ButForNoise ===

/// Everything but [`TOO_LATE`].
struct ButForNoise;

/// Whether an event's message is noise.
#[derive(Default)]
struct Noise(bool);

impl<S: Subscriber> Filter<S> for ButForNoise {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let mut noise = Noise::default();
        if *event.metadata().level() == Level::ERROR {
            event.record(&mut noise);
        }
        !noise.0
    }
}

impl Visit for Noise {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0 |= field.name() == "message" && format!("{value:?}") == TOO_LATE;
    }
}

// === impl Log ===

impl Log {
    /// From now on this is logged.
    pub fn set(&self, level: &str) -> Result<(), LogError> {
        Ok(self.filter.reload(filter_of(level)?)?)
    }
}

/// Standard error, if it is a file.
fn log_file() -> Option<File> {
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
    fn a_level_is_a_word_and_anything_else_is_a_filter() {
        assert!(filter_of("debug").is_ok() && filter_of("warn,oncefs::registry=trace").is_ok());
        assert!(filter_of("oncefs=loudly").is_err());
    }

    #[test]
    fn standard_error_is_known_by_its_device_and_inode() {
        let stat = rustix::fs::fstat(io::stderr().as_fd()).unwrap();
        assert!(is_standard_error(&format!("{}:{}", stat.st_dev, stat.st_ino)));
        assert!(!is_standard_error(&format!("{}:{}", stat.st_dev, stat.st_ino + 1)) && !is_standard_error("nothing"));
    }

    #[test]
    fn an_answer_that_comes_too_late_for_an_interrupt_is_no_error_and_others_are() {
        let said = Arc::new(Mutex::new(Vec::new()));
        let log = tracing_subscriber::fmt::layer().with_writer(Shared(said.clone())).with_filter(ButForNoise);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), || {
            for number in [2, 22] {
                tracing::error!("Failed to send FUSE reply: {}", io::Error::from_raw_os_error(number));
            }
        });
        let said = String::from_utf8(said.lock().clone()).unwrap();
        assert!(said.contains("os error 22") && !said.contains("os error 2)"), "{said}");
    }

    #[derive(Clone)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Shared {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

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
