//! What the description of the API says about fields whose types do not say it.

use utoipa::openapi::schema::{Array, ArrayBuilder, ArrayItems, Object, ObjectBuilder, OneOfBuilder, Type};
use utoipa::openapi::{Ref, Schema};

pub(crate) fn breaker() -> Object {
    one_of("Its breaker.", ["closed", "half-open", "open"])
}

pub(crate) fn writers() -> Object {
    one_of("How many may write there: one where conditional writes do not work.", ["many", "one"])
}

pub(crate) fn severity() -> Object {
    one_of("How grave it is.", ["critical", "warning"])
}

/// By itself a pair would repeat the schema of its second half. It cannot hold a reference but in a choice.
pub(crate) fn named_holders() -> Array {
    let name = Schema::Object(ObjectBuilder::new().schema_type(Type::String).build());
    let holder = Schema::OneOf(OneOfBuilder::new().item(Ref::from_schema_name("Holder")).build());
    let pair = ArrayBuilder::new().items(ArrayItems::False).prefix_items([name, holder]);
    let all = ArrayBuilder::new().description(Some("Every region by name, in the order of the configuration."));
    all.items(pair.min_items(Some(2)).max_items(Some(2))).build()
}

fn one_of<const N: usize>(description: &str, words: [&str; N]) -> Object {
    let text = ObjectBuilder::new().schema_type(Type::String).description(Some(description));
    text.enum_values(Some(words)).build()
}
