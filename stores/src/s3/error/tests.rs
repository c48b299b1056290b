use super::*;

fn answer(status: u16, code: &str) -> Seen {
    let code = (!code.is_empty()).then(|| code.to_owned());
    Seen { status: Some(status), code, ..Seen::default() }
}

#[test]
fn every_answer_means_what_a_caller_may_do_about_it() {
    for (status, code, class) in [
        (408, "", Class::Transient),
        (500, "InternalError", Class::Transient),
        (502, "", Class::Transient),
        (503, "", Class::Transient),
        (504, "", Class::Transient),
        (520, "", Class::Transient),
        (400, "RequestTimeout", Class::Transient),
        (408, "RequestCanceled", Class::Transient),
        (403, "RequestTimeTooSkewed", Class::Transient),
        (200, "InternalError", Class::Transient),
        (200, "", Class::Transient),
        (429, "", Class::Throttled),
        (503, "SlowDown", Class::Throttled),
        (400, "ThrottlingException", Class::Throttled),
        (409, "ConditionalRequestConflict", Class::Raced),
        (409, "OperationAborted", Class::Raced),
        (412, "PreconditionFailed", Class::Conflict),
        (412, "", Class::Doubtful(Doubt::Conflict)),
        (412, "Unknown", Class::Doubtful(Doubt::Conflict)),
        (400, "BadDigest", Class::Corrupted),
        (400, "XAmzContentSHA256Mismatch", Class::Corrupted),
        (400, "InvalidDigest", Class::Corrupted),
        (400, "ExpiredToken", Class::Expired),
        (403, "AccessDenied", Class::Misconfigured(NO_RIGHT)),
        (403, "", Class::Misconfigured(NO_RIGHT)),
        (403, "InvalidAccessKeyId", Class::Misconfigured(BAD_KEY)),
        (403, "SignatureDoesNotMatch", Class::Misconfigured(BAD_KEY)),
        (404, "NoSuchBucket", Class::Misconfigured(NO_BUCKET)),
        (404, "NoSuchKey", Class::Missing),
        (404, "NoSuchVersion", Class::Missing),
        (404, "", Class::Doubtful(Doubt::Missing)),
        (404, "NotFound", Class::Doubtful(Doubt::Missing)),
        (404, "Unknown", Class::Doubtful(Doubt::Missing)),
        (301, "PermanentRedirect", Class::Misconfigured(OTHER_REGION)),
        (400, "AuthorizationHeaderMalformed", Class::Misconfigured(OTHER_REGION)),
        (403, "InvalidObjectState", Class::Misconfigured(ARCHIVED)),
        (501, "NotImplemented", Class::Misconfigured(LACKS)),
        (416, "InvalidRange", Class::Range),
        (416, "", Class::Doubtful(Doubt::Range)),
        (507, "", Class::Full),
        (400, "InvalidArgument", Class::Unsupported),
        (400, "KMS.DisabledException", Class::Misconfigured(NO_KMS_KEY)),
        (400, "KMS.NotFoundException", Class::Misconfigured(NO_KMS_KEY)),
        (400, "", Class::Transient),
        (400, "Unknown", Class::Transient),
        (418, "", Class::Transient),
    ] {
        assert_eq!(answer(status, code).class(), class, "{status} {code}");
    }
}

#[test]
fn only_a_store_that_cannot_be_asked_is_believed_unseen() {
    let way = Seen::broken_off("cut".to_owned());
    let page = Seen::no_answer_of_s3("a page".to_owned());
    for (seen, unseen) in [
        (answer(503, "SlowDown"), Unseen::Now),
        (answer(429, ""), Unseen::Now),
        (answer(500, "InternalError"), Unseen::Now),
        (answer(504, ""), Unseen::Now),
        (answer(400, "ExpiredToken"), Unseen::Now),
        (way, Unseen::Now),
        (answer(403, "AccessDenied"), Unseen::NoRight),
        (answer(403, ""), Unseen::NoStore),
        (answer(404, "NoSuchBucket"), Unseen::NoStore),
        (answer(404, "NotFound"), Unseen::NoStore),
        (answer(301, ""), Unseen::NoStore),
        (answer(200, ""), Unseen::NoStore),
        (answer(400, "InvalidArgument"), Unseen::NoStore),
        (page, Unseen::NoStore),
    ] {
        assert_eq!(Unseen::of(&seen.clone().into_error("list".to_owned(), None)), unseen, "{seen:?}");
    }
    assert!(is_judged_by_form(401) && is_judged_by_form(403));
}

