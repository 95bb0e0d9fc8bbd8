//! The numbers that a store hands out for layers and views, from which node ids are made. None is used twice while
//! the store exists, not even when its database was lost: node ids of a living kernel connection are made of them.

/// What is numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counter {
    Layer,
    View,
}

/// A database that replaces a lost one begins in the next of so many parts of the numbers.
const PARTS: u32 = 16;

impl Counter {
    pub(super) const ALL: [Self; 2] = [Self::Layer, Self::View];

    /// The first number that a database hands out when so many before it were lost. 0 is never handed out.
    pub(super) fn first(self, lost: u32) -> u32 {
        (lost % PARTS * (self.end() / PARTS)).max(1)
    }

    /// Numbers stay below this: a node id has 31 bits for a layer and 23 for a view (see `view`).
    pub(super) fn end(self) -> u32 {
        match self {
            Self::Layer => 1 << 31,
            Self::View => 1 << 23,
        }
    }

    pub(super) fn what(self) -> &'static str {
        match self {
            Self::Layer => "layer",
            Self::View => "view",
        }
    }

    /// Where the database keeps the next number.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Layer => "next-layer-slot",
            Self::View => "next-view-slot",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_databases_in_a_row_hand_out_different_numbers() {
        for counter in [Counter::Layer, Counter::View] {
            let firsts: Vec<u32> = (0..16).map(|lost| counter.first(lost)).collect();
            assert!(firsts.is_sorted_by(|a, b| a < b && b - a >= 1 << 18), "{firsts:?}");
            assert!(firsts[0] == 1 && firsts[15] < counter.end());
        }
    }
}
