//! The labels of a job.

use std::{
    fmt::{self, Write},
    iter::from_fn,
    mem::swap,
    sync::Arc,
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};

/// Key-value pairs for filters, ordered by key. Shared, so that the next version of a job needs no copy, and in one
/// allocation, as netstrings: an allocation for each text would take several times the memory of the texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Arc<str>);

impl Labels {
    /// Returns whether there are no labels.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find_map(|(other, value)| (other == key).then_some(value))
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

/// Splits the first netstring off `rest`.
fn next_text<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let (length, behind) = rest.split_once(':')?;
    let (text, behind) = behind.split_at_checked(length.parse().ok()?)?;
    *rest = behind.strip_prefix(',')?;
    Some(text)
}

/// Collects pairs; of two pairs with one key the later one counts.
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
        let mut text = String::with_capacity(pairs.iter().map(|(key, value)| key.len() + value.len() + 10).sum());
        for part in pairs.iter().flat_map(|(key, value)| [key, value]) {
            _ = write!(text, "{}:{part},", part.len());
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
        let texts = ["", ":", ",", "3:a,", "4:", "\0", "é", "1:é,1:é,", "a"];
        let pairs = || texts.iter().flat_map(|key| texts.iter().rev().map(move |value| (*key, *value)));
        let labels: Labels = pairs().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let mut keys = texts;
        keys.sort_unstable();
        // The later value of each key counts.
        assert!(labels.iter().eq(keys.iter().map(|key| (*key, ""))), "{labels:?}");
        for (key, value) in pairs() {
            let one = Labels::from([(key.to_owned(), value.to_owned())]);
            assert!(one.iter().eq([(key, value)]), "{one:?}");
            assert_eq!((one.get(key), one.get("another")), (Some(value), None));
        }
        assert!(!labels.is_empty() && Labels::default().is_empty() && Labels::default().iter().next().is_none());
    }
}
