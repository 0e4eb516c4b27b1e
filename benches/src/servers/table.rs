//! The comparison of model servers as Markdown.

use super::{Measurement, Outcome};
use crate::report::{Spread, Table, number, show};

/// One model's table.
pub fn render(outcome: &Outcome, model: &str, connections: &[usize]) -> String {
    let mut text = format!("### {model}\n\n");
    if let Some((_, engine)) = outcome.engine.iter().find(|(name, _)| name == model) {
        text.push_str(&format!(
            "The engine called in a loop on one core: {} inferences/s, p50 {} µs, p99 {} µs.\n\n",
            number(engine.per_second, 0),
            number(engine.p50_micros, 1),
            number(engine.p99_micros, 1),
        ));
    }
    text + &table(outcome, model, connections).render()
}

fn table(outcome: &Outcome, model: &str, connections: &[usize]) -> Table {
    let mut head = vec!["server".to_owned(), "form".to_owned()];
    head.extend(connections.iter().map(|count| format!("requests/s at {count}")));
    let main = main_column(connections);
    head.extend([format!("p50 µs at {main}"), format!("p99 µs at {main}")]);
    head.extend(["memory MB", "resident MB", "first answer s"].map(str::to_owned));
    head.extend([format!("× FastAPI at {main}"), format!("× bare at {main}")]);
    head.extend([format!("× engine at {main}"), format!("binary × JSON at {main}")]);
    let engine = outcome.engine.iter().find(|(name, _)| name == model).map_or(f64::NAN, |(_, e)| e.per_second);
    let mut table = Table::new(head);
    for cost in outcome.costs.iter().filter(|cost| cost.model == model) {
        for form in ["JSON", "binary"] {
            let lane = Lane { outcome, model, server: &cost.server, form };
            if lane.at(main).next().is_none() {
                continue;
            }
            let mut cells = vec![cost.server.clone(), form.to_owned()];
            cells.extend(connections.iter().map(|&count| show(lane.spread(count, |m| m.summary.per_second), 0)));
            cells.push(show(lane.spread(main, |m| m.summary.p50_micros), 0));
            cells.push(show(lane.spread(main, |m| m.summary.p99_micros), 0));
            cells.push(number(cost.memory_bytes as f64 / 1e6, 1));
            cells.push(number(cost.resident_bytes as f64 / 1e6, 1));
            cells.push(show(Spread::of(cost.first_answer_seconds.iter().copied()), 3));
            cells.push(show(lane.against("fastapi", main), 2));
            cells.push(show(lane.against("bare", main), 2));
            cells.push(show(Spread::of(lane.at(main).map(|m| m.summary.per_second / engine)), 2));
            cells.push(show(lane.against(&cost.server, main).filter(|_| form == "binary"), 2));
            table.row(cells);
        }
    }
    table
}

/// The connections that ratios are taken at: 32 if measured, else the first.
fn main_column(connections: &[usize]) -> usize {
    connections.iter().copied().find(|&count| count == 32).or(connections.first().copied()).unwrap_or(1)
}

/// One server in one form.
struct Lane<'a> {
    outcome: &'a Outcome,
    model: &'a str,
    server: &'a str,
    form: &'a str,
}

impl<'a> Lane<'a> {
    fn at(&self, connections: usize) -> impl Iterator<Item = &'a Measurement> {
        let (model, server, form) = (self.model, self.server, self.form);
        self.outcome
            .measurements
            .iter()
            .filter(move |m| m.model == model && m.server == server && m.form == form && m.connections == connections)
    }

    fn spread(&self, connections: usize, figure: fn(&Measurement) -> f64) -> Option<Spread> {
        Spread::of(self.at(connections).map(figure))
    }

    /// Ratio of throughputs within each round.
    fn against(&self, server: &'a str, connections: usize) -> Option<Spread> {
        let other = Lane { server, form: "JSON", ..*self };
        Spread::of(self.at(connections).filter_map(|mine| {
            let theirs = other.at(connections).find(|theirs| theirs.round == mine.round)?;
            Some(mine.summary.per_second / theirs.summary.per_second)
        }))
    }
}
