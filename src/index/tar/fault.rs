//! What can be wrong with a tar, and where.

use crate::index::tar::header::BadField;
use crate::index::tar::pax::PaxError;
use crate::index::tar::sparse::SparseError;
use crate::index::tree::draft::DraftError;

/// A tar that cannot be a layer: what is wrong, and with which entry.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {fault}", place(.entry.as_deref(), *.at))]
pub struct TarError {
    /// The entry's name, escaped; none where no entry could be made out.
    pub entry: Option<String>,
    /// Where its header begins in the tar.
    pub at: u64,
    pub fault: Fault,
}

/// What is wrong.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("its checksum is wrong, so this is no tar or it is damaged")]
    Checksum,
    #[error("a block of zeros, which ends a tar, is followed by something else")]
    LoneZeroBlock,
    #[error("the tar ends in the middle of it, after {0} bytes")]
    EndsInHeader(u64),
    #[error("it says that {size} bytes of content follow, but the tar ends after {had} of them")]
    EndsInPayload { size: u64, had: u64 },
    #[error("the tar ends where the entry should follow that this header speaks of")]
    EndsAfterExtended,
    #[error("it says that {size} bytes of content follow; a layer may have {max} in all, the limit data_bytes_max")]
    TooLarge { size: u64, max: u64 },
    #[error("it is an extended header of {size} bytes; {max} are the limit")]
    LargeExtended { size: u64, max: u64 },
    #[error("two extended headers speak of the same entry")]
    ExtendedTwice,
    #[error("a pax header and a GNU header give it different names")]
    NamedTwice,
    #[error("its type `{0}` is not known")]
    Type(String),
    #[error("with it, sparse files have more than {0} segments, the limit of a layer")]
    TooManySegments(u64),
    #[error("it is a sparse file of {size} bytes; {max} are the limit")]
    LargeSparse { size: u64, max: u64 },
    #[error("with it, more than {0} bytes of sparse files lie in the tar unaligned, the limit of a layer")]
    Unaligned(u64),
    #[error(transparent)]
    Field(#[from] BadField),
    #[error(transparent)]
    Pax(#[from] PaxError),
    #[error(transparent)]
    Sparse(#[from] SparseError),
    #[error(transparent)]
    Draft(#[from] DraftError),
}

// === impl Fault ===

impl Fault {
    /// Whether the layer takes more memory than is set: it is not looked at any further.
    pub fn is_limit(&self) -> bool {
        matches!(self, Self::Draft(DraftError::TooManyInodes(_) | DraftError::TooManyBytes(_)))
    }

    /// The limit of the configuration that is in the way, as the configuration calls it.
    pub fn setting(&self) -> Option<&'static str> {
        match self {
            Self::TooLarge { .. } => Some("data_bytes_max"),
            Self::Draft(DraftError::TooManyInodes(_)) => Some("inodes_max"),
            Self::Draft(DraftError::TooManyBytes(_)) => Some("names_bytes_max"),
            _ => None,
        }
    }
}

fn place(entry: Option<&str>, at: u64) -> String {
    match entry {
        Some(entry) => format!("tar entry `{entry}` (header at byte {at})"),
        None => format!("tar header at byte {at}"),
    }
}
