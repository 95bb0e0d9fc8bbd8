//! containerd's filter language, as `List` gets it: `kind==active,labels."a/b"~=^x`.
//!
//! ```text
//! filter    = "" | selector *( "," selector )          all of them must match; of several filters, any
//! selector  = fieldpath [ operator value ]             without an operator: the field is there
//! fieldpath = field *( "." field )
//! field     = quoted | 1*( letter | digit | "_" )
//! operator  = "==" | "!=" | "~="
//! value     = quoted | anything up to a comma or a space
//! ```
//!
//! After `~=` slashes and bars quote too, so that an expression can hold quotes. What is not there is empty to all operators
//! but `==`. Source: containerd's package `filters`; only an expression that is none is an error here, and matches nothing there.

use regex::{Regex, RegexBuilder};

use super::book::{CHAIN, Kind, Snapshot};
use super::error::SnapshotError;

mod scan;

use scan::{Scanner, Token};

/// A compiled expression may take so much: what containerd itself sends takes a few KiB.
const EXPRESSION_BYTES_MAX: usize = 1 << 20;
/// A filter is a line or two.
const FILTER_BYTES_MAX: usize = 64 << 10;
const FILTERS_MAX: usize = 1024;

/// Several filters, of which any must match; of none, everything does.
#[derive(Debug, Default)]
pub struct Filters(Vec<Filter>);

#[derive(Debug)]
struct Filter(Vec<Selector>);

#[derive(Debug)]
struct Selector {
    field: Field,
    test: Test,
}

/// What of a snapshot is looked at.
#[derive(Debug, PartialEq, Eq)]
enum Field {
    Name,
    Parent,
    Kind,
    Label(String),
    /// A field that no snapshot has.
    Unknown,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

// === impl Filters ===

impl Filters {
    /// # Errors
    /// [`SnapshotError::Invalid`], with the place in the text.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, SnapshotError> {
        if texts.len() > FILTERS_MAX {
            return Err(SnapshotError::Invalid(format!("{} filters are too many", texts.len())));
        }
        texts.iter().map(|text| Filter::parse(text.as_ref())).collect::<Result<_, _>>().map(Self)
    }

    pub fn matches(&self, snapshot: &Snapshot) -> bool {
        self.0.is_empty() || self.0.iter().any(|filter| filter.0.iter().all(|selector| selector.matches(snapshot)))
    }

    /// The chains that the snapshots looked for have, if each filter asks for one: then nobody else need be looked at.
    pub(super) fn chains(&self) -> Option<Vec<&str>> {
        let chain = |selector: &Selector| match (&selector.field, &selector.test) {
            (Field::Label(label), Test::Equal(_)) => label == CHAIN,
            _ => false,
        };
        let of = |filter: &'_ Filter| filter.0.iter().position(chain);
        let found = self.0.iter().map(|filter| match &filter.0.get(of(filter)?)?.test {
            Test::Equal(chain) => Some(chain.as_str()),
            _ => None,
        });
        let chains = found.collect::<Option<Vec<_>>>()?;
        (!chains.is_empty()).then_some(chains)
    }
}

// === impl Filter ===

impl Filter {
    fn parse(text: &str) -> Result<Self, SnapshotError> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        if text.len() > FILTER_BYTES_MAX {
            return Err(SnapshotError::Invalid(format!("a filter of {} bytes is too long", text.len())));
        }
        if text.contains(['\0', char::REPLACEMENT_CHARACTER]) {
            return Err(SnapshotError::Invalid("filter: neither zeros nor what replaces broken characters".to_owned()));
        }
        let mut scanner = Scanner::new(text);
        let mut selectors = vec![selector(&mut scanner)?];
        loop {
            match scanner.peek() {
                None => return Ok(Self(selectors)),
                Some(',') => {
                    scanner.next()?;
                    selectors.push(selector(&mut scanner)?);
                }
                Some(_) => return Err(scanner.wrong("here a comma or the end was expected")),
            }
        }
    }
}

fn selector(scanner: &mut Scanner<'_>) -> Result<Selector, SnapshotError> {
    let field = Field::of(&fieldpath(scanner)?);
    if matches!(scanner.peek(), None | Some(',')) {
        return Ok(Selector { field, test: Test::Present });
    }
    let operator = match scanner.next()? {
        Token::Operator(operator) => operator,
        _ => return Err(scanner.wrong("an operator (==, != or ~=) was expected")),
    };
    let value = match scanner.next()? {
        Token::Value(value) | Token::Field(value) => value.to_owned(),
        Token::Quoted(text) => scanner.unquote(text, operator == "~=")?,
        _ => return Err(scanner.wrong("a value was expected")),
    };
    let test = match operator {
        "==" => Test::Equal(value),
        "!=" => Test::NotEqual(value),
        "~=" => {
            let expression = RegexBuilder::new(&value).size_limit(EXPRESSION_BYTES_MAX).build();
            Test::Matches(expression.map_err(|error| SnapshotError::Invalid(format!("filter: {error}")))?)
        }
        _ => return Err(scanner.wrong("the operators are ==, != and ~=")),
    };
    Ok(Selector { field, test })
}

fn fieldpath(scanner: &mut Scanner<'_>) -> Result<Vec<String>, SnapshotError> {
    let mut path = Vec::new();
    loop {
        path.push(match scanner.next()? {
            Token::Field(field) => field.to_owned(),
            Token::Quoted(text) => scanner.unquote(text, false)?,
            _ => return Err(scanner.wrong("a field or a quoted one was expected")),
        });
        if scanner.peek() != Some('.') {
            return Ok(path);
        }
        scanner.next()?;
    }
}

// === impl Field ===

impl Field {
    fn of(path: &[String]) -> Self {
        match path {
            // What follows these is not looked at.
            [field, ..] if field == "name" => Self::Name,
            [field, ..] if field == "parent" => Self::Parent,
            [field, ..] if field == "kind" => Self::Kind,
            [labels, label @ ..] if labels == "labels" => Self::Label(label.join(".")),
            _ => Self::Unknown,
        }
    }

    /// Its value, which for a name or a parent may be empty and is there all the same.
    fn value<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a str> {
        match self {
            Self::Name => Some(&snapshot.name),
            Self::Parent => Some(snapshot.parent.as_deref().unwrap_or_default()),
            Self::Kind => Some(match snapshot.kind {
                Kind::View => "view",
                Kind::Active => "active",
                Kind::Committed => "committed",
            }),
            Self::Label(label) => snapshot.labels.get(label).map(String::as_str),
            Self::Unknown => None,
        }
    }
}

// === impl Selector ===

impl Selector {
    fn matches(&self, snapshot: &Snapshot) -> bool {
        let value = self.field.value(snapshot);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(want) => value == Some(want),
            Test::NotEqual(want) => value.unwrap_or_default() != want,
            Test::Matches(want) => want.is_match(value.unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests;
