//! Converts documents to and from JSON without an intermediate tree.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
    ser::{Error, SerializeMap, SerializeSeq},
};

use super::{
    Document, Illegal,
    check::{Kind, entry, items, kind, number},
    wire::Writer,
};

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Object(self.encoded()).serialize(serializer)
    }
}

impl Document {
    /// Returns a value that serializes as the JSON of an encoded Struct. The Struct need not be a legal document.
    pub const fn json_of(encoded: &[u8]) -> impl Serialize {
        Object(encoded)
    }
}

/// An encoded Struct.
struct Object<'a>(&'a [u8]);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for item in items(self.0) {
            let entry = item.and_then(entry).map_err(S::Error::custom)?;
            map.serialize_entry(entry.key, &Encoded(entry.value))?;
        }
        map.end()
    }
}

/// An encoded Value.
struct Encoded<'a>(&'a [u8]);

impl Serialize for Encoded<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (kind, _) = kind(self.0).map_err(S::Error::custom)?;
        match kind {
            Kind::Null => serializer.serialize_unit(),
            Kind::Number(number) => serializer.serialize_f64(number),
            Kind::Text(text) => serializer.serialize_str(text),
            Kind::Bool(flag) => serializer.serialize_bool(flag),
            Kind::Object(object) => Object(object).serialize(serializer),
            Kind::List(list) => {
                let mut values = serializer.serialize_seq(None)?;
                for value in items(list) {
                    values.serialize_element(&Encoded(value.map_err(S::Error::custom)?))?;
                }
                values.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut into = Writer::default();
        deserializer.deserialize_map(Fields(&mut into))?;
        Ok(Self(into.finish().into()))
    }
}

/// Encodes the fields of an object while they are parsed. Of two fields with the same name both are kept, and the later
/// one counts.
struct Fields<'a>(&'a mut Writer);

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        loop {
            let entry = self.0.begin(number::ITEMS);
            if map.next_key_seed(Key(self.0))?.is_none() {
                self.0.undo(entry);
                return Ok(());
            }
            map.next_value_seed(Value { into: self.0, number: number::VALUE })?;
            self.0.end(entry);
        }
    }
}

/// Writes the key of an entry, unless it is empty.
struct Key<'a>(&'a mut Writer);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<(), E> {
        if !key.is_empty() {
            self.0.bytes(number::KEY, key.as_bytes());
        }
        Ok(())
    }
}

/// Writes a value as the field with this number.
struct Value<'a> {
    into: &'a mut Writer,
    number: u8,
}

impl Value<'_> {
    fn write<E>(self, kind: impl FnOnce(&mut Writer) -> Result<(), E>) -> Result<(), E> {
        let value = self.into.begin(self.number);
        kind(self.into)?;
        self.into.end(value);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.write(|into| {
            into.flag(number::NULL, false);
            Ok(())
        })
    }

    fn visit_bool<E>(self, flag: bool) -> Result<(), E> {
        self.write(|into| {
            into.flag(number::BOOL, flag);
            Ok(())
        })
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<(), E> {
        if !number.is_finite() {
            return Err(E::custom(Illegal::NotFinite));
        }
        self.write(|into| {
            into.fixed64(number::NUMBER, number.to_le_bytes());
            Ok(())
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "all numbers of a Struct are doubles")]
    fn visit_i64<E: de::Error>(self, number: i64) -> Result<(), E> {
        self.visit_f64(number as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "all numbers of a Struct are doubles")]
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<(), E> {
        self.visit_f64(number as f64)
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.write(|into| {
            into.bytes(number::TEXT, text.as_bytes());
            Ok(())
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.write(|into| {
            let object = into.begin(number::OBJECT);
            Fields(into).visit_map(map)?;
            into.end(object);
            Ok(())
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        self.write(|into| {
            let list = into.begin(number::LIST);
            while values.next_element_seed(Value { into: &mut *into, number: number::ITEMS })?.is_some() {}
            into.end(list);
            Ok(())
        })
    }
}
