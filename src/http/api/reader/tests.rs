use std::cell::Cell;

use proptest::{collection::vec, prelude::*, sample::select, strategy::Union, test_runner::TestRunner};
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor};

use super::*;
use crate::http::api::{message, schema::Schema};

fn input(method: &str) -> MessageDescriptor {
    let (input, _, _) = Schema::new().method(method).expect("a method");
    input
}

/// Reads the request of a method, and compares it with what prost-reflect reads.
fn read(input: &MessageDescriptor, json: &str) -> Option<()> {
    let mut encoded = Vec::new();
    Form::new(input.clone()).read(json.as_bytes(), None, &mut encoded)?;
    let decode = |encoded: &[u8]| DynamicMessage::decode(input.clone(), encoded).expect("a message");
    // Encoding a message again removes the fields that have their default value.
    let plain = |message: DynamicMessage| decode(&message.encode_to_vec());
    let reflected = message::from_text(input, json.as_bytes()).map(plain);
    // `assert_eq` would print both messages, which are long.
    assert!(reflected == Ok(plain(decode(&encoded))), "{json} is read as {encoded:x?}");
    Some(())
}

#[test]
fn common_forms_are_read_here() {
    for (method, json) in [
        ("UpdateProgress", "{}"),
        (
            "UpdateProgress",
            r#"{"worker": "w", "progress": {"completed": "3", "total": 4, "percent": 1, "message": "\n\u00e9"}}"#,
        ),
        ("UpdateProgress", r#"{"progress": {"percent": 0.5, "stageIndex": 1, "details": {"a": [null, {}]}}}"#),
        ("UpdateProgress", r#"{"progress": null, "sequence": 9223372036854775807, "worker": null, "attempt": 2}"#),
        ("CreateJob", r#"{"job_id": "a", "kind": "k", "labels": {"a": "1", "": ""}, "leaseTimeout": "1.5s"}"#),
        ("CreateJob", r#"{"metadata": {"": -0.25, "b": true, "n": {"m": "x"}}, "failWhenLost": true}"#),
        ("FailJob", r#"{"failure": {"code": 10, "message": "m"}, "retry": false}"#),
    ] {
        assert_eq!(read(&input(&format!("JobService/{method}")), json), Some(()), "{json}");
    }
    let purge = input("AdminService/PurgeJobs");
    assert_eq!(read(&purge, r#"{"states": ["SUCCEEDED", "STATE_FAILED"], "olderThan": "0s"}"#), Some(()));
}

#[test]
fn rare_forms_and_faults_are_left_to_prost_reflect() {
    for json in [
        "",
        "null",
        "{} {}",
        "{\"kind\": \"k\", \"kind\": null}",
        "{\"jobId\": \"a\", \"job_id\": \"a\"}",
        "{\"labels\": {\"a\": \"1\", \"a\": \"1\"}}",
        "{\"labels\": {\"a\": 1}}",
        "{\"metadata\": {\"a\": [{\"b\": 1, \"b\": 1}]}}",
        "{\"metadata\": []}",
        "{\"leaseTimeout\": \"-1s\"}",
        "{\"leaseTimeout\": \"315576000001s\"}",
        "{\"failWhenLost\": \"true\"}",
        "{\"kind\": 1}",
        "{\"unknown\": 1}",
    ] {
        let mut into = vec![7];
        let form = Form::new(input("JobService/CreateJob"));
        assert_eq!(form.read(json.as_bytes(), None, &mut into), None, "{json}");
        assert_eq!(into, [7], "{json}");
    }
}

#[test]
fn the_id_of_the_path_is_added_unless_the_body_has_one() {
    let form = Form::new(input("JobService/CancelJob"));
    let id = form.field("job_id").map(|field| (field, "a"));
    let read = |json: &str| {
        let mut into = Vec::new();
        form.read(json.as_bytes(), id, &mut into).map(|()| into)
    };
    assert_eq!(read("{}"), Some(b"\x0a\x01a".to_vec()));
    assert_eq!(read("{\"jobId\": \"a\"}"), None);
}

/// Values that a field of this form may have, and some that it may not.
fn values(form: &ValueForm) -> BoxedStrategy<String> {
    let texts = match form {
        ValueForm::Message(form) => return requests(form),
        ValueForm::Struct => return documents(),
        ValueForm::Bool => &["true", "false", "null"][..],
        ValueForm::Int32 | ValueForm::Int64 => {
            &["0", "-1", "\"1\"", "\"+1\"", "2147483648", "9223372036854775808", "2.0"]
        }
        ValueForm::Double => &["0", "0.5", "-1e3", "1e999", "\"NaN\"", "9007199254740993"],
        ValueForm::Text => &["\"\"", "\"a\"", "\"\\u00e9\\n\"", "\"\\ud800\"", "null", "1"],
        ValueForm::Enum(_) => &["\"RUNNING\"", "\"STATE_FAILED\"", "\"SUCCEEDED\"", "\"x\"", "2", "null"],
        ValueForm::Timestamp => &["\"2026-01-01T00:00:00Z\"", "\"now\""],
        ValueForm::Duration => &["\"1s\"", "\"0.5s\"", "\"-0.5s\"", "\"315576000000.5s\"", "\"1\"", "1", "null"],
        ValueForm::Other(_) => &["null", "{}", "1"],
    };
    select(texts).prop_map(str::to_owned).boxed()
}

fn documents() -> BoxedStrategy<String> {
    let leaf = select(&["null", "true", "0.1", "-1", "\"\"", "\"a\\n\"", "{}", "[]"][..]).prop_map(str::to_owned);
    let inner = leaf.prop_recursive(3, 12, 3, |inner| {
        let list = vec(inner.clone(), 0..3).prop_map(|values| format!("[{}]", values.join(",")));
        prop_oneof![list, objects(vec((select(&["a", "b", "c", ""][..]), inner), 0..3))]
    });
    objects(vec((select(&["a", "b", "c", "d", "e"][..]), inner), 0..3)).boxed()
}

fn objects(members: impl Strategy<Value = Vec<(&'static str, String)>>) -> impl Strategy<Value = String> {
    members.prop_map(|members| {
        let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
        format!("{{{}}}", members.join(", "))
    })
}

/// Text that is a request of this form, or nearly one.
fn requests(form: &Form) -> BoxedStrategy<String> {
    let member = |field: &Field| {
        let value = values(&field.value);
        let value = match field.shape {
            Shape::Single => value,
            Shape::List => vec(value, 0..3).prop_map(|values| format!("[{}]", values.join(","))).boxed(),
            Shape::Map => objects(vec((select(&["a", "b", "c"][..]), value), 0..2)).boxed(),
        };
        (select(field.names.to_vec()), value).prop_map(|(name, value)| format!("\"{name}\": {value}")).boxed()
    };
    let members: Vec<_> = form.fields.iter().flatten().map(member).collect();
    let members = vec(Union::new(members), 0..4);
    members.prop_map(|members| format!("{{{}}}", members.join(", "))).boxed()
}

#[test]
fn what_is_read_here_is_what_prost_reflect_reads() {
    let schema = Schema::new();
    for method in ["JobService/CreateJob", "JobService/UpdateProgress", "JobService/FailJob", "AdminService/PurgeJobs"]
    {
        let (input, _, _) = schema.method(method).expect("a method");
        let mut runner = TestRunner::default();
        let (requests, count) = (requests(&Form::new(input.clone())), Cell::new(0));
        let checked = runner.run(&requests, |json: String| {
            count.set(count.get() + usize::from(read(&input, &json).is_some()));
            Ok(())
        });
        checked.unwrap_or_else(|failure| panic!("{method}: {failure}"));
        assert!(count.get() > 20, "{method}: only {} requests are read here", count.get());
    }
}
