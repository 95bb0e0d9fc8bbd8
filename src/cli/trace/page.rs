//! A start as one page of HTML that needs nothing else: no other file, no network, and to be read no script either.
//!
//! Names of files are an image's, and an image is somebody else's: they come in as text alone, and the page's policy lets no
//! script run but its own.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::super::progress::bytes;
use crate::control::{TraceReport, TracedRequest, TracedTouch};
use crate::digest::Digest;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// How wide all of it is before somebody zooms.
const WIDTH_PX: f64 = 900.0;

/// Digits of a digest that tell layers apart.
const SHORT: usize = 12;

/// The page.
pub(super) fn html(trace: &TraceReport) -> String {
    let mut page = String::new();
    head(&mut page, trace);
    totals(&mut page, trace);
    waterfall(&mut page, trace);
    requests(&mut page, trace);
    layers(&mut page, trace);
    put(&mut page, format_args!("</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"));
    page
}

fn head(page: &mut String, trace: &TraceReport) {
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        BASE64_STANDARD.encode(Digest::of(SCRIPT.as_bytes()).as_bytes())
    );
    let (image, platform) = (text(&trace.reference), text(&trace.platform));
    let (began, manifest) = (date(trace.began_ms), trace.manifest_digest);
    put(
        page,
        format_args!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>Start of {image}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
             <header>\n<h1>Start of <bdi>{image}</bdi></h1>\n\
             <p class=\"sub\">{platform}, {began} UTC, manifest <code>{manifest}</code></p>\n</header>\n"
        ),
    );
}

fn totals(page: &mut String, trace: &TraceReport) {
    let waits: Vec<u64> = trace.touches.iter().filter(|touch| !touch.was_here).map(waited_us).collect();
    let (asked, all) = (
        trace.requests.iter().map(|request| request.end - request.start).sum::<u64>(),
        trace.layers.iter().map(|layer| layer.size).sum::<u64>(),
    );
    let ahead = trace.requests.iter().filter(|request| request.is_ahead).count();
    let share = if all == 0 { 0.0 } else { asked as f64 * 100.0 / all as f64 };
    let cards = [
        ("Layers usable after", time(trace.usable_us), format!("{} layers, {}", trace.layers.len(), bytes(all))),
        ("First reads", trace.touches.len().to_string(), format!("watched for {}", time(trace.recorded_us))),
        (
            "Of them waited",
            waits.len().to_string(),
            format!("the longest {}", time(waits.iter().copied().max().unwrap_or(0))),
        ),
        ("Requests", trace.requests.len().to_string(), format!("{}, {share:.1} % of the image", bytes(asked))),
        ("Made ahead of readers", ahead.to_string(), format!("{} of profile", bytes(trace.ahead_bytes))),
    ];
    put(page, format_args!("<dl class=\"cards\">\n"));
    for (name, value, more) in cards {
        put(page, format_args!("<div><dt>{name}</dt><dd>{value}<small>{more}</small></dd></div>\n"));
    }
    put(page, format_args!("</dl>\n"));
}

fn waterfall(page: &mut String, trace: &TraceReport) {
    let total = (end_us(trace) as f64 / 1000.0 * 1.02).max(1.0);
    let step = nice_step(total);
    put(
        page,
        format_args!(
            "<section aria-labelledby=\"waterfall\">\n<h2 id=\"waterfall\">What was read, and what for it was asked for</h2>\n\
             <div class=\"tools\">\n\
             <label>Zoom <input id=\"zoom\" type=\"range\" min=\"0\" max=\"100\" value=\"0\"></label>\n\
             <label>File <input id=\"filter\" type=\"search\" placeholder=\"part of its name\"></label>\n\
             <label><input id=\"waited\" type=\"checkbox\"> only those that waited</label>\n\
             <output id=\"count\">{}</output>\n</div>\n\
             <ul class=\"legend\"><li><i class=\"here\"></i>was here</li><li><i class=\"wait\"></i>reader waits</li>\
             <li><i class=\"asked\"></i>request for a reader</li><li><i class=\"asked ahead\"></i>request ahead of readers</li></ul>\n\
             <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"waterfall\">\n\
             <table class=\"waterfall\" id=\"rows\" data-total=\"{total:.3}\" style=\"--total:{total:.3};--px:{:.6};--step:{step}\">\n\
             <thead><tr><th scope=\"col\">File, layer, frame</th><th scope=\"col\"><div class=\"track axis\" id=\"axis\">",
            trace.touches.len(),
            WIDTH_PX / total,
        ),
    );
    let mut tick = 0.0;
    while tick < total {
        put(page, format_args!("<span style=\"--at:{tick}\">{}</span>", time((tick * 1000.0) as u64)));
        tick += step;
    }
    put(page, format_args!("</div></th></tr></thead>\n<tbody>\n"));
    put(
        page,
        format_args!(
            "<tr class=\"phase\"><th scope=\"row\">layers made usable</th><td><div class=\"track\">{}</div></td></tr>\n",
            bar("usable", 0, trace.usable_us)
        ),
    );
    trace.touches.iter().for_each(|touch| touch_row(page, trace, touch));
    put(page, format_args!("</tbody>\n</table>\n</div>\n</section>\n"));
}

