//! The outline of an inference request: everything but the data, which stays unread text.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// An inference request.
#[derive(Debug, Deserialize)]
pub(crate) struct Envelope<'a> {
    #[serde(default)]
    pub(crate) id: Option<String>,
    #[serde(default)]
    pub(crate) parameters: Option<Parameters>,
    #[serde(borrow)]
    pub(crate) inputs: Vec<Input<'a>>,
    #[serde(borrow, default)]
    pub(crate) outputs: Option<Vec<Output<'a>>>,
}

/// One input of a request.
#[derive(Debug, Deserialize)]
pub(crate) struct Input<'a> {
    #[serde(borrow)]
    pub(crate) name: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) datatype: Cow<'a, str>,
    pub(crate) shape: Vec<i64>,
    #[serde(default)]
    pub(crate) parameters: Option<Parameters>,
    #[serde(borrow, default)]
    pub(crate) data: Option<&'a RawValue>,
}

/// One output that a request asks for.
#[derive(Debug, Deserialize)]
pub(crate) struct Output<'a> {
    #[serde(borrow)]
    pub(crate) name: Cow<'a, str>,
    #[serde(default)]
    pub(crate) parameters: Option<Parameters>,
}

/// The parameters that mean something here; others are passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parameters {
    /// Bytes of this input's data after the JSON.
    pub(crate) binary_data_size: Option<u64>,
    /// Whether this output is wanted as binary data.
    pub(crate) binary_data: Option<bool>,
    /// Whether outputs are wanted as binary data unless they say otherwise.
    pub(crate) binary_data_output: Option<bool>,
    /// Whether `classification`, which Triton knows and this server does not, was asked for.
    pub(crate) classification: bool,
}

impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Wanted;
        impl<'de> Visitor<'de> for Wanted {
            type Value = Parameters;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of parameters")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parameters, A::Error> {
                let mut found = Parameters::default();
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    match &*key {
                        "binary_data_size" => found.binary_data_size = Some(map.next_value()?),
                        "binary_data" => found.binary_data = Some(map.next_value()?),
                        "binary_data_output" => found.binary_data_output = Some(map.next_value()?),
                        "classification" => {
                            map.next_value::<IgnoredAny>()?;
                            found.classification = true;
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(found)
            }
        }
        deserializer.deserialize_map(Wanted)
    }
}
