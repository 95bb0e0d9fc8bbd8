//! Tars of other people's making, and what entries mean.

mod draft;
mod made;
mod told;