fn touch_row(page: &mut String, trace: &TraceReport, touch: &TracedTouch) {
    let path = touch.file.as_deref().unwrap_or("(not known any more)");
    // What is too long loses the middle: the name of the file itself is seen.
    let (folder, name) = path.split_at(path.rfind('/').map_or(0, |slash| slash + 1));
    let (folder, name) = (text(folder), text(name));
    let (layer, frame) = (touch.layer + 1, touch.frame);
    let request = touch.request.and_then(|number| Some((number, trace.requests.get(number)?)));
    let mut said = match (touch.was_here, touch.served_us) {
        (true, _) => format!("was here at {}", time(touch.at_us)),
        (false, Some(_)) => format!("waited {} from {} on", time(waited_us(touch)), time(touch.at_us)),
        (false, None) => format!("waited from {} on", time(touch.at_us)),
    };
    let mut bars = String::new();
    if let Some((number, request)) = request {
        let ahead = if request.is_ahead { " ahead" } else { "" };
        put(&mut said, format_args!(", request {}{ahead}, {}", number + 1, bytes(request.end - request.start)));
        bars += &bar(&format!("asked{ahead}"), request.at_us, request.took_us);
    }
    bars += &if touch.was_here { bar("here", touch.at_us, 0) } else { bar("wait", touch.at_us, waited_us(touch)) };
    let class = if touch.was_here { "" } else { " class=\"waited\"" };
    put(
        page,
        format_args!(
            "<tr{class}><th scope=\"row\"><bdi class=\"file\"><span class=\"dir\">{folder}</span>\
             <span class=\"base\">{name}</span></bdi>\
             <span class=\"sub\">layer {layer}, frame {frame}</span></th>\
             <td><div class=\"track\" title=\"{said}\">{bars}</div><span class=\"said\">{said}</span></td></tr>\n"
        ),
    );
}

fn requests(page: &mut String, trace: &TraceReport) {
    put(
        page,
        format_args!(
            "<section aria-labelledby=\"requests\">\n<h2 id=\"requests\">Requests</h2>\n<div class=\"scroll\" tabindex=\"0\" \
             role=\"region\" aria-labelledby=\"requests\">\n<table class=\"plain\" id=\"asked\">\n<thead><tr>"
        ),
    );
    for name in ["No.", "At", "Took", "Layer", "From byte", "Bytes", "Mbit/s", "First reads it served", "For"] {
        put(page, format_args!("<th scope=\"col\">{name}</th>"));
    }
    put(page, format_args!("</tr></thead>\n<tbody>\n"));
    for (number, request) in trace.requests.iter().enumerate() {
        let served = trace.touches.iter().filter(|touch| touch.request == Some(number)).count();
        let length = request.end - request.start;
        let rate = length as f64 * 8.0 / request.took_us.max(1) as f64;
        put(
            page,
            format_args!(
                "<tr{}><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{rate:.0}</td><td>{served}</td><td>{}</td></tr>\n",
                if request.came { "" } else { " class=\"failed\"" },
                number + 1,
                time(request.at_us),
                time(request.took_us),
                request.layer + 1,
                grouped(request.start),
                bytes(length),
                purpose(request),
            ),
        );
    }
    put(page, format_args!("</tbody>\n</table>\n</div>\n</section>\n"));
}

fn purpose(request: &TracedRequest) -> &'static str {
    match (request.came, request.is_ahead) {
        (false, _) => "failed",
        (true, true) => "ahead",
        (true, false) => "a reader",
    }
}

