//! `google.protobuf.Struct` in its encoded form: the fields are never decoded.

use std::{
    fmt::{self, Debug},
    sync::Arc,
};

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{self, DecodeContext, WireType},
};
use prost_types::Struct;

/// Number of the field `fields` of a Struct.
const FIELDS: u8 = 1;

/// Key byte of each of these fields.
const KEY: u8 = FIELDS << 3 | WireType::LengthDelimited as u8;

/// An encoded `google.protobuf.Struct`.
#[derive(Clone)]
pub enum EncodedStruct {
    /// Bytes that were received, not validated yet.
    Received(Vec<u8>),
    /// Bytes that are shared with a job.
    Shared(Arc<[u8]>),
}

impl EncodedStruct {
    /// Returns the encoded Struct.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Received(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    /// Returns the encoded Struct for appending.
    fn bytes_mut(&mut self) -> &mut Vec<u8> {
        if let Self::Shared(bytes) = self {
            *self = Self::Received(bytes.to_vec());
        }
        match self {
            Self::Received(bytes) => bytes,
            Self::Shared(_) => unreachable!("it was just copied"),
        }
    }
}

impl From<EncodedStruct> for Vec<u8> {
    fn from(from: EncodedStruct) -> Self {
        match from {
            EncodedStruct::Received(bytes) => bytes,
            EncodedStruct::Shared(bytes) => bytes.to_vec(),
        }
    }
}

impl From<Struct> for EncodedStruct {
    fn from(from: Struct) -> Self {
        Self::Received(from.encode_to_vec())
    }
}

impl TryFrom<&EncodedStruct> for Struct {
    type Error = DecodeError;

    fn try_from(from: &EncodedStruct) -> Result<Self, DecodeError> {
        Self::decode(from.as_bytes())
    }
}

impl Default for EncodedStruct {
    fn default() -> Self {
        Self::Received(Vec::new())
    }
}

impl PartialEq for EncodedStruct {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Debug for EncodedStruct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Struct::try_from(self) {
            Ok(decoded) => decoded.fmt(f),
            Err(_) => self.as_bytes().fmt(f),
        }
    }
}

impl Message for EncodedStruct {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(self.as_bytes());
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag != u32::from(FIELDS) {
            return encoding::skip_field(wire_type, tag, buf, ctx);
        }
        let bytes = self.bytes_mut();
        if bytes.is_empty() {
            // A Struct is usually the last field of the request, and the largest: one allocation for the rest is
            // enough.
            bytes.reserve_exact(buf.remaining() + 1);
        }
        // A fast path: a Struct may have a hundred thousand fields.
        if let ([length @ 0..=0x7f, rest @ ..], WireType::LengthDelimited) = (buf.chunk(), wire_type)
            && let Some(field) = rest.get(..usize::from(*length))
        {
            bytes.extend([KEY, *length]);
            bytes.extend_from_slice(field);
            let read = 1 + field.len();
            buf.advance(read);
            return Ok(());
        }
        let mut field = Bytes::new();
        encoding::bytes::merge(wire_type, &mut field, buf, ctx)?;
        encoding::bytes::encode(tag, &field, bytes);
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.as_bytes().len()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use prost_types::{Value, value::Kind};

    use super::*;
    use crate::proto::v1;

    /// The message with prost's own Struct.
    #[derive(Clone, PartialEq, Message)]
    struct Completion {
        #[prost(string, tag = "1")]
        job_id: String,
        #[prost(message, optional, tag = "2")]
        result: Option<Struct>,
    }

    #[test]
    fn it_is_read_and_written_as_what_it_stands_for() {
        let value = |kind| Value { kind: Some(kind) };
        let fields = [("a".to_owned(), value(Kind::NumberValue(1.0))), ("b".to_owned(), value(Kind::NullValue(0)))];
        let long = [("text".to_owned(), value(Kind::StringValue("x".repeat(300))))];
        let structs = [Struct::default(), Struct { fields: fields.into() }, Struct { fields: long.into() }];
        for result in structs.into_iter().map(Some).chain([None]) {
            let theirs = Completion { job_id: "a".to_owned(), result: result.clone() }.encode_to_vec();
            let ours = v1::CompleteJobRequest::decode(&*theirs).expect("a request");
            assert_eq!(ours.result, result.map(EncodedStruct::from));
            assert_eq!(ours.encode_to_vec(), theirs);
            let shared = ours.result.as_ref().map(|result| EncodedStruct::Shared(result.as_bytes().into()));
            assert_eq!(v1::CompleteJobRequest { result: shared, ..ours }.encode_to_vec(), theirs);
        }
    }

    #[test]
    fn what_is_cut_off_or_of_another_type_is_not_read() {
        for malformed in [&[0x0a, 5, 1][..], &[0x08, 1], &[0x0a]] {
            assert!(EncodedStruct::decode(malformed).is_err(), "{malformed:?}");
        }
        let unknown = EncodedStruct::decode(&[0x10, 1, 0x0a, 0][..]).expect("a Struct");
        assert_eq!(unknown.as_bytes(), [0x0a, 0]);
    }
}
