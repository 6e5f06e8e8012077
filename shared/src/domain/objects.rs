//! Objects in what comes from outside: serde's derived readers would also take an array of as many values in their order.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Read from an object and from nothing else.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OneObject(PhantomData))
    }
}

struct OneObject<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneObject<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

struct Objects<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Objects<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(Object(one)) = seq.next_element()? {
            all.push(one);
        }
        Ok(all)
    }
}

/// One object.
pub fn one<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Object::deserialize(from).map(|object| object.0)
}

/// One object; the default for `null`.
pub fn one_or_default<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(
    from: D,
) -> Result<T, D::Error> {
    let given = Option::<Object<T>>::deserialize(from)?;
    Ok(given.map(|object| object.0).unwrap_or_default())
}

/// An array of objects.
pub fn many<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    from.deserialize_seq(Objects(PhantomData))
}

/// An array of objects, or none.
pub fn perhaps_many<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Vec<T>>, D::Error> {
    let given = Option::<Vec<Object<T>>>::deserialize(from)?;
    Ok(given.map(|all| all.into_iter().map(|object| object.0).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    struct Inner {
        a: u8,
    }

    #[derive(Debug, Deserialize)]
    struct Outer {
        #[serde(deserialize_with = "one")]
        one: Inner,
        #[serde(default, deserialize_with = "one_or_default")]
        perhaps: Inner,
        #[serde(deserialize_with = "many")]
        many: Vec<Inner>,
        #[serde(default, deserialize_with = "perhaps_many")]
        some: Option<Vec<Inner>>,
    }

    #[test]
    fn an_array_is_no_object() {
        let read = |text: &str| {
            let mut json = serde_json::Deserializer::from_str(text);
            serde_path_to_error::deserialize::<_, Outer>(&mut json)
                .map_err(|error| error.path().to_string())
        };
        let fine = r#"{"one":{"a":1},"perhaps":null,"many":[{"a":2}],"some":[{"a":3}]}"#;
        let fine = read(fine).unwrap();
        assert_eq!((fine.one.a, fine.perhaps.a, fine.many[0].a), (1, 0, 2));
        assert_eq!(fine.some, Some(vec![Inner { a: 3 }]));
        for (text, place) in [
            (r#"{"one":[1],"many":[]}"#, "one"),
            (r#"{"one":{"a":1},"many":[{"a":1},[2]]}"#, "many[1]"),
            (r#"{"one":{"a":1},"many":{}}"#, "many"),
            (r#"{"one":{"a":1},"many":[],"perhaps":[1]}"#, "perhaps"),
            (r#"{"one":{"a":1},"many":[],"some":[[1]]}"#, "some[0]"),
            (r#"{"one":{"a":"x"},"many":[]}"#, "one.a"),
        ] {
            assert_eq!(read(text).unwrap_err(), place, "{text}");
        }
    }
}