fn layers(page: &mut String, trace: &TraceReport) {
    put(
        page,
        format_args!(
            "<section aria-labelledby=\"layers\">\n<h2 id=\"layers\">Layers</h2>\n<div class=\"scroll\">\n<table class=\"plain\">\n\
             <thead><tr><th scope=\"col\">Layer</th><th scope=\"col\">Digest</th><th scope=\"col\">Blob</th>\
             <th scope=\"col\">First reads</th><th scope=\"col\">Asked for</th></tr></thead>\n<tbody>\n"
        ),
    );
    for (number, layer) in trace.layers.iter().enumerate() {
        let is_of = |other: u32| other as usize == number;
        let touches = trace.touches.iter().filter(|touch| is_of(touch.layer)).count();
        let asked = trace.requests.iter().filter(|request| is_of(request.layer));
        let asked: u64 = asked.map(|request| request.end - request.start).sum();
        let short: String = layer.digest.0.hex().chars().take(SHORT).collect();
        put(
            page,
            format_args!(
                "<tr><td>{}</td><td><code title=\"{}\">{short}</code></td><td>{}</td><td>{touches}</td><td>{}</td></tr>\n",
                number + 1,
                layer.digest,
                bytes(layer.size),
                bytes(asked)
            ),
        );
    }
    put(page, format_args!("</tbody>\n</table>\n</div>\n</section>\n"));
}

fn bar(class: &str, at_us: u64, for_us: u64) -> String {
    let ms = |us: u64| us as f64 / 1000.0;
    format!("<i class=\"{class}\" style=\"--at:{:.3};--for:{:.3}\"></i>", ms(at_us), ms(for_us))
}

fn waited_us(touch: &TracedTouch) -> u64 {
    touch.served_us.unwrap_or(touch.at_us).saturating_sub(touch.at_us)
}

/// When the last thing happened.
fn end_us(trace: &TraceReport) -> u64 {
    let touches = trace.touches.iter().map(|touch| touch.at_us + waited_us(touch));
    let requests = trace.requests.iter().map(|request| request.at_us.saturating_add(request.took_us));
    touches.chain(requests).chain([trace.usable_us]).max().unwrap_or(0)
}

/// About ten steps of 1, 2 or 5 times a power of ten, in milliseconds.
fn nice_step(total_ms: f64) -> f64 {
    let raw = total_ms / 10.0;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= raw).unwrap_or(10.0);
    (step * power).max(0.1)
}

/// A time as people read it.
fn time(us: u64) -> String {
    match us {
        0 => "0".to_owned(),
        1..100_000 => format!("{:.1} ms", us as f64 / 1000.0),
        100_000..10_000_000 => format!("{} ms", us / 1000),
        _ => format!("{:.1} s", us as f64 / 1_000_000.0),
    }
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

/// Date and time of so many milliseconds after 1970, by the calendar's rule of 400 years.
fn date(ms: u64) -> String {
    let (days, second) = (ms / 86_400_000, ms / 1000 % 86_400);
    let shifted = days + 719_468; // from the 1st of March of the year 0 on
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02}", second % 60)
}

/// Text as HTML shows it, in an element or an attribute in double quotes. What is not to be seen, or turns the direction of writing, is
/// spelt out.
fn text(raw: &str) -> String {
    let mut shown = String::with_capacity(raw.len());
    for letter in raw.chars() {
        match letter {
            '&' => shown.push_str("&amp;"),
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            '"' => shown.push_str("&quot;"),
            '\'' => shown.push_str("&#39;"),
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => {
                put(&mut shown, format_args!("{}", letter.escape_unicode()));
            }
            control if control.is_control() => put(&mut shown, format_args!("{}", control.escape_default())),
            other => shown.push(other),
        }
    }
    shown
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    let _a_string_takes_everything = page.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_calls_its_files_is_text() {
        assert_eq!(text("<b>&\"'"), "&lt;b&gt;&amp;&quot;&#39;");
        assert_eq!(text("a\u{202e}b\nc\u{0}"), "a\\u{202e}b\\nc\\u{0}");
        assert_eq!(text("/usr/lib/caf\u{e9}"), "/usr/lib/caf\u{e9}");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, said) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_709_251_199, "2024-02-29 23:59:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(date(seconds * 1000), said);
        }
    }

    #[test]
    fn steps_and_numbers_are_those_that_people_use() {
        assert_eq!((nice_step(1000.0), nice_step(1001.0), nice_step(45.0)), (100.0, 200.0, 5.0));
        assert_eq!((grouped(7), grouped(1234), grouped(12_345_678)), ("7".into(), "1 234".into(), "12 345 678".into()));
        assert_eq!(
            (time(0), time(1500), time(250_000), time(12_000_000)),
            ("0".into(), "1.5 ms".into(), "250 ms".into(), "12.0 s".into())
        );
    }
}
