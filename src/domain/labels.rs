//! The labels of a job.

use std::{fmt, iter::from_fn, mem::swap, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};

/// Key-value pairs for filters, ordered by key. Shared, so that the next version of a job needs no copy. All texts are
/// in one allocation, each after its length, because an allocation for each text would take several times the memory of
/// the texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Arc<str>);

impl Labels {
    /// Returns whether there are no labels.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether all pairs of `others` are among these.
    pub fn contains(&self, others: &Self) -> bool {
        // One pass, because both are in the order of their keys.
        let mut pairs = self.iter();
        others.iter().all(|other| pairs.any(|pair| pair == other))
    }

    /// Returns all pairs, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &*self.0;
        from_fn(move || Some((next_text(&mut rest)?, next_text(&mut rest)?)))
    }

    /// Returns the size of the encoded pairs in bytes.
    pub(super) fn size(&self) -> usize {
        self.0.len()
    }
}

/// Number of bits of a length that one character encodes. With the bit [`MORE`] they form an ASCII character.
const LENGTH_BITS: usize = 6;

/// Bit that is set in each character of a length except the last.
const MORE: u8 = 1 << LENGTH_BITS;

/// Appends the length of `text`, lowest bits first, and then `text`.
fn push_text(into: &mut String, text: &str) {
    let mut length = text.len();
    loop {
        let (bits, rest) = (length.to_le_bytes()[0] & (MORE - 1), length >> LENGTH_BITS);
        into.push(char::from(if rest == 0 { bits } else { bits | MORE }));
        if rest == 0 {
            break;
        }
        length = rest;
    }
    into.push_str(text);
}

/// Splits the first text and its length off `rest`.
fn next_text<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let (mut length, mut read) = (0, 0);
    loop {
        let byte = *rest.as_bytes().get(read)?;
        length |= usize::from(byte & (MORE - 1)) << (read * LENGTH_BITS);
        read += 1;
        if byte & MORE == 0 {
            break;
        }
    }
    let (text, behind) = rest.get(read..)?.split_at_checked(length)?;
    *rest = behind;
    Some(text)
}

/// Collects pairs. Of two pairs with the same key, the later one is kept.
impl FromIterator<(String, String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
        pairs.dedup_by(|later, kept| {
            let is_same = later.0 == kept.0;
            if is_same {
                swap(later, kept);
            }
            is_same
        });
        if pairs.is_empty() {
            return Self::default();
        }
        let mut text = String::with_capacity(pairs.iter().map(|(key, value)| key.len() + value.len() + 4).sum());
        for part in pairs.iter().flat_map(|(key, value)| [key, value]) {
            push_text(&mut text, part);
        }
        Self(text.into())
    }
}

impl<const N: usize> From<[(String, String); N]> for Labels {
    fn from(pairs: [(String, String); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Pairs)
    }
}

struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Labels;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pairs of text")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry::<String, String>()? {
            pairs.push(pair);
        }
        Ok(pairs.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_may_be_a_label() {
        let long = ["é".repeat(31), "é".repeat(32), "x".repeat(4095), "x".repeat(4096), "x".repeat(300_000)];
        let texts = ["", ":", "@", "A", "\0", "\u{1}é", "é", "a"].into_iter().chain(long.iter().map(String::as_str));
        let texts: Vec<_> = texts.collect();
        let pairs = || texts.iter().flat_map(|key| texts.iter().rev().map(move |value| (*key, *value)));
        let labels: Labels = pairs().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let mut keys = texts.clone();
        keys.sort_unstable();
        // The later value of each key counts.
        assert!(labels.iter().eq(keys.iter().map(|key| (*key, texts[0]))), "{labels:?}");
        for (key, value) in pairs() {
            let one = Labels::from([(key.to_owned(), value.to_owned())]);
            assert!(one.iter().eq([(key, value)]), "{one:?}");
            assert_eq!((labels.contains(&one), one.contains(&labels)), (value.is_empty(), false));
        }
        assert!(labels.contains(&labels) && labels.contains(&Labels::default()));
        assert!(!Labels::default().contains(&labels));
        assert!(!labels.is_empty() && Labels::default().is_empty() && Labels::default().iter().next().is_none());
    }
}
