//! Tokens of pages and of streams.

use jobtrack::{
    domain::{ANYONE, ChangeId, Cursor, Filter, Identity, JobId, Order, Owners, Timestamp},
    watch::{JobToken, JobsToken},
};
use proptest::prelude::*;
use uuid::Uuid;

proptest! {
    #[test]
    fn a_page_token_is_for_its_filter_and_caller(micros in any::<i64>(), name in "[A-Za-z0-9._:-]{1,128}", kind in "[a-z]{0,5}", owner in "[a-z]{0,5}") {
        let filter = Filter { kind: kind.clone(), ..Filter::default() };
        let place = Cursor { create_time: Timestamp::from_micros(micros), id: JobId::parse(&name).expect("valid") };
        let digest = filter.digest(&ANYONE);
        let token = place.to_token(digest);
        prop_assert_eq!(Cursor::from_token(&token, Order::Newest.bind(digest)), Some(place));
        prop_assert_eq!(Cursor::from_token(&token, Order::Oldest.bind(digest)), None);
        let somebody = Identity { name: kind.clone(), ..ANYONE.clone() };
        prop_assert_eq!(Cursor::from_token(&token, filter.digest(&somebody)).is_some(), kind.is_empty());
        let other = Filter { owners: Owners::one(owner.clone()), ..filter.clone() };
        prop_assert_eq!(Cursor::from_token(&token, other.digest(&ANYONE)), None);
        let swapped = Filter { kind: owner.clone(), owners: Owners::one(kind.clone()), ..Filter::default() };
        prop_assert_eq!(swapped.digest(&ANYONE) == other.digest(&ANYONE), kind == owner);
    }

    #[test]
    fn resume_tokens_are_read_as_written(epoch: u64, revision in 1..i64::MAX, process: u64, counter: u64, position: Option<u64>) {
        let id = JobId::parse("a.b:c").expect("valid");
        let token = JobToken { epoch, revision, change_id: ChangeId { process, counter }, id };
        prop_assert_eq!(JobToken::decode(&token.encode()), Some(token));
        let token = JobsToken { epoch, position, scope: Uuid::new_v4() };
        prop_assert_eq!(JobsToken::decode(&token.encode()), Some(token));
    }

    #[test]
    fn no_text_makes_a_token_panic(text in "\\PC*", dotted in "[0-9a-f.]{0,60}") {
        for token in [text, dotted] {
            _ = JobToken::decode(&token);
            _ = JobsToken::decode(&token);
            _ = Cursor::from_token(&token, Filter::default().digest(&ANYONE));
        }
    }
}
