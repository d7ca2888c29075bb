//! What `params::parse` accepts and how it refuses, as a table of sentences.

use super::{Inert, parse, parse_beside, refuse};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Deserialize, PartialEq)]
struct Create {
    name: String,
    num_blocks: u64,
    #[serde(default)]
    block_size: Option<u32>,
    #[serde(default)]
    readonly: bool,
    #[serde(default)]
    kind: Option<Kind>,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    address: Option<Address>,
    #[serde(default)]
    priority: i8,
    #[serde(default)]
    free: Option<Value>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Read,
    Write,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Address {
    traddr: String,
    port: u16,
}

const INERT: &[Inert] = &[Inert::flag("md_interleave", false), Inert::number("dif_type", 0), Inert::text("crypto", "none")];

/// The defaults, with `more` put over them.
fn read(more: Value) -> Result<Create, String> {
    let mut all = json!({"name": "d0", "num_blocks": 8});
    for (name, value) in more.as_object().expect("an object") {
        all[name] = value.clone();
    }
    parse_beside(Some(&all), INERT).map_err(|error| {
        assert_eq!(error.code, -32602);
        error.message
    })
}

#[test]
fn parameters_that_fit_are_read() {
    let create = read(json!({
        "block_size": 4096, "readonly": true, "kind": "write", "names": ["a", "b"],
        "address": {"traddr": "x", "port": 1}, "priority": -3, "free": [1, {"a": null}],
    }));
    let expected = Create {
        name: "d0".into(),
        num_blocks: 8,
        block_size: Some(4096),
        readonly: true,
        kind: Some(Kind::Write),
        names: vec!["a".into(), "b".into()],
        address: Some(Address { traddr: "x".into(), port: 1 }),
        priority: -3,
        free: Some(json!([1, {"a": null}])),
    };
    assert_eq!(create, Ok(expected));
}

#[test]
fn whole_numbers_may_be_written_as_decimals_or_with_an_exponent() {
    let written: Value = serde_json::from_str(r#"{"num_blocks": 1e3, "block_size": 512.0}"#).expect("JSON");
    let create = read(written).expect("accepted");
    assert_eq!((create.num_blocks, create.block_size), (1000, Some(512)));
    let create = read(json!({"num_blocks": u64::MAX})).expect("accepted");
    assert_eq!(create.num_blocks, u64::MAX);
}

#[test]
fn every_refusal_names_the_parameter_the_value_and_what_would_do() {
    let cases = [
        (json!({"block_size": -1}), "parameter 'block_size' is -1; it must be a whole number from 0 to 4294967295"),
        (json!({"block_size": 4294967296_u64}), "parameter 'block_size' is 4294967296; it must be a whole number from 0 to 4294967295"),
        (json!({"num_blocks": 1.5}), "parameter 'num_blocks' is 1.5; it must be a whole number from 0 to 18446744073709551615"),
        (json!({"num_blocks": 1e300}), "parameter 'num_blocks' is 1e+300; it must be a whole number from 0 to 18446744073709551615"),
        (json!({"num_blocks": "8"}), "parameter 'num_blocks' is \"8\"; it must be a whole number from 0 to 18446744073709551615"),
        (json!({"priority": 128}), "parameter 'priority' is 128; it must be a whole number from -128 to 127"),
        (json!({"name": 7}), "parameter 'name' is 7; it must be a string"),
        (json!({"name": null}), "parameter 'name' is null; it must be a string"),
        (json!({"block_size": null}), "parameter 'block_size' is null; it must be a whole number from 0 to 4294967295"),
        (json!({"readonly": 1}), "parameter 'readonly' is 1; it must be true or false"),
        (json!({"kind": "erase"}), "parameter 'kind' is \"erase\"; it must be one of \"read\", \"write\""),
        (json!({"kind": 3}), "parameter 'kind' is 3; it must be one of \"read\", \"write\""),
        (json!({"names": "a"}), "parameter 'names' is \"a\"; it must be an array"),
        (json!({"names": ["a", 2]}), "parameter 'names[1]' is 2; it must be a string"),
        (json!({"address": []}), "parameter 'address' is []; it must be an object"),
        (json!({"address": {"traddr": "x"}}), "parameter 'address.port' is missing; it must be given"),
        (
            json!({"address": {"traddr": "x", "port": 65536}}),
            "parameter 'address.port' is 65536; it must be a whole number from 0 to 65535",
        ),
        (
            json!({"address": {"traddr": "x", "port": 1, "pot": 2}}),
            "parameter 'address.pot' (given as 2) is unknown; those accepted are traddr, port",
        ),
        (
            json!({"blocksize": 512}),
            "parameter 'blocksize' (given as 512) is unknown; those accepted are name, num_blocks, \
          block_size, readonly, kind, names, address, priority, free",
        ),
    ];
    for (given, expected) in cases {
        assert_eq!(read(given), Err(expected.to_owned()));
    }
}

#[test]
fn a_missing_parameter_is_named() {
    let error = parse::<Create>(Some(&json!({"name": "d0"}))).expect_err("missing");
    assert_eq!(error.message, "parameter 'num_blocks' is missing; it must be given");
    let error = parse::<Create>(None).expect_err("missing");
    assert_eq!(error.message, "parameter 'name' is missing; it must be given");
}

#[test]
fn a_parameter_of_an_unbuilt_feature_is_accepted_at_its_default_only() {
    let create = read(json!({"md_interleave": false, "dif_type": 0, "crypto": "none"}));
    assert!(create.is_ok(), "{create:?}");
    let cases = [
        (json!({"md_interleave": true}), "'md_interleave' is true; it must be false"),
        (json!({"md_interleave": null}), "'md_interleave' is null; it must be false"),
        (json!({"dif_type": 1}), "'dif_type' is 1; it must be 0"),
        (json!({"crypto": "aes"}), "'crypto' is \"aes\"; it must be \"none\""),
    ];
    for (given, expected) in cases {
        let expected = format!("parameter {expected}, because what it asks for is not built");
        assert_eq!(read(given), Err(expected));
    }
}

#[test]
fn parameters_come_by_name() {
    let error = parse::<Create>(Some(&json!(["d0", 8]))).expect_err("by position");
    assert_eq!(error.code, -32602);
    assert!(error.message.starts_with("the parameters are [\"d0\",8]; they must be an object"));
}

#[test]
fn a_method_without_parameters_accepts_an_empty_object_and_no_other() {
    assert_eq!(super::none(None), Ok(()));
    assert_eq!(super::none(Some(&json!({}))), Ok(()));
    let error = super::none(Some(&json!({"name": "d0"}))).expect_err("refused");
    assert_eq!(error.message, "parameter 'name' (given as \"d0\") is unknown; there are no parameters here");
}

#[test]
fn a_type_of_ones_own_keeps_its_reason() {
    #[derive(Debug)]
    struct Even;
    impl<'de> Deserialize<'de> for Even {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            match u64::deserialize(deserializer)? % 2 {
                0 => Ok(Self),
                _ => Err(serde::de::Error::custom("odd")),
            }
        }
    }
    #[derive(Debug, Deserialize)]
    struct Params {
        #[serde(rename = "count")]
        _count: Even,
    }
    assert!(parse::<Params>(Some(&json!({"count": 2}))).is_ok());
    let error = parse::<Params>(Some(&json!({"count": 3}))).expect_err("odd");
    assert_eq!(error.message, "parameter 'count' is 3, which will not do: odd");
}

#[test]
fn a_long_value_is_cut_off_in_the_message() {
    let error = refuse("name", "\u{e4}".repeat(5000), "short");
    assert!(error.message.len() < 300, "{}", error.message.len());
    assert!(error.message.ends_with("...; it must be short"), "{}", error.message);
}
