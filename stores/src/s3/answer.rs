//! What an answer of success must look like to be believed.
//!
//! Between this program and a store stand proxies, captive portals, load balancers and names that point to a web server today. Many of
//! them answer anything with 200 and a page. So an answer counts only if it is one that S3 gives to this request; everything else is
//! taken for a fault of the way, which is tried again and reported. Only answers of success are judged by their form: one that
//! refuses stays the refusal that it is, but for a page and for a status alone that say "not there" or "already there" (`confirm`). Source: Amazon S3 API Reference, PutObject,
//! GetObject, HeadObject, DeleteObject, ListObjectsV2.

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;

/// The head of an answer, and how long its body was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AnswerForm {
    pub(crate) status: u16,
    pub(crate) content_type: Option<String>,
    pub(crate) etag: Option<String>,
    pub(crate) has_modified: bool,
    /// Bytes of the body; `None` if it is read as a stream.
    pub(crate) body: Option<usize>,
}

/// What was asked for, as far as the answer's form depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To write an object: the answer is a head alone.
    Put,
    /// An object or a part of it.
    Get,
    /// What is known of an object.
    Head,
    /// To remove an object: the answer is a head alone.
    Delete,
    /// To lock an object: the answer is a head alone, without a tag.
    Lock,
    /// A document, which is judged by what it says.
    Document,
}

impl AnswerForm {
    /// Why this is no answer of S3 to what was asked; `None` if it can be one.
    pub(crate) fn fault(&self, asked: Asked) -> Option<String> {
        let statuses: &[u16] = match asked {
            Asked::Put | Asked::Head => &[200],
            Asked::Get => &[200, 206],
            Asked::Delete | Asked::Lock => &[200, 204],
            Asked::Document => &[200, 204],
        };
        if !statuses.contains(&self.status) {
            return Some(format!("status {} is no answer of S3 to this request", self.status));
        }
        let is_page = self.is_page();
        match asked {
            Asked::Put | Asked::Delete | Asked::Lock if self.body.unwrap_or(0) > 0 => {
                return Some(format!("the answer has a body of {} bytes, where S3 sends none", self.body.unwrap_or(0)));
            }
            // Some servers answer 204 with a type; one that answers 200 sends no page.
            Asked::Delete if is_page && self.status == 200 => {
                return Some("the answer is an HTML page".to_owned());
            }
            Asked::Get | Asked::Head | Asked::Document if is_page => {
                return Some("the answer is an HTML page".to_owned());
            }
            Asked::Get | Asked::Head if !self.has_modified => {
                return Some("the answer does not say when the object was written".to_owned());
            }
            _ => {}
        }
        match (asked, self.etag.as_deref()) {
            (Asked::Delete | Asked::Document | Asked::Lock, _) => None,
            (_, None | Some("" | "\"\"")) => Some("the answer has no ETag".to_owned()),
            (_, Some(tag)) if tag.starts_with("W/") => {
                Some(format!("the answer's ETag {tag:.40} is weak, as those of web servers are"))
            }
            _ => None,
        }
    }

    fn is_page(&self) -> bool {
        self.content_type.as_deref().is_some_and(is_page)
    }
}

/// Whether this type is that of a page for people. No object and no document of S3 has it.
pub(crate) fn is_page(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("text/html") || kind.eq_ignore_ascii_case("application/xhtml+xml")
}

