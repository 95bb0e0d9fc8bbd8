//! Sources of indexes: what they must give, and what they must refuse.

mod contract;
mod made;
mod refused;
