//! Documents are parsed, stored and encoded as protobuf's own types would be.

use std::collections::BTreeMap;

use jobtrack::domain::{Document, Illegal, MAX_DEPTH};
use prop::collection::{btree_map, vec};
use proptest::prelude::*;
use prost::Message;
use prost_types::{ListValue, Struct, Value, value::Kind};

/// Generates a value that is nested at most `depth` deep; sometimes one that no document may contain.
fn value(depth: u32) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        4 => any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Kind::NumberValue),
        1 => prop_oneof![Just(0.0), Just(-0.0), Just(1e300), Just(5e-324), Just(9_007_199_254_740_993.0), Just(-7.0)]
            .prop_map(Kind::NumberValue),
        4 => any::<String>().prop_map(Kind::StringValue),
        2 => any::<bool>().prop_map(Kind::BoolValue),
        2 => Just(Kind::NullValue(0)),
    ];
    let leaf = prop_oneof![
        300 => leaf.prop_map(Some),
        1 => Just(None),
        1 => prop_oneof![Just(f64::NAN), Just(f64::INFINITY)].prop_map(|number| Some(Kind::NumberValue(number))),
        1 => (1..9).prop_map(|null| Some(Kind::NullValue(null))),
    ];
    leaf.prop_map(|kind| Value { kind }).prop_recursive(depth, 64, 4, |inner| {
        let list = vec(inner.clone(), 0..4).prop_map(|values| Kind::ListValue(ListValue { values }));
        let object = btree_map("[a-c]{0,2}|.*", inner, 0..4).prop_map(|fields| Kind::StructValue(Struct { fields }));
        prop_oneof![list, object].prop_map(|kind| Value { kind: Some(kind) })
    })
}

fn structure() -> impl Strategy<Value = Struct> {
    // Some are nested deeper than allowed.
    let deep = (value(2), 0..MAX_DEPTH * 2).prop_map(|(innermost, depth)| {
        let object = |value| Struct { fields: BTreeMap::from([("k".to_owned(), value)]) };
        (0..depth).fold(innermost, |value, level| {
            let list = || Kind::ListValue(ListValue { values: vec![value.clone()] });
            Value { kind: Some(if level % 3 == 1 { list() } else { Kind::StructValue(object(value.clone())) }) }
        })
    });
    let value = prop_oneof![3 => value(6).boxed(), 1 => deep.boxed()];
    btree_map("[a-c]{0,2}|.*", value, 0..5).prop_map(|fields| Struct { fields })
}

/// Returns whether a document of these fields is legal, as computed with protobuf's own types.
fn is_legal(from: &Struct, depth: usize) -> bool {
    depth > 0 && from.fields.values().all(|value| is_legal_value(value, depth - 1))
}

fn is_legal_value(value: &Value, depth: usize) -> bool {
    match &value.kind {
        None => false,
        Some(Kind::NumberValue(number)) => number.is_finite(),
        Some(Kind::StructValue(inner)) => is_legal(inner, depth),
        Some(Kind::ListValue(list)) => depth > 0 && list.values.iter().all(|value| is_legal_value(value, depth - 1)),
        Some(Kind::NullValue(_) | Kind::BoolValue(_) | Kind::StringValue(_)) => true,
    }
}

/// Returns the same value with nulls in their canonical form.
fn normal(mut value: Value) -> Value {
    match &mut value.kind {
        Some(Kind::NullValue(null)) => *null = 0,
        Some(Kind::StructValue(inner)) => *inner = normal_struct(std::mem::take(inner)),
        Some(Kind::ListValue(list)) => list.values = std::mem::take(&mut list.values).into_iter().map(normal).collect(),
        _ => {}
    }
    value
}

fn normal_struct(from: Struct) -> Struct {
    Struct { fields: from.fields.into_iter().map(|(key, value)| (key, normal(value))).collect() }
}

