//! Protobuf messages as `JobService` reads and writes them.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::BufferSettings;
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// How large a call's buffers are at first, in bytes: room for most messages. A larger one makes its buffer grow; a
/// stream keeps its own while it is idle, so that ten thousand of them count.
const BUFFER: usize = 512;

/// How much of a stream is encoded before it is sent, in bytes: tonic's default.
const SENT_FROM: usize = 32 * 1024;

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
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, SENT_FROM))
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, SENT_FROM))
    }
}
