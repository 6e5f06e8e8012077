//! What serde says of a value of the wrong shape, in words of the API instead of Rust's: in bodies, queries and messages.

/// The words, and the field that they name.
pub fn told(error: &str) -> (String, Option<String>) {
    let error = error
        .rsplit_once(" at line ")
        .map_or(error, |(words, _)| words);
    for (start, words) in [
        ("missing field `", "must be given"),
        ("duplicate field `", "stands twice"),
    ] {
        if let Some(name) = error.strip_prefix(start).and_then(quoted) {
            return (words.to_owned(), Some(name.to_owned()));
        }
    }
    if let Some(rest) = error.strip_prefix("unknown field `") {
        let name = quoted(rest).unwrap_or_default();
        return (error.to_owned(), Some(name.to_owned()));
    }
    let words = shape(error).or_else(|| unread(error).map(str::to_owned));
    (words.unwrap_or_else(|| error.to_owned()), None)
}

/// What parsers of words in a query say.
fn unread(error: &str) -> Option<&'static str> {
    const NUMBER: &str = "must be a whole number from 0, not too large";
    const TIME: &str = "must be a time as RFC 3339 writes it, such as 2026-01-31T12:00:00Z";
    Some(match error {
        "invalid digit found in string"
        | "cannot parse integer from empty string"
        | "number too large to fit in target type"
        | "number too small to fit in target type" => NUMBER,
        "provided string was not `true` or `false`" => "must be true or false",
        "input contains invalid characters"
        | "premature end of input"
        | "input is out of range"
        | "trailing input"
        | "input is not enough for unique date and time" => TIME,
        "unexpected end of hex escape" | "lone leading surrogate in hex escape" => {
            "must not hold half of a surrogate pair"
        }
        "number out of range" => "must be a number that 64 bits hold",
        _ if error.starts_with("UUID parsing failed") => "must be a UUID",
        _ => return None,
    })
}

fn quoted(rest: &str) -> Option<&str> {
    rest.split('`').next()
}

/// `invalid type: X, expected Y` and its like.
fn shape(error: &str) -> Option<String> {
    if let Some(rest) = error.strip_prefix("unknown variant `") {
        let (_, known) = rest.split_once("`, expected ")?;
        let known = known.strip_prefix("one of ").unwrap_or(known);
        return Some(format!("must be one of {}", known.replace(" or ", ", ")));
    }
    let rest = ["invalid type: ", "invalid value: "]
        .iter()
        .find_map(|start| error.strip_prefix(start))?;
    let (found, expected) = rest.rsplit_once(", expected ")?;
    Some(format!("must be {}, not {}", wanted(expected), seen(found)))
}

fn wanted(expected: &str) -> String {
    let first = expected.split(' ').next().unwrap_or_default();
    match (expected, first) {
        ("a map", _) | (_, "struct") => "an object".to_owned(),
        ("a sequence", _) | (_, "tuple") => "an array".to_owned(),
        ("a boolean", _) => "true or false".to_owned(),
        ("unit", _) => "null".to_owned(),
        ("u8" | "u16" | "u32" | "u64" | "usize" | "nonzero u32", _) => {
            "a whole number from 0, not too large".to_owned()
        }
        ("i8" | "i16" | "i32" | "i64", _) => "a whole number, not too large".to_owned(),
        ("f32" | "f64", _) => "a number".to_owned(),
        (_, "enum" | "variant") => "one of its words".to_owned(),
        _ => expected.to_owned(),
    }
}

fn seen(found: &str) -> String {
    match found {
        "map" => "an object".to_owned(),
        "sequence" => "an array".to_owned(),
        "unit" | "unit value" | "Option value" => "null".to_owned(),
        _ => found
            .replacen("floating point", "number", 1)
            .replacen("integer", "number", 1)
            .replace('`', ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_s_words_become_the_api_s() {
        for (error, words, field) in [
            (
                "invalid type: string \"x\", expected struct Register at line 1 column 3",
                "must be an object, not string \"x\"",
                None,
            ),
            (
                "invalid type: integer `5`, expected a string",
                "must be a string, not number 5",
                None,
            ),
            (
                "invalid value: integer `-1`, expected u32",
                "must be a whole number from 0, not too large, not number -1",
                None,
            ),
            (
                "invalid type: null, expected a sequence",
                "must be an array, not null",
                None,
            ),
            (
                "unknown variant `x`, expected one of `a`, `b`, `c`",
                "must be one of `a`, `b`, `c`",
                None,
            ),
            (
                "unknown variant `x`, expected `a` or `b`",
                "must be one of `a`, `b`",
                None,
            ),
            (
                "duplicate field `name` at line 1 column 20",
                "stands twice",
                Some("name"),
            ),
            ("missing field `name`", "must be given", Some("name")),
            (
                "invalid type: floating point `1.5`, expected i64",
                "must be a whole number, not too large, not number 1.5",
                None,
            ),
            (
                "UUID parsing failed: invalid length: found 3",
                "must be a UUID",
                None,
            ),
        ] {
            assert_eq!(told(error), (words.to_owned(), field.map(str::to_owned)));
        }
    }
}
