//! The words of a filter, and what quoted ones say: quoting is Go's.

use crate::snapshotter::error::SnapshotError;

/// A word, with quotes if it has them.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Field(&'a str),
    Value(&'a str),
    Quoted(&'a str),
    Operator(&'a str),
    Separator,
    End,
}

pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// An operator came last: what follows is a value, which may hold more than a field may.
    after_operator: bool,
}

// === impl Scanner ===

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, after_operator: false }
    }

    /// The next character as it stands there.
    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(super) fn next(&mut self) -> Result<Token<'a>, SnapshotError> {
        self.skip(char::is_whitespace);
        let Some(first) = self.peek() else { return Ok(Token::End) };
        match first {
            '"' | '/' | '|' => self.quoted(first).map(Token::Quoted),
            ',' | '.' => {
                self.after_operator = false;
                self.at += 1;
                Ok(Token::Separator)
            }
            '=' | '!' | '~' => {
                self.after_operator = true;
                Ok(Token::Operator(self.skip(|character| matches!(character, '=' | '!' | '~'))))
            }
            _ if self.after_operator && !first.is_control() => {
                self.after_operator = false;
                Ok(Token::Value(self.skip(|c| c != ',' && !c.is_whitespace() && !c.is_control())))
            }
            _ if is_of_field(first) => Ok(Token::Field(self.skip(is_of_field))),
            _ => Err(self.wrong("this character has no meaning here")),
        }
    }

    /// An error that shows the place.
    pub(super) fn wrong(&self, what: &str) -> SnapshotError {
        let before: String = self.text.get(..self.at).unwrap_or_default().chars().rev().take(40).collect();
        let before: String = before.chars().rev().collect();
        let after: String = self.rest().chars().take(40).collect();
        SnapshotError::Invalid(format!("filter: {what}: [{before} >|< {after}]"))
    }

    /// What a quoted word says. Slashes and bars quote only where `with_others` allows them; escapes are the same in all: a
    /// backslash of an expression is written twice.
    pub(super) fn unquote(&self, quoted: &str, with_others: bool) -> Result<String, SnapshotError> {
        let mut inner = quoted.chars();
        let quote = inner.next();
        let _closing = inner.next_back();
        match quote {
            Some(quote) if quote == '"' || with_others => {
                unescape(inner.as_str(), quote).ok_or_else(|| self.wrong("an escape that means nothing"))
            }
            _ => Err(self.wrong("only a value after ~= may be quoted like this")),
        }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|character| !belongs(character)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    /// A word in quotes, up to the closing one.
    fn quoted(&mut self, quote: char) -> Result<&'a str, SnapshotError> {
        self.after_operator = false;
        let rest = self.rest();
        let mut escaped = false;
        for (at, character) in rest.char_indices().skip(1) {
            match character {
                '\n' => break,
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                _ if character == quote => {
                    let end = at + character.len_utf8();
                    self.at += end;
                    return Ok(rest.get(..end).unwrap_or_default());
                }
                _ => {}
            }
        }
        Err(self.wrong("a quote is not closed"))
    }
}

fn is_of_field(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// Go's escapes of an interpreted string, in these quotes. Bytes above 127 that are no UTF-8 together mean nothing to us.
fn unescape(text: &str, quote: char) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let mut push = |character: char| bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        if character != '\\' {
            push(character);
            continue;
        }
        match characters.next()? {
            'a' => bytes.push(7),
            'b' => bytes.push(8),
            'f' => bytes.push(12),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'v' => bytes.push(11),
            '\\' => bytes.push(b'\\'),
            same if same == quote => push(same),
            first @ '0'..='7' => {
                let rest = number(&mut characters, 2, 8)?;
                bytes.push(u8::try_from(first.to_digit(8)? * 64 + rest).ok()?);
            }
            'x' => bytes.push(u8::try_from(number(&mut characters, 2, 16)?).ok()?),
            'u' => push(char::from_u32(number(&mut characters, 4, 16)?)?),
            'U' => push(char::from_u32(number(&mut characters, 8, 16)?)?),
            _ => return None,
        }
    }
    String::from_utf8(bytes).ok()
}

fn number(characters: &mut std::str::Chars<'_>, digits: usize, base: u32) -> Option<u32> {
    (0..digits).try_fold(0u32, |number, _| number.checked_mul(base)?.checked_add(characters.next()?.to_digit(base)?))
}
