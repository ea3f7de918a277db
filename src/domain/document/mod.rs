//! Documents: JSON objects that jobtrack stores without interpreting them.

mod check;
mod json;
mod wire;

use std::{
    fmt::{self, Debug},
    sync::Arc,
};

use thiserror::Error;

use self::wire::Malformed;
use super::MAX_DEPTH;

/// A JSON object that jobtrack stores without interpreting it, as the bytes of a `google.protobuf.Struct`. The document
/// is one allocation, so that it needs no more memory than its bytes, and shared, so that the next version of a job
/// needs no copy.
///
/// Two documents are equal if their bytes are equal. JSON keeps the order of fields, too, so a document read from Redis
/// equals the one that was written. Of two fields with the same name both are kept, and the later one counts, as in any
/// protobuf map.
#[derive(Clone, PartialEq, Eq)]
pub struct Document(Arc<[u8]>);

/// The reason why a document is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Illegal {
    /// The bytes are not an encoded Struct, or a string in it is not UTF-8.
    #[error("is not a valid Struct")]
    Malformed,
    /// It is nested deeper than [`MAX_DEPTH`].
    #[error("nests more than {MAX_DEPTH} deep")]
    TooDeep,
    /// A number is infinite or NaN, which JSON can't represent.
    #[error("contains a number that is not finite")]
    NotFinite,
    /// A value has no kind, or an unknown one.
    #[error("contains a value without a known kind")]
    NoKind,
    /// A value has two kinds, or an entry has two keys or two values. Some parsers take one of the two, others merge
    /// them.
    #[error("contains a value that is given twice")]
    Twice,
}

impl From<Malformed> for Illegal {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl Document {
    /// Accepts an encoded Struct if it is a legal document. Re-encodes it if its encoding is not canonical.
    pub fn parse(encoded: Vec<u8>) -> Result<Self, Illegal> {
        let is_plain = check::check(&encoded)?;
        Ok(Self(if is_plain { encoded.into() } else { check::canonical(&encoded)?.into() }))
    }

    /// Returns the encoded Struct.
    pub const fn encoded(&self) -> &Arc<[u8]> {
        &self.0
    }

    /// Returns whether two fields of one object have the same name.
    pub fn has_repeated_names(&self) -> bool {
        check::has_repeated_names(&self.0).expect("a document has a valid encoding")
    }

    /// Returns whether both share one allocation.
    pub fn ptr_eq(one: &Self, other: &Self) -> bool {
        Arc::ptr_eq(&one.0, &other.0)
    }
}

/// Formats the document as JSON.
impl Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}