#[test]
fn a_wish_to_wait_is_bounded_whatever_the_server_says() {
    let most = u64::MAX.to_string();
    for (millis, seconds, expected) in [
        (None, None, None),
        (None, Some("7"), Some(7000)),
        (Some("250"), Some("7"), Some(250)),
        (Some("soon"), Some("7"), Some(7000)),
        (None, Some("Fri, 20 Nov 2026 02:41:07 GMT"), None),
        (None, Some("-1"), None),
        (None, Some(most.as_str()), Some(600_000)),
        (Some(most.as_str()), None, Some(600_000)),
    ] {
        let expected = expected.map(Duration::from_millis);
        assert_eq!(retry_after(millis, seconds), expected, "{millis:?} {seconds:?}");
    }
}

#[test]
fn a_time_out_is_told_apart_from_other_failures_of_the_way() {
    let late = Seen::timed_out("there was no answer for 30 s".to_owned()).into_error("list".to_owned(), None);
    assert!(late.is_transient() && late.is_timeout(), "{late:?}");
    assert_eq!(Unseen::of(&late), Unseen::Now);
    let broken = Seen::broken_off("reset".to_owned()).into_error("list".to_owned(), None);
    assert!(broken.is_transient() && !broken.is_timeout(), "{broken:?}");
}

#[test]
fn a_status_alone_says_nothing_about_an_object() {
    let key: ObjectKey = "log/1".parse().unwrap();
    for (status, doubt) in [(404, Doubt::Missing), (412, Doubt::Conflict), (416, Doubt::Range)] {
        for about in [Some(&key), None] {
            let error = answer(status, "").into_error("read log/1".to_owned(), about);
            assert!(matches!(&error, StoreError::Transient { source, .. } if source.to_string().contains("proxy")));
            assert_eq!(Doubt::of(&error), Some(doubt), "{status} {about:?}");
        }
    }
    assert_eq!(Doubt::of(&answer(404, "NoSuchKey").into_error("read log/1".to_owned(), Some(&key))), None);
    assert_eq!(Doubt::of(&answer(503, "").into_error("read log/1".to_owned(), Some(&key))), None);
}

#[test]
fn an_error_names_the_status_the_code_and_the_message_on_one_bounded_line() {
    let mut seen = answer(503, "SlowDown");
    assert_eq!(seen.to_string(), "503 SlowDown");
    seen.message = format!("two\nlines{}", "x".repeat(5000));
    let text = seen.to_string();
    assert!(text.starts_with("503 SlowDown: two lines") && text.len() < 400, "{text}");
}

#[test]
fn a_bucket_in_another_region_is_named_with_the_region_that_has_it() {
    let seen = Seen { bucket_region: Some("eu-west-3".to_owned()), ..answer(301, "PermanentRedirect") };
    let StoreError::Misconfigured { advice, .. } = seen.into_error("list".to_owned(), None) else {
        panic!("not misconfigured")
    };
    assert!(advice.contains("`eu-west-3`"), "{advice}");
}

#[test]
fn a_lost_race_between_two_writers_is_asked_again_at_once_and_is_no_sign_of_a_sick_region() {
    let error = answer(409, "ConditionalRequestConflict").into_error("write".to_owned(), None);
    let soon = Duration::from_millis(500);
    assert!(matches!(error, StoreError::Throttled { retry_after: Some(wait), .. } if wait < soon), "{error:?}");
}