/// Why a listing is none: it must say whether there is more, repeat what was asked, have nothing else, and tell the size of every
/// object. What a listing names is read, compared and deleted.
pub(crate) fn listing_fault(answer: &ListObjectsV2Output, prefix: &str) -> Option<String> {
    if answer.is_truncated.is_none() {
        return Some("the listing does not say whether there is more".to_owned());
    }
    if answer.prefix.as_deref().unwrap_or_default() != prefix {
        return Some("the listing is of another prefix".to_owned());
    }
    let is_stray = |object: &aws_sdk_s3::types::Object| object.key().is_some_and(|key| !key.starts_with(prefix));
    if answer.contents().iter().any(is_stray) {
        return Some("the listing has an object of another prefix".to_owned());
    }
    let lacks = |object: &aws_sdk_s3::types::Object| object.key.is_none() || object.size.is_none();
    answer.contents().iter().any(lacks).then(|| "the listing has an object without a name or a size".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(status: u16) -> AnswerForm {
        let etag = Some("\"d41d8cd98f00b204e9800998ecf8427e\"".to_owned());
        AnswerForm { status, content_type: None, etag, has_modified: true, body: Some(0) }
    }

    #[test]
    fn only_what_s3_answers_counts() {
        let etag = |text: &str| Some(text.to_owned());
        let page = || Some("text/html; charset=utf-8".to_owned());
        for (why, asked, form, is_fine) in [
            ("written", Asked::Put, form(200), true),
            (
                "some servers name a type and send nothing",
                Asked::Put,
                AnswerForm { content_type: page(), ..form(200) },
                true,
            ),
            ("a page", Asked::Put, AnswerForm { content_type: page(), body: Some(28), ..form(200) }, false),
            ("any body", Asked::Put, AnswerForm { body: Some(1), ..form(200) }, false),
            ("a weak tag", Asked::Put, AnswerForm { etag: etag("W/\"1f-abc\""), ..form(200) }, false),
            ("no tag", Asked::Put, AnswerForm { etag: None, ..form(200) }, false),
            ("an empty tag", Asked::Put, AnswerForm { etag: etag("\"\""), ..form(200) }, false),
            ("a tag without quotes", Asked::Put, AnswerForm { etag: etag("abc"), ..form(200) }, true),
            ("accepted for later", Asked::Put, form(202), false),
            ("nothing there", Asked::Put, form(204), false),
            ("read", Asked::Get, AnswerForm { body: None, ..form(200) }, true),
            ("a part", Asked::Get, AnswerForm { body: None, ..form(206) }, true),
            ("a page for an object", Asked::Get, AnswerForm { content_type: page(), body: None, ..form(200) }, false),
            ("generated just now", Asked::Get, AnswerForm { has_modified: false, body: None, ..form(200) }, false),
            ("looked at", Asked::Head, form(200), true),
            ("a page looked at", Asked::Head, AnswerForm { content_type: page(), ..form(200) }, false),
            ("a weak one", Asked::Head, AnswerForm { etag: etag("W/\"1\""), ..form(200) }, false),
            ("deleted", Asked::Delete, AnswerForm { etag: None, has_modified: false, ..form(204) }, true),
            ("a type and nothing", Asked::Delete, AnswerForm { content_type: page(), etag: None, ..form(200) }, false),
            ("deleted, with a type", Asked::Delete, AnswerForm { content_type: page(), etag: None, ..form(204) }, true),
            (
                "a page about deleting",
                Asked::Delete,
                AnswerForm { content_type: page(), body: Some(9), ..form(200) },
                false,
            ),
            ("locked", Asked::Lock, AnswerForm { etag: None, has_modified: false, ..form(200) }, true),
            (
                "locked, and some servers name a type and send nothing",
                Asked::Lock,
                AnswerForm { content_type: page(), etag: None, ..form(200) },
                true,
            ),
            ("a page about locks", Asked::Lock, AnswerForm { content_type: page(), body: Some(9), ..form(200) }, false),
            ("to be locked later", Asked::Lock, AnswerForm { etag: None, ..form(202) }, false),
            (
                "a document",
                Asked::Document,
                AnswerForm { etag: None, has_modified: false, body: Some(90), ..form(200) },
                true,
            ),
            ("a page", Asked::Document, AnswerForm { content_type: page(), body: Some(90), ..form(200) }, false),
        ] {
            assert_eq!(form.fault(asked).is_none(), is_fine, "{why}: {form:?}");
        }
    }

    #[test]
    fn an_empty_document_is_no_listing() {
        let listing = || ListObjectsV2Output::builder().is_truncated(false).prefix("a/");
        assert_eq!(listing_fault(&listing().build(), "a/"), None);
        assert!(listing_fault(&ListObjectsV2Output::builder().build(), "").is_some());
        assert!(listing_fault(&listing().build(), "b/").is_some());
        let object = aws_sdk_s3::types::Object::builder().key("a/1").build();
        assert!(listing_fault(&listing().contents(object).build(), "a/").is_some());
    }

    #[test]
    fn a_listing_of_one_prefix_has_no_object_of_another() {
        let listing = |key: &str| {
            let object = aws_sdk_s3::types::Object::builder().key(key).size(1).build();
            ListObjectsV2Output::builder().is_truncated(false).prefix("data/a/").contents(object).build()
        };
        assert_eq!(listing_fault(&listing("data/a/1"), "data/a/"), None);
        for key in ["data/b/1", "data/a", "log/1"] {
            assert!(listing_fault(&listing(key), "data/a/").is_some(), "{key}");
        }
    }
}
