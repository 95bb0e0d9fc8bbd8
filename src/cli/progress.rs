//! What a waiting person sees: a bar for each layer on a terminal, a line now and then elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal as _;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::control::{Event, LayerReport, State};
use crate::digest::LayerDigest;

/// Digits of a digest that tell layers apart for people.
const SHORT: usize = 12;

/// Where news of a call is shown: on standard error, so that output stays clean.
pub(super) struct Shown {
    bars: Option<MultiProgress>,
    layers: HashMap<LayerDigest, (ProgressBar, State)>,
    /// Content of these layers that is here, and all, by what was said last.
    here: (u64, u64),
    check: Option<ProgressBar>,
}

impl Shown {
    pub(super) fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { bars, layers: HashMap::new(), here: (0, 0), check: None }
    }

    pub(super) fn show(&mut self, event: &Event) {
        match event {
            Event::Told(told) => eprintln!("oncefs: {told}"),
            Event::Layers(layers) => {
                self.here = layers
                    .iter()
                    .fold((0, 0), |(here, all), layer| (here + layer.resident_bytes, all + layer.data_bytes));
                layers.iter().for_each(|layer| self.show_layer(layer));
            }
            Event::Checked { bytes_done, bytes } => self.show_check(*bytes_done, *bytes),
            Event::Resolved(image) if image.remembered => {
                eprintln!("oncefs: the registry is away; this is {} as it was last resolved", image.reference);
            }
            Event::Resolved(_) | Event::Done { .. } | Event::Failed(_) => {}
        }
    }

    /// Says so if the layers were to be here, and are not all.
    pub(super) fn say_what_is_missing(&self, image: &str) {
        let (here, all) = self.here;
        if here < all {
            eprintln!(
                "oncefs: {} of {} of it are here: the cache cannot hold all of {image}; the rest is fetched when somebody \
                 reads it ([cache] max_bytes, or the space of the disk)",
                bytes(here),
                bytes(all)
            );
        }
    }

    fn show_layer(&mut self, layer: &LayerReport) {
        let bars = self.bars.as_ref();
        let (bar, before) = self.layers.entry(layer.digest).or_insert_with(|| (new_bar(bars, layer), State::Untouched));
        match layer.state {
            State::Scanning => bar.set_position(layer.fetched),
            State::Ready => bar.set_position(layer.size),
            _ => {}
        }
        if *before == layer.state {
            return;
        }
        *before = layer.state;
        bar.set_message(words(layer.state));
        if matches!(layer.state, State::Ready | State::Failed) {
            bar.abandon();
        }
        if bars.is_none() && layer.state != State::Untouched {
            eprintln!("{} {:>10}  {}", short(layer), bytes(layer.size), words(layer.state));
        }
    }

    fn show_check(&mut self, done: u64, all: u64) {
        let Some(bars) = &self.bars else { return };
        let bar = self
            .check
            .get_or_insert_with(|| bars.add(ProgressBar::new(all).with_style(style("{bar:40} {bytes}/{total_bytes}"))));
        bar.set_length(all);
        bar.set_position(done);
    }
}

fn new_bar(bars: Option<&MultiProgress>, layer: &LayerReport) -> ProgressBar {
    let Some(bars) = bars else { return ProgressBar::hidden() };
    let style = style("{prefix} {bar:30} {bytes:>10}/{total_bytes:<10} {msg}");
    bars.add(ProgressBar::new(layer.size).with_style(style).with_prefix(short(layer)))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn words(state: State) -> &'static str {
    match state {
        State::Untouched => "not here",
        State::Queued => "waits for other layers",
        State::Scanning => "fetching and verifying",
        State::Ready => "ready",
        State::Failed => "failed",
    }
}

/// The first digits of a layer's digest.
pub(super) fn short(layer: &LayerReport) -> String {
    layer.digest.0.hex().chars().take(SHORT).collect()
}

/// A number of bytes as people say it.
pub(super) fn bytes(count: u64) -> String {
    indicatif::DecimalBytes(count).to_string()
}
