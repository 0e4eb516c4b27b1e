//! Outcomes, added up.
//!
//! Promises: a sum stays small whatever shadows answer: at most [`OUTPUTS`] outputs by name, at most [`EXAMPLES`] examples.

use modelyard_core::mirror::{Comparison, Example, OutputComparison};

use super::Outcome;
use super::score::Score;

// Names come from answers: a model that made up new ones each time would fill the memory.
const OUTPUTS: usize = 64;
const EXAMPLES: usize = 8;
const NAME: usize = 128;

/// How a pair counts.
pub fn result(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Incomparable => "incomparable",
        Outcome::Compared(scores) if scores.iter().all(|(_, score)| score.exact) => "exact",
        Outcome::Compared(scores) if scores.iter().all(|(_, score)| score.agrees()) => "agreed",
        Outcome::Compared(_) => "differed",
    }
}

/// Adds a pair.
pub fn absorb(sum: &mut Comparison, outcome: Outcome, request_id: &str) {
    let result = result(&outcome);
    let scores = match outcome {
        Outcome::Incomparable => {
            sum.incomparable += 1;
            return;
        }
        Outcome::Compared(scores) => scores,
    };
    sum.compared += 1;
    sum.exact += u64::from(result == "exact");
    sum.agreed += u64::from(result != "differed");
    let worst = scores.iter().filter_map(|(_, score)| score.worst.as_ref());
    if let Some((difference, what)) = worst.max_by(|(one, _), (other, _)| one.total_cmp(other)) {
        example(
            &mut sum.worst,
            Example { request_id: request_id.to_owned(), what: what.clone(), difference: *difference },
        );
    }
    for (name, score) in scores {
        let name: String = name.chars().take(NAME).collect();
        if sum.outputs.len() < OUTPUTS || sum.outputs.contains_key(&name) {
            add(sum.outputs.entry(name).or_default(), &score);
        }
    }
}

/// Keeps the worst; of equals, those that came first.
fn example(worst: &mut Vec<Example>, new: Example) {
    let place = worst.partition_point(|known| known.difference >= new.difference);
    if place < EXAMPLES {
        worst.insert(place, new);
        worst.truncate(EXAMPLES);
    }
}

fn add(sum: &mut OutputComparison, score: &Score) {
    let one = &score.output;
    sum.elements += one.elements;
    sum.agreed += one.agreed;
    sum.same_label += one.same_label;
    sum.in_top_k += one.in_top_k;
    sum.rows += one.rows;
    sum.largest = sum.largest.max(one.largest);
    sum.difference.merge(&one.difference);
    sum.distance.merge(&one.distance);
}
