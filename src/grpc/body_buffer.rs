//! Bytes that arrive in parts, and are needed when all have arrived.

use std::mem;

use bytes::Bytes;

/// Minimum capacity of a part. A peer may send single bytes, and each part has a cost of its own.
const MIN: usize = 512;

/// Maximum capacity of a part that is allocated before its bytes have arrived.
const MAX: usize = 32 * 1024;

/// Received bytes. They are copied when they arrive, so that a small part does not keep a large buffer in memory. Parts
/// are not reallocated, because a buffer that grows leaves free memory of about its own size behind.
#[derive(Debug, Default)]
pub struct BodyBuffer {
    parts: Vec<Vec<u8>>,
    length: usize,
}

impl BodyBuffer {
    /// Returns the number of bytes.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Returns whether there are no bytes.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns the memory that [`push`](Self::push) allocates for `count` bytes.
    pub fn growth(&self, count: usize) -> usize {
        match count.saturating_sub(self.spare()) {
            0 => 0,
            // As large as the bytes that have arrived, within MIN and MAX: above MIN, at most half of the memory is
            // unused.
            rest => rest.max(self.length.clamp(MIN, MAX)),
        }
    }

    /// Appends `data`.
    pub fn push(&mut self, data: &[u8]) {
        let (first, rest) = data.split_at(data.len().min(self.spare()));
        let growth = self.growth(data.len());
        if let Some(last) = self.parts.last_mut() {
            last.extend_from_slice(first);
        }
        if growth > 0 {
            let mut part = Vec::with_capacity(growth);
            part.extend_from_slice(rest);
            self.parts.push(part);
        }
        self.length += data.len();
    }

    /// Returns the first `N` bytes; `None`: not all have arrived. `N` is at most 512.
    pub fn first<const N: usize>(&self) -> Option<&[u8; N]> {
        debug_assert!(N <= MIN, "the first part holds so many");
        self.parts.first()?.first_chunk()
    }

    /// Removes all bytes. Returns them in order.
    pub fn take(&mut self) -> impl Iterator<Item = Bytes> + use<> {
        self.length = 0;
        mem::take(&mut self.parts).into_iter().map(Bytes::from)
    }

    /// Returns all bytes in one buffer.
    pub fn join(mut self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.length);
        for part in self.take() {
            all.extend_from_slice(&part);
        }
        all
    }

    /// Returns the unused capacity.
    fn spare(&self) -> usize {
        self.parts.last().map_or(0, |last| last.capacity() - last.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_are_kept_in_order_in_little_more_memory(lengths in prop::collection::vec(0..20_000_usize, 0..40)) {
            let (mut buffer, mut expected, mut allocated) = (BodyBuffer::default(), Vec::new(), 0);
            for (number, length) in (0..).zip(lengths) {
                let data = vec![number; length];
                allocated += buffer.growth(length);
                buffer.push(&data);
                expected.extend_from_slice(&data);
                prop_assert_eq!(buffer.len(), expected.len());
                prop_assert!(allocated <= (2 * expected.len()).max(MIN).min(expected.len() + MAX), "{}", allocated);
            }
            prop_assert_eq!(buffer.first::<5>(), expected.first_chunk());
            prop_assert_eq!(buffer.join(), expected);
        }
    }

    #[test]
    fn single_bytes_share_parts() {
        let mut buffer = BodyBuffer::default();
        for _ in 0..100_000 {
            buffer.push(b"x");
        }
        assert_eq!(buffer.parts.len(), 10);
    }
}
