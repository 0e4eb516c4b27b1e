//! One plain sentence per event, for `watch`, `history`, the demo and the report's timeline.
//!
//! Promises: one line, no control characters, whatever an event holds.

use std::collections::BTreeMap;

use modelyard_core::beside::BesideKind;
use modelyard_core::event::{Actor, Event, EventBody, Measurement, Order, Outcome, PackagePromotion, TokenGrant};
use modelyard_core::failure::Failure;
use modelyard_core::service::Desired;
use modelyard_core::{Millis, RevisionNumber, Weight};

use crate::text::{count, counted, latency, one_line, percent, sentence};

/// Most characters of a text that an event carries.
const DETAIL_CHARS: usize = 600;

/// What happened, in one sentence.
pub fn narrate(event: &Event) -> String {
    let service = event.service.as_ref().map_or("a service", |name| name.as_str());
    match &event.body {
        EventBody::ControlStarted { pid, version } => {
            format!("The control plane started: version {}, process {pid}.", detail(version))
        }
        EventBody::ControlStopped => "The control plane ended, as it was asked to.".to_owned(),
        EventBody::GatewayStarted { pid } => format!("A gateway was started as process {pid}."),
        EventBody::GatewayAdopted { pid } => {
            format!("The gateway that was already running as process {pid} was adopted.")
        }
        EventBody::GatewayLost { why } => sentence(&format!("The gateway did not answer: {}", detail(why))),
        EventBody::MachineLost { machine, why } => {
            sentence(&format!("Machine {machine} is out of reach: {}", detail(why)))
        }
        EventBody::MachineBack { machine, after_ms } => {
            format!("Machine {machine} is back, {} after it was lost.", Millis(*after_ms))
        }
        EventBody::MachineLeft { machine } => {
            format!("Machine {machine} was let go: its environment names it no more, and nothing of ours is there.")
        }
        EventBody::ServiceSet { spec } => {
            let copies = counted(u64::from(spec.instances), "instance");
            format!("The rules of {service} were set{}: {copies}, strategy {}.", by(&event.actor), spec.strategy.name())
        }
        EventBody::RevisionCreated { revision } => format!(
            "Revision {} of {service} was made from {} {} ({}).",
            revision.number,
            revision.model,
            revision.version,
            revision.package.short()
        ),
        EventBody::RolloutStarted { strategy, stable, candidate, .. } => {
            started(service, strategy, *stable, *candidate, &event.actor)
        }
        EventBody::RolloutStepped { phase, desired, .. } => {
            format!("The rollout went on: {}{}.", detail(phase).trim_end_matches('.'), wanted(desired))
        }
        EventBody::Verdict { verdict, why, cause } => {
            let cause = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
            sentence(&format!("The verdict is {}{cause}: {}", detail(verdict), detail(why)))
        }
        EventBody::Ordered { order } => ordered(order, &event.actor),
        EventBody::OrderRefused { order, why } => {
            let asked = ask(order);
            sentence(&format!(
                "{} asked to {asked}; nothing was changed: {}",
                capital(&person(&event.actor)),
                detail(why)
            ))
        }
        EventBody::DesiredSet { desired } => format!("What should run was set anew{}.", wanted(desired)),
        EventBody::InstanceStarting { instance, revision, machine } => {
            let place = machine.as_ref().map(|machine| format!(" on machine {machine}")).unwrap_or_default();
            format!("Instance {instance} of revision {revision} was asked for{place}.")
        }
        EventBody::InstanceLive { instance, revision, after_ms } => {
            let after = Millis(*after_ms);
            format!(
                "Instance {instance} of revision {revision} is live: it answers its samples correctly, {after} after it was asked for."
            )
        }
        EventBody::Failed { failure } => failed(failure),
        EventBody::InstanceDraining { instance, .. } => {
            format!("Instance {instance} gets no more requests and finishes those it has.")
        }
        EventBody::InstanceStopped { instance, how, .. } => {
            sentence(&format!("Instance {instance} ended: {}", detail(how)))
        }
        EventBody::InstanceAdopted { instance, .. } => format!("Instance {instance} was found running and adopted."),
        EventBody::RouteApplied { generation, weights } => {
            format!("The gateway applied route table {generation}: {}.", split(weights))
        }
        EventBody::Retried { what, why, attempt } => {
            sentence(&format!("{} was tried again (attempt {attempt}) after: {}", capital(&detail(what)), detail(why)))
        }
        EventBody::QualityDropped { revision, cause, why, .. } => sentence(&format!(
            "Revision {revision} serves and was noticed for {cause}: {}; no rollout is open that would act on it",
            detail(why)
        )),
        EventBody::Notified { kind, host, attempts, why: None, .. } => {
            format!("{} was told ({}), attempt {attempts}.", detail(host), kind.name())
        }
        EventBody::Notified { kind, host, attempts, why: Some(why), .. } => sentence(&format!(
            "{} could not be told ({}) in {attempts} attempt{}: {}",
            detail(host),
            kind.name(),
            if *attempts == 1 { "" } else { "s" },
            detail(why)
        )),
        EventBody::EvidenceSeen { evidence } => {
            let units: u64 = evidence.arms.values().map(|arm| arm.units).sum();
            let pairs: u64 = evidence.shadows.values().map(|shadow| shadow.compared).sum();
            let known = [(units, "unit"), (pairs, "compared pair")].into_iter().filter(|&(count, _)| count > 0);
            let known: Vec<String> = known.map(|(number, what)| counted(number, what)).collect();
            match known.is_empty() {
                true => "The evidence so far was written down.".to_owned(),
                false => format!("The evidence so far was written down: {}.", known.join(", ")),
            }
        }
        EventBody::Measured { revisions } => measured(revisions),
        EventBody::RolloutFinished { outcome, cause, failure, stable } => {
            finished(*outcome, cause.map(|cause| cause.name()), failure.as_deref(), *stable)
        }
        EventBody::FlagsSet { definition: Some(definition) } => {
            let flags = definition.get("flags").and_then(serde_json::Value::as_object).map_or(0, serde_json::Map::len);
            format!("The flag definition of {service} was set{}: {}.", by(&event.actor), counted(flags as u64, "flag"))
        }
        EventBody::FlagsSet { definition: None } => {
            format!("The flag definition of {service} was taken away{}.", by(&event.actor))
        }
        EventBody::Frozen { why } => {
            format!("Deploys of {service} were barred{}: {}.", by(&event.actor), detail(why))
        }
        EventBody::Unfrozen => format!("Deploys of {service} are let in again{}.", by(&event.actor)),
        EventBody::ServiceRemoved => format!("{} was removed{}.", capital(service), by(&event.actor)),
        EventBody::AliasMoved { .. }
        | EventBody::Tagged { .. }
        | EventBody::Yanked { .. }
        | EventBody::Unyanked { .. }
        | EventBody::PackagePromoted { .. } => catalogued(event),
        EventBody::MeaningsAccepted { package, changes } => sentence(&detail(&format!(
            "Package {} was deployed{} although callers may misread it: {}",
            package.short(),
            by(&event.actor),
            changes.join("; ")
        ))),
        EventBody::TokenMade { .. } | EventBody::TokenRevoked { .. } | EventBody::TokenRefused { .. } => token(event),
    }
}

