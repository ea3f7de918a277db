//! Protobuf messages as `JobService` reads and writes them.

use std::marker::PhantomData;

use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, EncodeBuf},
};
use tonic_prost::{ProstCodec, ProstDecoder};

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
    type Encoder = Encoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Encoder<T> {
        Encoder(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, SENT_FROM))
    }
}

/// Writes messages, each into as much room as it needs: prost's own encoder doubles that until it is enough, which costs a
/// large message as much again in copies and in memory.
#[derive(Debug)]
pub struct Encoder<T>(PhantomData<T>);

impl<T: Message> tonic::codec::Encoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.reserve(item.encoded_len());
        item.encode_raw(into);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, SENT_FROM)
    }
}
