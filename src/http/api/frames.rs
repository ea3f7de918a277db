//! gRPC messages in the frames of a body.

use bytes::{Buf, Bytes};

/// Size in bytes of the prefix of a message: the compression flag and the length.
pub const PREFIX: usize = 5;

/// Buffer of received bytes, from which complete messages are taken. A message that arrives in one part is not copied.
#[derive(Default)]
pub struct Frames(Bytes);

impl Frames {
    /// Adds bytes that have arrived.
    pub fn add(&mut self, data: Bytes) {
        self.0 = if self.0.is_empty() { data } else { [&self.0[..], &data].concat().into() };
    }

    /// Takes the next message, if it has arrived completely. Messages are never compressed, because the calls of this
    /// process do not accept compression.
    pub fn next(&mut self) -> Option<Bytes> {
        let length = self.0.get(1..)?.get(..PREFIX - 1)?.get_u32() as usize;
        if self.0.len() < PREFIX + length {
            return None;
        }
        self.0.advance(PREFIX);
        Some(self.0.split_to(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_when_they_are_whole() {
        let mut frames = Frames::default();
        assert_eq!(frames.next(), None);
        frames.add(Bytes::from_static(&[0, 0, 0, 0, 2, 7, 8, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(frames.next().as_deref(), Some(&[7, 8][..]));
        assert_eq!(frames.next().as_deref(), Some(&[][..]));
        assert_eq!(frames.next(), None);
        frames.add(Bytes::from_static(&[0, 0, 1]));
        assert_eq!(frames.next(), None);
        frames.add(Bytes::from_static(&[9]));
        assert_eq!(frames.next().as_deref(), Some(&[9][..]));
    }
}