fn decoded(document: &Document) -> Struct {
    Struct::decode(&**document.encoded()).expect("a document is an encoded Struct")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn legal_documents_keep_their_bytes(from in structure()) {
        let encoded = from.encode_to_vec();
        match Document::parse(encoded.clone()) {
            Ok(document) => {
                prop_assert!(is_legal(&from, MAX_DEPTH));
                prop_assert_eq!(decoded(&document), normal_struct(from.clone()));
                prop_assert!(document.encoded().len() <= encoded.len());
                if normal_struct(from.clone()) == from {
                    prop_assert_eq!(&**document.encoded(), encoded);
                }
            }
            Err(error) => prop_assert!(error != Illegal::Malformed && !is_legal(&from, MAX_DEPTH), "{error}"),
        }
    }

    #[test]
    fn json_keeps_every_byte(from in structure()) {
        let Ok(document) = Document::parse(from.encode_to_vec()) else { return Ok(()) };
        let json = serde_json::to_vec(&document).expect("it is made of text and numbers");
        let back: Document = serde_json::from_slice(&json).expect("it was written so");
        prop_assert_eq!(back, document);
        let tree: serde_json::Value = serde_json::from_slice(&json).expect("it is JSON");
        let from_tree: Document = serde_json::from_value(tree).expect("it is an object");
        prop_assert_eq!(decoded(&from_tree), normal_struct(from));
    }

    #[test]
    fn arbitrary_bytes_are_accepted_only_as_parsers_read_them(
        from in structure(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut encoded = from.encode_to_vec();
        for (at, byte) in damage {
            if !encoded.is_empty() {
                let at = at.index(encoded.len());
                encoded[at] = byte;
            }
        }
        if let Some(cut) = cut.filter(|_| !encoded.is_empty()) {
            encoded.truncate(cut.index(encoded.len()));
        }
        let theirs = Struct::decode(&*encoded);
        match (Document::parse(encoded), theirs) {
            (Ok(document), theirs) => {
                let theirs = theirs.expect("prost reads it");
                prop_assert!(is_legal(&theirs, MAX_DEPTH));
                prop_assert_eq!(decoded(&document), normal_struct(theirs));
                let again = Document::parse(document.encoded().to_vec());
                prop_assert_eq!(again, Ok(document));
            }
            // Includes an entry with two values, which parsers merge.
            (Err(_), _) => {}
        }
    }
}

/// Returns the bytes of a message with these fields, each with a tag and a length.
fn message(fields: &[(u8, &[u8])]) -> Vec<u8> {
    let field = |(number, bytes): &(u8, &[u8])| {
        let length = u8::try_from(bytes.len()).expect("a short field");
        [&[number << 3 | 2, length], *bytes].concat()
    };
    fields.iter().flat_map(field).collect()
}

const TRUE: &[u8] = &[0x20, 1];
const NULL: &[u8] = &[0x08, 0];

fn taken(encoded: Vec<u8>) -> Result<String, Illegal> {
    Document::parse(encoded).map(|document| format!("{document:?}"))
}

#[test]
fn unusual_encodings_are_canonicalized_or_rejected() {
    let entry = |fields: &[(u8, &[u8])]| message(&[(1, &message(fields))]);
    let of = |value: &[u8]| entry(&[(1, b"k"), (2, value)]);
    // The value before the key, an empty key, and unknown fields.
    assert_eq!(taken(entry(&[(2, TRUE), (1, b"k")])), Ok(r#"{"k":true}"#.to_owned()));
    assert_eq!(taken(entry(&[(1, b""), (2, TRUE)])), Ok(r#"{"":true}"#.to_owned()));
    assert_eq!(taken(entry(&[(2, NULL)])), Ok(r#"{"":null}"#.to_owned()));
    assert_eq!(taken([of(TRUE), message(&[(9, b"x")])].concat()), Ok(r#"{"k":true}"#.to_owned()));
    assert_eq!(taken(of(&[TRUE, &[0x3a, 1, 7]].concat())), Ok(r#"{"k":true}"#.to_owned()));
    // Varints with superfluous bytes, and varints out of range.
    assert_eq!(taken(of(&[0x20, 0x81, 0])), Ok(r#"{"k":true}"#.to_owned()));
    assert_eq!(taken(of(&[0x20, 7])), Ok(r#"{"k":true}"#.to_owned()));
    assert_eq!(taken(of(&[0x08, 3])), Ok(r#"{"k":null}"#.to_owned()));
    // Of two fields with one name both are kept, and the later one counts.
    let twice = taken([of(TRUE), of(NULL)].concat()).expect("a document");
    assert_eq!(twice, r#"{"k":true,"k":null}"#);
    let value: serde_json::Value = serde_json::from_str(&twice).expect("it is JSON");
    assert_eq!(value, serde_json::json!({"k": null}));
    // Cases in which a parser would merge two values, or choose one of them.
    assert_eq!(taken(of(&[TRUE, NULL].concat())), Err(Illegal::Twice));
    assert_eq!(taken(of(&[TRUE, TRUE].concat())), Err(Illegal::Twice));
    assert_eq!(taken(entry(&[(1, b"k"), (2, TRUE), (2, TRUE)])), Err(Illegal::Twice));
    assert_eq!(taken(entry(&[(1, b"k"), (1, b"k"), (2, TRUE)])), Err(Illegal::Twice));
    // No kind, and no value.
    assert_eq!(taken(of(&[])), Err(Illegal::NoKind));
    assert_eq!(taken(entry(&[(1, b"k")])), Err(Illegal::NoKind));
    assert_eq!(taken(of(&[0x3a, 1, 7])), Err(Illegal::NoKind));
    // Invalid UTF-8, and an invalid message.
    assert_eq!(taken(entry(&[(1, b"\xff"), (2, TRUE)])), Err(Illegal::Malformed));
    assert_eq!(taken(of(&[0x1a, 1, 0xff])), Err(Illegal::Malformed));
    assert_eq!(taken(of(&[0x28, 1])), Err(Illegal::Malformed));
    assert_eq!(taken(vec![0x0a, 9, 1]), Err(Illegal::Malformed));
}

#[test]
fn numbers_survive_json() {
    for number in [-0.0, 0.0, 1e300, 5e-324, f64::MAX, 9_007_199_254_740_993.0, 0.1, -1.0] {
        let value = Value { kind: Some(Kind::NumberValue(number)) };
        let encoded = Struct { fields: [("k".to_owned(), value)].into() }.encode_to_vec();
        let document = Document::parse(encoded.clone()).expect("a document");
        let json = serde_json::to_string(&document).expect("it is made of text and numbers");
        let back: Document = serde_json::from_str(&json).expect("it was written so");
        assert_eq!(&**back.encoded(), encoded, "{json}");
    }
    // People, and earlier versions, may have written whole numbers.
    let whole: Document = serde_json::from_str(r#"{"k":5}"#).expect("an object");
    assert_eq!(format!("{whole:?}"), r#"{"k":5.0}"#);
}