/// What happened in the registry.
fn catalogued(event: &Event) -> String {
    let by = by(&event.actor);
    match &event.body {
        EventBody::AliasMoved { model, alias, from: Some(from), to: Some(to) } => {
            format!("{model}@{alias} was moved from {from} to {to}{by}.")
        }
        EventBody::AliasMoved { model, alias, to: Some(to), .. } => format!("{model}@{alias} was set to {to}{by}."),
        EventBody::AliasMoved { model, alias, .. } => format!("{model}@{alias} was taken away{by}."),
        EventBody::Tagged { model, version, key, value } => {
            let of = version.as_ref().map_or_else(|| model.to_string(), |version| format!("{model}:{version}"));
            match value {
                Some(value) => format!("{of} was tagged {} = {}{by}.", detail(key), detail(value)),
                None => format!("The tag {} of {of} was taken away{by}.", detail(key)),
            }
        }
        EventBody::Yanked { model, version, why } => {
            sentence(&format!("{model}:{version} was withdrawn{by}: {}", detail(why)))
        }
        EventBody::Unyanked { model, version } => format!("{model}:{version} may be deployed again{by}."),
        EventBody::PackagePromoted { promotion } => {
            let PackagePromotion { model, version, package, from, to, passed, registry, .. } = &**promotion;
            let after = passed.as_ref().map(|rollout| format!(", after rollout {rollout}")).unwrap_or_default();
            let copied = registry.as_ref().map(|url| format!("; copied to {}", detail(url))).unwrap_or_default();
            format!("{model}:{version} ({}) was promoted from {from} to {to}{by}{after}{copied}.", package.short())
        }
        _ => String::new(),
    }
}

/// What became of a token.
fn token(event: &Event) -> String {
    let by = by(&event.actor);
    match &event.body {
        EventBody::TokenMade { token } => {
            let TokenGrant { id, name, role, environment, repositories, .. } = &**token;
            let within = environment.as_ref().map(|name| format!(" in {name}")).unwrap_or_default();
            let of = if repositories.is_empty() { String::new() } else { format!(" for {}", repositories.join(", ")) };
            detail(&format!("Token {id} of {name} was made{by}: {role}{within}{of}."))
        }
        EventBody::TokenRevoked { token, name, .. } => detail(&format!("Token {token} of {name} was revoked{by}.")),
        EventBody::TokenRefused { token, name, why, asked, times } => {
            let of = name.as_ref().map(|name| format!(" of {name}")).unwrap_or_default();
            let which = token.as_ref().map_or_else(|| "An unknown token".to_owned(), |id| format!("Token {id}{of}"));
            let often = if *times == 1 { String::new() } else { format!(" {times} times, last") };
            sentence(&detail(&format!("{which} was refused{often} at {asked}: {why}")))
        }
        _ => String::new(),
    }
}

