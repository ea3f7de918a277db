//! Validation of a caller's document, and its canonical encoding.
//!
//! All protobuf encoders write a document in one way, except for the order of its fields. That encoding is canonical,
//! and its bytes are kept unchanged. Parsers accept more: unknown fields, numbers with superfluous bytes, the value of
//! an entry before its key. Such a document is re-encoded. Readers of stored documents can thus rely on one encoding of
//! each value, and a document that was converted to JSON and back has the same bytes as before.

use std::collections::HashSet;

use super::{
    Illegal, MAX_DEPTH,
    wire::{Content, Fields, Malformed, Writer},
};

/// Field numbers of `google.protobuf.Struct`, its entries, `Value` and `ListValue`.
pub mod number {
    /// The entries of a Struct, and the values of a list.
    pub const ITEMS: u8 = 1;
    /// The key of an entry; absent if empty.
    pub const KEY: u8 = 1;
    /// The value of an entry.
    pub const VALUE: u8 = 2;
    /// The kinds of a Value.
    pub const NULL: u8 = 1;
    pub const NUMBER: u8 = 2;
    pub const TEXT: u8 = 3;
    pub const BOOL: u8 = 4;
    pub const OBJECT: u8 = 5;
    pub const LIST: u8 = 6;
}

/// First bytes of the fields of an entry, and of the kinds of a Value.
mod tag {
    use super::number;

    pub const KEY: u8 = number::KEY << 3 | 2;
    pub const VALUE: u8 = number::VALUE << 3 | 2;
    pub const NULL: u8 = number::NULL << 3;
    pub const NUMBER: u8 = number::NUMBER << 3 | 1;
    pub const TEXT: u8 = number::TEXT << 3 | 2;
    pub const BOOL: u8 = number::BOOL << 3;
    pub const OBJECT: u8 = number::OBJECT << 3 | 2;
    pub const LIST: u8 = number::LIST << 3 | 2;
}

/// A decoded Value.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    Null,
    Number(f64),
    Text(&'a str),
    Bool(bool),
    Object(&'a [u8]),
    List(&'a [u8]),
}

type Result<T> = std::result::Result<T, Illegal>;

/// Fails unless this is a legal document: at most [`MAX_DEPTH`] deep, finite numbers only, one kind for each value.
/// Returns whether its encoding is canonical.
pub fn check(document: &[u8]) -> Result<bool> {
    let mut check = Check { is_canonical: true };
    check.object(document, MAX_DEPTH)?;
    Ok(check.is_canonical)
}

/// Re-encodes a checked document in its canonical form.
pub fn canonical(document: &[u8]) -> Result<Vec<u8>> {
    let mut into = Writer::with_capacity(document.len());
    write_object(document, &mut into)?;
    Ok(into.finish())
}

/// Returns whether two fields of one object in a document have the same name.
pub fn has_repeated_names(document: &[u8]) -> Result<bool> {
    let mut names = HashSet::new();
    for item in items(document) {
        let entry = entry(item?)?;
        if !names.insert(entry.key) || repeats_names(entry.value)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns whether an object in this value has two fields with the same name.
fn repeats_names(value: &[u8]) -> Result<bool> {
    match kind(value)?.0 {
        Kind::Object(object) => has_repeated_names(object),
        Kind::List(list) => {
            for value in items(list) {
                if repeats_names(value?)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Kind::Null | Kind::Number(_) | Kind::Text(_) | Kind::Bool(_) => Ok(false),
    }
}

struct Check {
    is_canonical: bool,
}

impl Check {
    fn object(&mut self, object: &[u8], depth: usize) -> Result<()> {
        let inner = deeper(depth)?;
        self.each(object, |check, item| {
            let entry = entry(item)?;
            check.is_canonical &= entry.is_canonical;
            check.value(entry.value, inner)
        })
    }

    /// Checks each entry of a Struct, or each value of a list.
    fn each(&mut self, message: &[u8], check_item: impl Fn(&mut Self, &[u8]) -> Result<()>) -> Result<()> {
        let mut items = items(message);
        for item in items.by_ref() {
            check_item(self, item?)?;
        }
        self.is_canonical &= items.is_canonical();
        Ok(())
    }

    fn value(&mut self, value: &[u8], depth: usize) -> Result<()> {
        let (kind, is_canonical) = kind(value)?;
        self.is_canonical &= is_canonical;
        match kind {
            Kind::Null | Kind::Bool(_) | Kind::Text(_) => Ok(()),
            Kind::Number(number) if number.is_finite() => Ok(()),
            Kind::Number(_) => Err(Illegal::NotFinite),
            Kind::Object(object) => self.object(object, depth),
            Kind::List(list) => {
                let inner = deeper(depth)?;
                self.each(list, |check, value| check.value(value, inner))
            }
        }
    }
}

fn deeper(depth: usize) -> Result<usize> {
    depth.checked_sub(1).ok_or(Illegal::TooDeep)
}

/// Returns the entries of an encoded Struct, or the values of an encoded list.
pub const fn items(message: &[u8]) -> Items<'_> {
    Items { fields: Fields::of(message), knows_all: true }
}

/// Iterates over the entries of a Struct, or over the values of a list.
pub struct Items<'a> {
    fields: Fields<'a>,
    /// No unknown field has been skipped so far.
    knows_all: bool,
}

impl Items<'_> {
    const fn is_canonical(&self) -> bool {
        self.knows_all && self.fields.is_minimal
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<&'a [u8]>;

    fn next(&mut self) -> Option<Result<&'a [u8]>> {
        loop {
            match self.fields.next() {
                Ok(None) => return None,
                Ok(Some((1, Content::Bytes(item)))) => return Some(Ok(item)),
                Ok(Some((1, _))) | Err(Malformed) => return Some(Err(Illegal::Malformed)),
                Ok(Some(_)) => self.knows_all = false,
            }
        }
    }
}

/// An entry of a Struct.
pub struct Entry<'a> {
    /// The key.
    pub key: &'a str,
    /// The encoded value.
    pub value: &'a [u8],
    is_canonical: bool,
}

/// Reads an entry of a Struct.
#[inline]
pub fn entry(entry: &[u8]) -> Result<Entry<'_>> {
    let (key, rest) = match entry {
        [tag::KEY, length @ 1..=0x7f, rest @ ..] => {
            rest.split_at_checked((*length).into()).ok_or(Illegal::Malformed)?
        }
        rest => (&[][..], rest),
    };
    if rest.first() == Some(&tag::VALUE) && is_single(rest) {
        return Ok(Entry { key: utf8(key)?, value: &rest[2..], is_canonical: true });
    }
    any_entry(entry)
}

/// Returns whether a message is a single field of up to 127 bytes, assuming that its first field is length-delimited.
#[inline]
fn is_single(message: &[u8]) -> bool {
    message.len() < 2 + 0x80 && message.get(1).is_some_and(|length| usize::from(*length) + 2 == message.len())
}

fn any_entry(entry: &[u8]) -> Result<Entry<'_>> {
    let mut fields = Fields::of(entry);
    let (mut key, mut value) = (None, None);
    let mut is_canonical = true;
    while let Some(field) = fields.next()? {
        match field {
            (1, Content::Bytes(text)) => {
                is_canonical &= value.is_none() && !text.is_empty();
                set_once(&mut key, utf8(text)?)?;
            }
            (2, Content::Bytes(bytes)) => set_once(&mut value, bytes)?,
            (1 | 2, _) => return Err(Illegal::Malformed),
            _ => is_canonical = false,
        }
    }
    let value = value.ok_or(Illegal::NoKind)?;
    Ok(Entry { key: key.unwrap_or_default(), value, is_canonical: is_canonical && fields.is_minimal })
}

