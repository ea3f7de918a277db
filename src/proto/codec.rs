//! The codec of the messages of `JobService`.

use std::marker::PhantomData;

use bytes::BufMut;
use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, EncodeBuf},
};
use tonic_prost::{ProstCodec, ProstDecoder};

/// Initial size of a call's buffers in bytes. Most messages fit, and a larger message makes its buffer grow. An idle
/// stream keeps its buffers, so with ten thousand streams their size matters.
const BUFFER: usize = 512;

/// Number of encoded bytes after which a stream sends them without waiting for more messages: tonic's default.
const SENT_FROM: usize = 32 * 1024;

/// Maximum size in bytes of a message that is encoded on the stack.
const SMALL_MAX: usize = 1024;

/// Prost's codec with small buffers.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Encoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Encoder<T> {
        Encoder(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, SENT_FROM))
    }
}

/// Encodes each message into a buffer of the size that it needs. Prost's own encoder doubles the buffer until the
/// message fits: for a large message, that copies and allocates its size once more. It also writes each byte of a
/// number with a separate call. Therefore a small message is encoded into an array, and copied to the buffer with one
/// call.
#[derive(Debug)]
pub struct Encoder<T>(PhantomData<T>);

impl<T: Message> tonic::codec::Encoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let size = item.encoded_len();
        if size <= SMALL_MAX {
            let mut array = [0; SMALL_MAX];
            let (encoded, _) = array.split_at_mut(size);
            item.encode_raw(&mut &mut *encoded);
            into.put_slice(encoded);
        } else {
            into.reserve(size);
            item.encode_raw(into);
        }
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, SENT_FROM)
    }
}
