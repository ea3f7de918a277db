//! `WatchJobResponse` and `WatchJobsResponse` as they are sent. The job and the token in them are encoded already, once
//! for all watchers.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{self, DecodeContext, WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

/// Number of the field `job`.
const JOB: u32 = 2;

/// An event of a stream; see `WatchJobResponse` for its fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EncodedEvent {
    /// The type of the event: a `v1::Event`.
    pub event: i32,
    /// An encoded `v1::Job`.
    pub job: Option<Bytes>,
    /// Number of revisions that were skipped.
    pub skipped: i64,
    /// Token that resumes the stream after this event.
    pub resume_token: Bytes,
    /// The events before this one are obsolete.
    pub reset: bool,
    /// Reason for the removal of the job: a `v1::Removal`.
    pub removal: i32,
    /// More snapshots follow.
    pub snapshot_pending: bool,
}

impl Message for EncodedEvent {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        if self.event != 0 {
            encoding::int32::encode(1, &self.event, buf);
        }
        if let Some(job) = &self.job {
            encode_key(JOB, WireType::LengthDelimited, buf);
            encode_varint(job.len() as u64, buf);
            buf.put_slice(job);
        }
        if self.skipped != 0 {
            encoding::int64::encode(3, &self.skipped, buf);
        }
        if !self.resume_token.is_empty() {
            encoding::bytes::encode(4, &self.resume_token, buf);
        }
        if self.reset {
            encoding::bool::encode(5, &self.reset, buf);
        }
        if self.removal != 0 {
            encoding::int32::encode(6, &self.removal, buf);
        }
        if self.snapshot_pending {
            encoding::bool::encode(7, &self.snapshot_pending, buf);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 => encoding::int32::merge(wire_type, &mut self.event, buf, ctx),
            JOB => encoding::bytes::merge(wire_type, self.job.get_or_insert_default(), buf, ctx),
            3 => encoding::int64::merge(wire_type, &mut self.skipped, buf, ctx),
            4 => encoding::bytes::merge(wire_type, &mut self.resume_token, buf, ctx),
            5 => encoding::bool::merge(wire_type, &mut self.reset, buf, ctx),
            6 => encoding::int32::merge(wire_type, &mut self.removal, buf, ctx),
            7 => encoding::bool::merge(wire_type, &mut self.snapshot_pending, buf, ctx),
            _ => encoding::skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        let job = |job: &Bytes| key_len(JOB) + encoded_len_varint(job.len() as u64) + job.len();
        let given = |is_given: bool, length: usize| if is_given { length } else { 0 };
        given(self.event != 0, encoding::int32::encoded_len(1, &self.event))
            + self.job.as_ref().map_or(0, job)
            + given(self.skipped != 0, encoding::int64::encoded_len(3, &self.skipped))
            + given(!self.resume_token.is_empty(), encoding::bytes::encoded_len(4, &self.resume_token))
            + given(self.reset, encoding::bool::encoded_len(5, &self.reset))
            + given(self.removal != 0, encoding::int32::encoded_len(6, &self.removal))
            + given(self.snapshot_pending, encoding::bool::encoded_len(7, &self.snapshot_pending))
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1;

    #[test]
    fn encoded_event_has_the_bytes_of_the_message() {
        let job = v1::Job { id: "a".to_owned(), revision: 7, ..v1::Job::default() };
        let (event, removal) = (v1::Event::Removed.into(), v1::Removal::Deleted.into());
        for (skipped, reset, snapshot_pending) in [(0, false, false), (3, true, false), (3, true, true)] {
            let resume_token = "token".to_owned();
            let whole = v1::WatchJobsResponse {
                event,
                job: Some(job.clone()),
                skipped,
                resume_token: resume_token.clone(),
                reset,
                removal,
                snapshot_pending,
            };
            let (job, resume_token) = (Some(job.encode_to_vec().into()), resume_token.into());
            let encoded = EncodedEvent { event, job, skipped, resume_token, reset, removal, snapshot_pending };
            assert_eq!(encoded.encode_to_vec(), whole.encode_to_vec());
            assert_eq!(encoded.encoded_len(), whole.encoded_len());
            assert_eq!(EncodedEvent::decode(&*whole.encode_to_vec()), Ok(encoded));
        }
        assert!(EncodedEvent::default().encode_to_vec().is_empty());
    }
}