/// Reads a value. Also returns whether its encoding is canonical, apart from nested values.
#[inline]
pub fn kind(value: &[u8]) -> Result<(Kind<'_>, bool)> {
    // A fast path, because large documents have many values.
    let kind = match value {
        [tag::NULL, 0] => Kind::Null,
        [tag::BOOL, flag @ 0..=1] => Kind::Bool(*flag != 0),
        [tag::NUMBER, number @ ..] if number.len() == 8 => {
            Kind::Number(f64::from_le_bytes(number.try_into().map_err(|_| Illegal::Malformed)?))
        }
        [tag::TEXT, ..] if is_single(value) => Kind::Text(utf8(&value[2..])?),
        [tag::OBJECT, ..] if is_single(value) => Kind::Object(&value[2..]),
        [tag::LIST, ..] if is_single(value) => Kind::List(&value[2..]),
        _ => return any_kind(value),
    };
    Ok((kind, true))
}

fn any_kind(value: &[u8]) -> Result<(Kind<'_>, bool)> {
    let mut fields = Fields::of(value);
    let mut kind = None;
    let mut is_canonical = true;
    while let Some(field) = fields.next()? {
        let found = match field {
            (1, Content::Varint(number)) => {
                is_canonical &= number == 0;
                Kind::Null
            }
            (2, Content::Fixed64(bytes)) => Kind::Number(f64::from_le_bytes(bytes)),
            (3, Content::Bytes(text)) => Kind::Text(utf8(text)?),
            (4, Content::Varint(flag)) => {
                is_canonical &= flag <= 1;
                Kind::Bool(flag != 0)
            }
            (5, Content::Bytes(object)) => Kind::Object(object),
            (6, Content::Bytes(list)) => Kind::List(list),
            (1..=6, _) => return Err(Illegal::Malformed),
            _ => {
                is_canonical = false;
                continue;
            }
        };
        set_once(&mut kind, found)?;
    }
    Ok((kind.ok_or(Illegal::NoKind)?, is_canonical && fields.is_minimal))
}

fn set_once<T>(place: &mut Option<T>, value: T) -> Result<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Illegal::Twice),
    }
}

fn utf8(text: &[u8]) -> Result<&str> {
    std::str::from_utf8(text).map_err(|_| Illegal::Malformed)
}

fn write_object(object: &[u8], into: &mut Writer) -> Result<()> {
    for item in items(object) {
        let entry = entry(item?)?;
        let begun = into.begin(number::ITEMS);
        if !entry.key.is_empty() {
            into.bytes(number::KEY, entry.key.as_bytes());
        }
        write_value(number::VALUE, entry.value, into)?;
        into.end(begun);
    }
    Ok(())
}

fn write_value(number: u8, value: &[u8], into: &mut Writer) -> Result<()> {
    let begun = into.begin(number);
    match kind(value)?.0 {
        Kind::Null => into.flag(number::NULL, false),
        Kind::Number(number) => into.fixed64(number::NUMBER, number.to_le_bytes()),
        Kind::Text(text) => into.bytes(number::TEXT, text.as_bytes()),
        Kind::Bool(flag) => into.flag(number::BOOL, flag),
        Kind::Object(object) => {
            let begun = into.begin(number::OBJECT);
            write_object(object, into)?;
            into.end(begun);
        }
        Kind::List(list) => {
            let begun = into.begin(number::LIST);
            for value in items(list) {
                write_value(number::ITEMS, value?, into)?;
            }
            into.end(begun);
        }
    }
    into.end(begun);
    Ok(())
}
