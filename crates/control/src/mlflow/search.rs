//! Search over models and versions, in pages.
//!
//! A page token is the position of the next page, so that pages stay stable while nothing is added.

use modelyard_registry::Store;
use modelyard_registry::catalog::{Filter, Found, Known};
use serde_json::{Value, json};

use super::answer::{Refused, model_value, version_value};
use super::{Answer, Fields};
use crate::catalogue::Catalogue;

/// Most that one page holds. Source: MLflow's own limits.
const MOST_MODELS: usize = 1_000;
const MOST_VERSIONS: usize = 200_000;

fn filter(fields: &Fields) -> Result<Filter, Refused> {
    fields
        .text("filter")
        .unwrap_or_default()
        .parse()
        .map_err(|error| Refused::invalid(format!("Invalid filter: {error}")))
}

/// One page of `all`, and the token of the next.
fn page(fields: &Fields, most: usize, usual: usize, all: Vec<Value>) -> Result<(Vec<Value>, Option<String>), Refused> {
    let size = fields.number("max_results")?.unwrap_or(usual);
    if size == 0 || size > most {
        return Err(Refused::invalid(format!("Invalid value for max_results: {size}; it must be from 1 to {most}")));
    }
    let from = match fields.text("page_token") {
        Some(token) => token.parse().map_err(|_| Refused::invalid("the page token is none of this registry"))?,
        None => 0_usize,
    };
    let end = from.saturating_add(size);
    let next = (end < all.len()).then(|| end.to_string());
    Ok((all.into_iter().skip(from).take(size).collect(), next))
}

/// Sorts documents as `order_by` says, by its first key first.
fn sort(fields: &Fields, allowed: &[&str], all: &mut [Value]) -> Result<(), Refused> {
    let orders = fields.0.get("order_by").and_then(Value::as_array).cloned();
    let single = fields.text("order_by").map(Value::from);
    let orders: Vec<Value> = orders.unwrap_or_else(|| single.into_iter().collect());
    // The last is sorted by first: sorting keeps the order of equals.
    for order in orders.iter().rev() {
        let text = order.as_str().unwrap_or_default();
        let (key, way) = text.trim().split_once(' ').unwrap_or((text.trim(), "ASC"));
        let key = match key {
            "timestamp" => "last_updated_timestamp",
            "version_number" => "version",
            key => key,
        };
        if !allowed.contains(&key) {
            return Err(Refused::invalid(format!("Invalid order_by: {}", text.chars().take(80).collect::<String>())));
        }
        let number = |one: &Value| one[key].as_u64().or_else(|| one[key].as_str()?.parse().ok());
        let goes_down = way.trim().eq_ignore_ascii_case("desc");
        all.sort_by(|one, other| {
            let order = match (number(one), number(other)) {
                (Some(one), Some(other)) => one.cmp(&other),
                _ => one[key].as_str().cmp(&other[key].as_str()),
            };
            if goes_down { order.reverse() } else { order }
        });
    }
    Ok(())
}

fn answer(name: &str, (page, next): (Vec<Value>, Option<String>)) -> Value {
    let mut document = json!({ name: page });
    if let Some(next) = next {
        document["next_page_token"] = json!(next);
    }
    document
}

/// `registered-models/search`
pub async fn models(catalogue: &Catalogue, fields: &Fields) -> Answer {
    let filter = filter(fields)?;
    let all = catalogue.ask(Store::known).await?;
    let takes = |held: &&Known| filter.takes_model(held.name.as_str(), &held.said.tags);
    let mut found: Vec<Value> = all.iter().filter(takes).map(model_value).collect();
    sort(fields, &["name", "creation_timestamp", "last_updated_timestamp"], &mut found)?;
    Ok(answer("registered_models", page(fields, MOST_MODELS, 100, found)?))
}

/// `model-versions/search`
pub async fn versions(catalogue: &Catalogue, fields: &Fields) -> Answer {
    let filter = filter(fields)?;
    let (taken, all) = catalogue.ask(move |store| Ok((store.search(&filter)?, store.known()?))).await?;
    let value = |found: &Found| {
        let held = all.iter().find(|held| held.name == found.listed.model)?;
        Some(version_value(held, &found.listed))
    };
    let mut found: Vec<Value> = taken.iter().filter_map(value).collect();
    sort(fields, &["name", "version", "creation_timestamp", "last_updated_timestamp"], &mut found)?;
    Ok(answer("model_versions", page(fields, MOST_VERSIONS, 10_000, found)?))
}