fn detail(text: &str) -> String {
    one_line(text, DETAIL_CHARS)
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}

/// Who did it, for people.
pub(crate) fn person(actor: &Actor) -> String {
    match actor {
        Actor::Controller => "the controller".to_owned(),
        Actor::Person(name) => one_line(name, 80),
    }
}

fn by(actor: &Actor) -> String {
    format!(" by {}", person(actor))
}

fn started(
    service: &str,
    strategy: &str,
    stable: Option<RevisionNumber>,
    candidate: RevisionNumber,
    actor: &Actor,
) -> String {
    let strategy = detail(strategy);
    let by = by(actor);
    let article = if strategy.starts_with(['a', 'e', 'i', 'o']) { "An" } else { "A" };
    match stable {
        Some(stable) => format!(
            "{article} {strategy} rollout of {service} was started{by}: from revision {stable} to revision {candidate}."
        ),
        None => format!("The first rollout of {service} was started{by}: revision {candidate}, {strategy}."),
    }
}

fn ordered(order: &Order, actor: &Actor) -> String {
    format!("{} asked to {}.", capital(&person(actor)), ask(order))
}

fn ask(order: &Order) -> String {
    let words = match order {
        Order::Promote { all: true } => "promote the candidate to all traffic",
        Order::Promote { all: false } => "promote the candidate to the next step",
        Order::Pause => "pause the rollout",
        Order::Resume => "resume the rollout",
        Order::Abort => "abort the rollout",
        Order::Try { revision, share: Weight::NONE, .. } => return format!("take revision {revision} away again"),
        Order::Try { revision, share, kind: BesideKind::Shadow } => {
            return format!("try revision {revision} beside it, as shadow of {share} of what stable answers");
        }
        Order::Try { revision, share, kind: BesideKind::Canary } => {
            return format!("try revision {revision} beside it, as canary with {share} of the traffic");
        }
    };
    words.to_owned()
}

fn failed(failure: &Failure) -> String {
    let whose = match &failure.instance {
        Some(instance) => format!("Instance {instance} of revision {}", failure.revision),
        None => format!("Revision {}", failure.revision),
    };
    // Details often begin with the instance, which is named already.
    let name = failure.instance.as_ref().map_or("", |instance| instance.as_str());
    let told = failure.detail.strip_prefix(name).unwrap_or(&failure.detail);
    sentence(&format!("{whose} failed ({}): {}", failure.cause, detail(told)))
}

fn finished(
    outcome: Outcome,
    cause: Option<&str>,
    failure: Option<&Failure>,
    stable: Option<RevisionNumber>,
) -> String {
    let serves = stable.map(|stable| format!("; revision {stable} serves")).unwrap_or_default();
    match outcome {
        Outcome::Promoted => format!("The candidate was promoted{serves}."),
        Outcome::Aborted => format!("The rollout was aborted{serves}."),
        Outcome::Compared => format!("The shadows were compared and are gone again{serves}."),
        Outcome::RolledBack => {
            let cause = cause.map(|cause| format!(" for {cause}")).unwrap_or_default();
            let why = failure
                .map(|failure| format!(" ({})", detail(&failure.detail).trim_end_matches('.')))
                .unwrap_or_default();
            format!("The candidate was taken back{cause}{why}{serves}.")
        }
    }
}

fn wanted(desired: &Desired) -> String {
    let instances: Vec<String> =
        desired.instances.iter().map(|(revision, wanted)| format!("{wanted} of revision {revision}")).collect();
    let traffic = (!desired.weights.is_empty()).then(|| format!("traffic {}", split(&desired.weights)));
    let parked = (desired.park && desired.weights.is_empty()).then(|| "requests parked meanwhile".to_owned());
    let instances = (!instances.is_empty()).then(|| format!("instances {}", instances.join(", ")));
    let parts: Vec<String> = [instances, traffic, parked].into_iter().flatten().collect();
    if parts.is_empty() { String::new() } else { format!("; wanted: {}", parts.join("; ")) }
}

fn split(weights: &BTreeMap<RevisionNumber, Weight>) -> String {
    let shares: Vec<String> =
        weights.iter().map(|(revision, weight)| format!("revision {revision} {weight}")).collect();
    if shares.is_empty() { "nothing is served".to_owned() } else { shares.join(", ") }
}

fn measured(revisions: &BTreeMap<RevisionNumber, Measurement>) -> String {
    let told = revisions.iter().map(|(revision, measurement)| {
        let window = &measurement.window;
        let errors = window.error_rate().map(|rate| format!(", {} errors", percent(rate))).unwrap_or_default();
        let p95 = window.latency.quantile(0.95).map(|micros| format!(", p95 {}", latency(micros))).unwrap_or_default();
        format!("revision {revision} at {}: {} requests{errors}{p95}", measurement.weight, count(window.requests))
    });
    let told: Vec<String> = told.collect();
    if told.is_empty() { "Nothing was measured.".to_owned() } else { format!("Measured: {}.", told.join("; ")) }
}
