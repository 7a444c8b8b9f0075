use serde_json::{Value, json};

use super::*;

fn verdict(filter: &str, object: &Value) -> Result<bool, String> {
    let filter: Filter = filter.parse().map_err(|error: FilterError| error.to_string())?;
    filter.matches(object).map_err(|error| error.to_string())
}

#[test]
fn the_reference_and_this_agree_on_every_vector() {
    let vectors: Vec<Value> =
        serde_json::from_str(include_str!("../../../tests/corpus/filter/vectors.json")).unwrap();
    assert_eq!(vectors.len(), 362);
    for vector in &vectors {
        let filter = vector["filter"].as_str().unwrap();
        let found = verdict(filter, &vector["object"]);
        match (vector["matches"].as_bool(), vector["message"].as_str()) {
            (Some(matches), _) => assert_eq!(found, Ok(matches), "{vector}"),
            (None, Some(message)) => assert_eq!(found, Err(message.to_owned()), "{vector}"),
            (None, None) => {
                assert!(found.clone().is_err_and(|told| told.starts_with("Invalid regular")), "{vector} {found:?}");
            }
        }
    }
}
