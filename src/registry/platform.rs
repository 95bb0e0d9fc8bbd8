//! Operating system, architecture and variant: how they are written, which of an index's entries suits.
//!
//! Normal forms and the order of variants are containerd's (`platforms` package), so the same entry is chosen.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What an image's programs run on, in normal form: `linux/amd64`, `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// Why a text names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    #[error("{0:?} is no platform; write OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/arm64")]
    Shape(String),
    #[error("{part:?} cannot be a part of the platform {text:?}: letters, digits, '.', '_' and '-' only")]
    Part { part: String, text: String },
}

/// How well an entry suits; the greatest is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fit(u32);

const PART_MAX: usize = 64;

// === impl Platform ===

impl Platform {
    /// The machine this runs on. Images hold Linux programs, so the system is always `linux`.
    pub fn host() -> Self {
        Self::normal("linux", std::env::consts::ARCH, None)
    }

    pub fn os(&self) -> &str {
        &self.os
    }

    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// From the three fields of an index's entry or of an image's config; `None` where they say nothing usable.
    pub(super) fn of_fields(os: &str, architecture: &str, variant: Option<&str>) -> Option<Self> {
        let variant = variant.filter(|variant| !variant.is_empty());
        let usable = is_word(os) && is_word(architecture) && variant.is_none_or(is_word);
        usable.then(|| Self::normal(os, architecture, variant))
    }

    /// How BuildKit marks the entries of an index that hold attestations and no image.
    pub(super) fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }

    fn normal(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let lower = |text: &str| text.to_ascii_lowercase();
        let os = match lower(os).as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let variant = variant.map(lower).filter(|variant| !variant.is_empty());
        let architecture = lower(architecture);
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
            ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
            ("x86_64" | "x86-64" | "amd64", other) => ("amd64", other),
            ("i386" | "i686" | "x86", _) => ("386", None),
            ("aarch64" | "arm64", None | Some("8" | "v8" | "v8.0")) => ("arm64", None),
            ("aarch64" | "arm64", Some("9" | "9.0" | "v9.0")) => ("arm64", Some("v9")),
            ("aarch64" | "arm64", other) => ("arm64", other),
            ("armhf", _) => ("arm", Some("v7")),
            ("armel", _) => ("arm", Some("v6")),
            ("arm", None | Some("7" | "v7")) => ("arm", Some("v7")),
            ("arm", Some("5")) => ("arm", Some("v5")),
            ("arm", Some("6")) => ("arm", Some("v6")),
            ("arm", Some("8")) => ("arm", Some("v8")),
            ("powerpc64le", other) => ("ppc64le", other),
            (other, variant) => (other, variant),
        };
        Self { os, architecture: architecture.to_owned(), variant: variant.map(str::to_owned) }
    }

    /// Whether what was made for `have` runs on `self`, and how well. An older variant of the same architecture does,
    /// a newer one does not.
    pub(super) fn fit(&self, have: &Self) -> Option<Fit> {
        if self.os != have.os || self.architecture != have.architecture {
            return None;
        }
        if self.variant == have.variant {
            return Some(Fit(u32::MAX));
        }
        let (want, have) = (self.level()?, have.level()?);
        (have <= want).then_some(Fit(have))
    }

    /// The variant as a number whose order is "runs what the smaller ones run", for the architectures that have one.
    fn level(&self) -> Option<u32> {
        let base = match self.architecture.as_str() {
            "amd64" => "v1",
            "arm64" => "v8",
            "arm" => "v7",
            _ => return None,
        };
        let (major, minor) = {
            let digits = self.variant.as_deref().unwrap_or(base).strip_prefix('v')?;
            digits.split_once('.').unwrap_or((digits, "0"))
        };
        Some(u32::from(major.parse::<u8>().ok()?) << 8 | u32::from(minor.parse::<u8>().ok()?))
    }
}

fn is_word(part: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=PART_MAX).contains(&part.len()) && part.bytes().all(known)
}

impl Default for Platform {
    fn default() -> Self {
        Self::host()
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        if let Some(part) = parts.iter().find(|part| !is_word(part)) {
            return Err(PlatformError::Part { part: (*part).to_owned(), text: text.to_owned() });
        }
        match parts.as_slice() {
            [os, architecture] => Ok(Self::normal(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::normal(os, architecture, Some(variant))),
            _ => Err(PlatformError::Shape(text.to_owned())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl Serialize for Platform {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Platform {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn other_ways_to_write_a_platform_come_to_its_normal_form() {
        let cases = [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/i686", "linux/386"),
            ("linux/riscv64", "linux/riscv64"),
        ];
        for (text, normal) in cases {
            assert_eq!(platform(text).to_string(), normal, "{text}");
        }
    }

    #[test]
    fn what_is_no_platform_says_why() {
        let part = |part: &str, text: &str| Err(PlatformError::Part { part: part.into(), text: text.into() });
        assert_eq!("".parse::<Platform>(), part("", ""));
        assert_eq!("linux/".parse::<Platform>(), part("", "linux/"));
        assert_eq!("linux/a b".parse::<Platform>(), part("a b", "linux/a b"));
        assert_eq!("amd64".parse::<Platform>(), Err(PlatformError::Shape("amd64".into())));
        assert_eq!("a/b/c/d".parse::<Platform>(), Err(PlatformError::Shape("a/b/c/d".into())));
    }

    #[test]
    fn an_older_variant_runs_and_a_newer_one_does_not() {
        let runs = |want: &str, have: &str| platform(want).fit(&platform(have)).is_some();
        assert!(runs("linux/arm/v7", "linux/arm/v6"));
        assert!(!runs("linux/arm/v6", "linux/arm/v7"));
        assert!(runs("linux/amd64/v3", "linux/amd64"));
        assert!(!runs("linux/amd64", "linux/amd64/v2"));
        assert!(runs("linux/arm64/v9", "linux/arm64"));
        assert!(!runs("linux/arm64", "linux/arm/v7"));
        assert!(!runs("linux/amd64", "windows/amd64"));
        assert!(!runs("linux/riscv64", "linux/riscv64/odd"));
    }

    #[test]
    fn the_nearest_variant_fits_best() {
        let want = platform("linux/arm64/v8.2");
        let fit = |have: &str| want.fit(&platform(have));
        assert!(fit("linux/arm64/v8.2") > fit("linux/arm64/v8.1"));
        assert!(fit("linux/arm64/v8.1") > fit("linux/arm64"));
        assert_eq!(fit("linux/arm64/v8.3"), None);
    }

    proptest! {
        #[test]
        fn a_platform_is_read_as_it_is_written(text in "[a-zA-Z0-9_.-]{1,9}/[a-zA-Z0-9_.-]{1,9}(/[a-z0-9.]{1,4})?") {
            let once = platform(&text);
            prop_assert_eq!(platform(&once.to_string()), once);
        }
    }
}
