//! The part of the protobuf encoding that documents use.

/// Highest valid field number.
const MAX_NUMBER: u64 = (1 << 29) - 1;

/// Maximum nesting of groups in an unknown field; the same as prost's.
const MAX_GROUPS: usize = 100;

/// The bytes are not a valid message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The content of a field.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// A varint.
    Varint(u64),
    /// A fixed 64-bit number.
    Fixed64([u8; 8]),
    /// A length-delimited field: bytes, a string or a message.
    Bytes(&'a [u8]),
    /// A wire type that documents do not use.
    Other,
}

/// Reads the fields of an encoded message.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
    /// All varints so far had their shortest encoding.
    pub is_minimal: bool,
}

impl<'a> Fields<'a> {
    /// Returns a reader of `message`.
    pub const fn of(message: &'a [u8]) -> Self {
        Self { rest: message, is_minimal: true }
    }

    /// Returns the number and the content of the next field.
    #[inline]
    pub fn next(&mut self) -> Result<Option<(u64, Content<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (number, wire_type) = self.key()?;
        let content = match wire_type {
            0 => Content::Varint(self.varint()?),
            1 => {
                let (bytes, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
                self.rest = rest;
                Content::Fixed64(*bytes)
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Content::Bytes(self.take(length)?)
            }
            3 => {
                self.skip_group(number, MAX_GROUPS)?;
                Content::Other
            }
            5 => {
                self.take(4)?;
                Content::Other
            }
            _ => return Err(Malformed),
        };
        Ok(Some((number, content)))
    }

    #[inline]
    fn key(&mut self) -> Result<(u64, u64), Malformed> {
        let key = self.varint()?;
        let number = key >> 3;
        if (1..=MAX_NUMBER).contains(&number) { Ok((number, key & 7)) } else { Err(Malformed) }
    }

    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Reads a varint. The first branch is a fast path: most numbers have one byte.
    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    #[cold]
    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for at in 0..10 {
            let (byte, rest) = self.rest.split_first().ok_or(Malformed)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << (7 * at);
            if *byte < 0x80 {
                self.is_minimal &= *byte != 0 || at == 0;
                // The tenth byte has room for one bit.
                return if at == 9 && *byte > 1 { Err(Malformed) } else { Ok(value) };
            }
        }
        Err(Malformed)
    }

    #[cold]
    fn skip_group(&mut self, number: u64, depth: usize) -> Result<(), Malformed> {
        let depth = depth.checked_sub(1).ok_or(Malformed)?;
        loop {
            let (inner, wire_type) = self.key()?;
            match wire_type {
                0 => _ = self.varint()?,
                1 => _ = self.take(8)?,
                2 => {
                    let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                    self.take(length)?;
                }
                3 => self.skip_group(inner, depth)?,
                4 if inner == number => return Ok(()),
                5 => _ = self.take(4)?,
                _ => return Err(Malformed),
            }
        }
    }
}

/// Writes encoded messages.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

/// Position of a field whose length is not known yet.
#[derive(Clone, Copy, Debug)]
pub struct Begun(usize);

impl Writer {
    /// Returns a writer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// Begins a length-delimited field.
    pub fn begin(&mut self, number: u8) -> Begun {
        let begun = Begun(self.0.len());
        self.0.extend([number << 3 | 2, 0]);
        begun
    }

    /// Ends a field and writes its length. A content of more than 127 bytes is moved to make room for a longer length.
    pub fn end(&mut self, begun: Begun) {
        let (length_at, start) = (begun.0 + 1, begun.0 + 2);
        match varint(self.0.len() - start) {
            ([length, ..], 1) => self.0[length_at] = length,
            (length, size) => _ = self.0.splice(length_at..start, length[..size].iter().copied()),
        }
    }

    /// Removes a field that was begun, with its content.
    pub fn undo(&mut self, begun: Begun) {
        self.0.truncate(begun.0);
    }

    /// Writes a length-delimited field.
    pub fn bytes(&mut self, number: u8, bytes: &[u8]) {
        let begun = self.begin(number);
        self.0.extend_from_slice(bytes);
        self.end(begun);
    }

    /// Writes a fixed 64-bit field.
    pub fn fixed64(&mut self, number: u8, bytes: [u8; 8]) {
        self.0.push(number << 3 | 1);
        self.0.extend_from_slice(&bytes);
    }

    /// Writes a varint of one byte.
    pub fn flag(&mut self, number: u8, flag: bool) {
        self.0.extend([number << 3, u8::from(flag)]);
    }

    /// Returns the encoded message.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Returns the varint encoding of a number, and its length.
#[expect(clippy::cast_possible_truncation, reason = "each byte takes the lowest seven bits")]
const fn varint(mut number: usize) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    let mut size = 0;
    while number >= 0x80 {
        bytes[size] = number as u8 | 0x80;
        number >>= 7;
        size += 1;
    }
    bytes[size] = number as u8;
    (bytes, size + 1)
}
