//! Documents: JSON objects that jobtrack keeps but does not look into.

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

/// A JSON object that jobtrack keeps but does not look into, as the bytes of a `google.protobuf.Struct`: in one piece, so
/// that it takes no more memory than it has bytes, and shared, so that a job's next version costs no copy of it.
///
/// Two documents are equal if their bytes are. The order of fields is kept, as JSON too, so the same document read from
/// Redis is equal. Of two fields with one name the later counts, as with any map of protobuf; both are kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Document(Arc<[u8]>);

/// The reason why a document can't be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Illegal {
    /// The bytes are no encoded Struct, or a text in it is not UTF-8.
    #[error("is no Struct")]
    Malformed,
    /// It nests more than [`MAX_DEPTH`] deep.
    #[error("nests more than {MAX_DEPTH} deep")]
    TooDeep,
    /// JSON knows no such number.
    #[error("holds a number that is not finite")]
    NotFinite,
    /// A value is missing, or of a kind that nobody knows.
    #[error("holds a value of no kind")]
    NoKind,
    /// A value is of two kinds, or a field has two values. Parsers would take one of them, or merge them.
    #[error("holds a value that is given twice")]
    Twice,
}

impl From<Malformed> for Illegal {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl Document {
    /// Takes an encoded Struct, if it is a legal document. Bytes that no encoder writes are written as encoders do.
    pub fn parse(encoded: Vec<u8>) -> Result<Self, Illegal> {
        let is_plain = check::check(&encoded)?;
        Ok(Self(if is_plain { encoded.into() } else { check::plain(&encoded)?.into() }))
    }

    /// The encoded Struct.
    pub const fn encoded(&self) -> &Arc<[u8]> {
        &self.0
    }

    /// Returns whether both are the same piece of memory.
    pub fn ptr_eq(one: &Self, other: &Self) -> bool {
        Arc::ptr_eq(&one.0, &other.0)
    }
}

/// Shows the document as JSON.
impl Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}
