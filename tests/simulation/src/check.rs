//! What must hold at the end of every run, whatever went wrong in it.

use crate::facts::{End, Facts, Handled, Spot};
use crate::host::World;
use crate::plan::SINK;
use crate::sim::START_MS;
use crate::state::{KeptEffect, is_end};
use sandpost_dispatch::SubscriptionConfig;
use sandpost_message::FaultKind;
use sandpost_ports::broker::Settlement;
use sandpost_ports::plugins::UnknownEffects;
use sandpost_ports::state::{DeadLetter, EffectState, Step};
use std::collections::{BTreeMap, HashMap};

/// Looks at everything; what is wrong goes to `facts.broken`.
pub(crate) fn check(world: &World, facts: &mut Facts) {
    if !facts.broken.is_empty() {
        // What did not end cannot be judged.
        return;
    }
    let mut broken = Vec::new();
    stored(world, facts, &mut broken);
    ends(world, facts, &mut broken);
    attempts(world, facts, &mut broken);
    times(world, facts, &mut broken);
    order(world, facts, &mut broken);
    effects(world, facts, &mut broken);
    ledger(world, facts, &mut broken);
    facts.broken = broken;
}

fn spots(world: &World) -> Vec<(Spot, SubscriptionConfig)> {
    world.broker.log(|log| {
        log.iter()
            .flat_map(|stored| stored.subscriptions.iter().map(|name| (stored.message.id.clone(), name.clone())))
            .filter_map(|spot| world.plan.subscriptions.get(&spot.1).cloned().map(|config| (spot, config)))
            .collect()
    })
}

fn name(world: &World, spot: &Spot) -> String {
    format!("{} on {}", world.sim.name("m", spot.0.as_str()), spot.1)
}

fn handled<'a>(facts: &'a Facts, spot: &Spot) -> impl Iterator<Item = &'a Handled> + use<'a> {
    let spot = spot.clone();
    facts.handled.iter().filter(move |handled| handled.spot == spot)
}

fn letter_of(world: &World, spot: &Spot) -> Option<DeadLetter> {
    let kept = world.memory.kept();
    kept.letters.iter().find(|l| l.message.id == spot.0 && l.subscription == spot.1).cloned()
}

/// What was answered with `Ok` is there.
fn stored(world: &World, facts: &Facts, broken: &mut Vec<String>) {
    for id in &facts.accepted {
        if !world.broker.log(|log| log.iter().any(|stored| stored.message.id == *id)) {
            broken.push(format!("{} was accepted and is nowhere", world.sim.name("m", id.as_str())));
        }
    }
}

/// Exactly one of two ends, and the right one.
fn ends(world: &World, facts: &Facts, broken: &mut Vec<String>) {
    for (spot, config) in spots(world) {
        let who = name(world, &spot);
        let done: Vec<_> =
            facts.settled.iter().filter(|s| s.spot == spot && s.settlement == Settlement::Done).collect();
        let [done] = done[..] else {
            broken.push(format!("{who} ended {} times", done.len()));
            continue;
        };
        let loose = facts.loose.contains(&spot);
        let acked = facts.tried_under(done).is_some_and(|h| matches!(h.end, End::Ack { .. }));
        let Some(letter) = letter_of(world, &spot) else {
            if !acked {
                broken.push(format!("{who} was settled without an acknowledgement and without a dead letter"));
            }
            continue;
        };
        // Of two attempts at once, after the broker lost a lease, one may acknowledge and one not.
        if acked && !loose {
            broken.push(format!("{who} was acknowledged and is a dead letter"));
        }
        let any = |end: fn(End) -> bool| handled(facts, &spot).any(|h| end(h.end));
        let due = match letter.cause.as_str() {
            "rejected" => any(|end| end == End::Reject),
            "outcome-unknown" => any(|end| end == End::Held) && config.unknown_effects == UnknownEffects::Hold,
            "attempts-exhausted" => done.attempt >= config.retry.attempts_max || loose,
            "no-handler" => world.plan.absent_ms.is_some(),
            _ => false,
        };
        if !due {
            broken.push(format!("{who} is a dead letter for `{}`, which did not happen", letter.cause));
        }
        if letter.attempts > config.retry.attempts_max.max(done.attempt) {
            broken.push(format!("{who}: its dead letter tells of {} attempts", letter.attempts));
        }
    }
    let letters = world.memory.kept().letters.len();
    let of_spots = spots(world).iter().filter(|(spot, _)| letter_of(world, spot).is_some()).count();
    if letters != of_spots {
        broken.push(format!("{letters} dead letters, but {of_spots} of messages that were stored"));
    }
}

/// The budget: an attempt counts, unless it was handed back.
fn attempts(world: &World, facts: &Facts, broken: &mut Vec<String>) {
    for (spot, config) in spots(world) {
        let who = name(world, &spot);
        let max = config.retry.attempts_max;
        if let Some(over) = handled(facts, &spot).find(|h| h.attempt > max) {
            broken.push(format!("{who} was tried for the {}th time; {max} are allowed", over.attempt));
        }
        let tried = handled(facts, &spot).count();
        let back = |s: &&crate::facts::Settled| s.spot == spot && matches!(s.settlement, Settlement::HandBack(_));
        let handed_back = facts.settled.iter().filter(back).count();
        if tried > usize::try_from(max).unwrap_or(usize::MAX) + handed_back {
            broken.push(format!("{who} was tried {tried} times; {max} are allowed, {handed_back} handed back"));
        }
    }
    for settled in &facts.settled {
        let who = name(world, &settled.spot);
        let Some(last) = facts.tried_under(settled) else { continue };
        let uncounted = matches!(last.end, End::Cut | End::Fault(FaultKind::NoInstance))
            || last.attempt >= world.plan.subscriptions[&settled.spot.1].retry.attempts_max
            || matches!(last.end, End::Reject | End::Held);
        if matches!(settled.settlement, Settlement::HandBack(_)) && !uncounted {
            broken.push(format!("{who}: attempt {} ended {:?} and was not counted", last.attempt, last.end));
        }
    }
}

/// Nothing comes before its time.
fn times(world: &World, facts: &Facts, broken: &mut Vec<String>) {
    let due: HashMap<_, _> = world
        .broker
        .log(|log| log.iter().map(|stored| (stored.message.id.clone(), stored.message.not_before_ms)).collect());
    for handled in &facts.handled {
        if due.get(&handled.spot.0).is_some_and(|due_ms| handled.from_ms < *due_ms) {
            broken.push(format!("{} was delivered before its delay was over", name(world, &handled.spot)));
        }
    }
    for settled in &facts.settled {
        let Settlement::RetryAt(at_ms) = settled.settlement else { continue };
        let who = name(world, &settled.spot);
        // Its dead letter was kept and the answer lost: it comes again to be looked for there, not to be tried.
        let again = facts.handled.iter().any(|h| h.spot == settled.spot && h.from_turn > settled.turn);
        if !again && letter_of(world, &settled.spot).is_some() {
            continue;
        }
        let retry = &world.plan.subscriptions[&settled.spot.1].retry;
        let Some(tried) = facts.tried_under(settled) else {
            broken.push(format!("{who}: a retry was planned, and nothing was tried"));
            continue;
        };
        let own_ms = match tried.end {
            End::Retry { after_ms } => after_ms,
            _ => None,
        };
        // Counted here once more, by the words of the configuration: doubling, from the least to the longest.
        let mut wait_ms = retry.backoff_min_ms;
        for _ in 1..settled.attempt {
            wait_ms = (wait_ms * 2).min(retry.backoff_max_ms);
        }
        let wait_ms = own_ms.unwrap_or(wait_ms.min(retry.backoff_max_ms));
        if at_ms < tried.over_ms().saturating_add(wait_ms) {
            let early_ms = tried.over_ms() + wait_ms - at_ms;
            broken.push(format!("{who}: attempt {} is followed {early_ms} ms too early", settled.attempt));
        }
        let next = handled(facts, &settled.spot).find(|h| h.from_ms >= settled.at_ms && h.attempt > settled.attempt);
        if next.is_some_and(|next| next.from_ms < at_ms) {
            broken.push(format!("{who} was tried before its back-off was over"));
        }
    }
}

/// One at a time for each key, in the order of publishing.
fn order(world: &World, facts: &Facts, broken: &mut Vec<String>) {
    let mut lines: BTreeMap<(String, String), Vec<Spot>> = BTreeMap::new();
    world.broker.log(|log| {
        for stored in log {
            let Some(key) = &stored.message.ordering_key else { continue };
            for name in &stored.subscriptions {
                let line = lines.entry((name.to_string(), key.clone())).or_default();
                line.push((stored.message.id.clone(), name.clone()));
            }
        }
    });
    for line in lines.values() {
        let mut before: Option<(&Spot, u64)> = None;
        for spot in line {
            let mut tries: Vec<&Handled> = handled(facts, spot).collect();
            tries.sort_by_key(|h| h.from_ms);
            for pair in tries.windows(2) {
                if pair[1].from_ms < pair[0].over_ms() {
                    broken.push(format!("{} has a key and was tried twice at once", name(world, spot)));
                }
            }
            if let (Some((earlier, over_ms)), Some(first)) = (before, tries.first())
                && first.from_ms < over_ms
            {
                let (who, earlier) = (name(world, spot), name(world, earlier));
                broken.push(format!("{who} began before {earlier}, which is before it in its key, was over"));
            }
            let done = facts.settled.iter().find(|s| s.spot == *spot && s.settlement == Settlement::Done);
            let over_ms = done.map_or(0, |done| done.at_ms).max(tries.last().map_or(0, |last| last.over_ms()));
            before = Some((spot, over_ms));
        }
    }
}

/// At most once where the outcome is held or the service knows keys; exactly once where a sound handler acknowledged.
fn effects(world: &World, facts: &Facts, broken: &mut Vec<String>) {
    let plan = &world.plan;
    let kinds = [
        ("mailed", &facts.mails, plan.provider_deduplicates),
        ("published", &facts.published, plan.broker_deduplicates),
    ];
    for (word, done, deduplicated) in kinds {
        for (what, count) in done {
            // Messages of the run itself have no subscription in front.
            let Some((subscription, _)) = what.split_once('.') else { continue };
            let Some(config) = plan.subscriptions.get(subscription) else { continue };
            let again = facts
                .keys
                .get(what)
                .map_or(0, |keys| keys.iter().map(|key| facts.found_sending.get(key).copied().unwrap_or(0)).sum());
            let may = if deduplicated || config.unknown_effects == UnknownEffects::Hold { 1 } else { 1 + again };
            if *count > may {
                broken.push(format!("{what} was {word} {count} times; {may} would be right"));
            }
        }
    }
    for (spot, _) in spots(world) {
        if spot.1.as_str() == SINK {
            continue;
        }
        let done = facts.settled.iter().find(|s| s.spot == spot && s.settlement == Settlement::Done);
        let tried = done.and_then(|done| facts.tried_under(done));
        let sound = tried.is_some_and(|h| h.end == End::Ack { sound: true });
        if !sound {
            continue;
        }
        let body = world.broker.log(|log| {
            let stored = log.iter().find(|stored| stored.message.id == spot.0);
            stored.map(|stored| String::from_utf8_lossy(&stored.message.body).into_owned())
        });
        let Some(body) = body else { continue };
        let Some(sending) = body.strip_prefix("root-").and_then(|n| n.parse::<usize>().ok()) else { continue };
        let sending = &plan.messages[sending];
        let expected = (0..sending.mails)
            .map(|n| (format!("{}.{body}.mail{n}", spot.1), &facts.mails))
            .chain((0..sending.publishes).map(|n| (format!("{}.{body}.event{n}", spot.1), &facts.published)));
        for (what, done) in expected {
            if !done.contains_key(&what) {
                broken.push(format!("{} was acknowledged, but {what} never happened", name(world, &spot)));
            }
        }
    }
}

/// What an operator reads agrees with what happened.
fn ledger(world: &World, facts: &Facts, broken: &mut Vec<String>) {
    let kept = world.memory.kept();
    for (spot, _) in spots(world) {
        let who = name(world, &spot);
        let steps: Vec<_> = kept
            .ledger
            .iter()
            .filter(|entry| entry.message_id == spot.0 && entry.subscription.as_ref() == Some(&spot.1))
            .collect();
        let letter = kept.letters.iter().any(|l| l.message.id == spot.0 && l.subscription == spot.1);
        for entry in &steps {
            let attempt = entry.attempt.unwrap_or(0);
            let tried = || handled(facts, &spot).filter(|h| h.attempt == attempt);
            let true_step = match entry.step {
                Step::Started => tried().next().is_some(),
                Step::Acknowledged => tried().any(|h| matches!(h.end, End::Ack { .. })),
                Step::DeadLettered => letter,
                _ => entry.at_ms >= START_MS,
            };
            if !true_step {
                broken.push(format!("the ledger says of {who} {:?} in attempt {attempt}; it was not so", entry.step));
            }
        }
        let whole = !facts.ledger_gaps && handled(facts, &spot).all(|h| h.end != End::Cut);
        let crashed = facts.handled.iter().any(|h| h.end == End::Cut);
        // The entry is written before the settlement: of two attempts at once both may tell of an end.
        let loose = facts.loose.contains(&spot);
        if whole && !loose && !crashed && !is_crashy(world) {
            let ends: Vec<_> = steps.iter().filter(|entry| is_end(entry.step)).map(|entry| entry.step).collect();
            let expected = if letter { Step::DeadLettered } else { Step::Acknowledged };
            if ends.last() != Some(&expected) {
                broken.push(format!("{who} ended {expected:?}; the ledger tells of {ends:?}"));
            }
            let started = steps.iter().filter(|entry| entry.step == Step::Started).count();
            let tried = handled(facts, &spot).count();
            if started != tried {
                broken.push(format!("{who} was tried {tried} times; the ledger tells of {started}"));
            }
        }
        // An operator has to find what to decide.
        let held = kept
            .letters
            .iter()
            .any(|l| l.message.id == spot.0 && l.subscription == spot.1 && l.cause == "outcome-unknown");
        let of_message = |effect: &&KeptEffect| effect.message == spot.0 && effect.subscription == spot.1;
        let open = kept.effects.values().filter(of_message).any(|effect| effect.state != EffectState::Claimed);
        // Nothing was sent under a key that was released late: the letter is cautious, and leaves nothing to decide.
        if held && !open && !facts.released_late.contains(&spot) {
            broken.push(format!("{who} is held for an unknown effect, and no effect of it is kept"));
        }
    }
}

/// Whether a host may have gone down with an entry of the ledger on its way.
fn is_crashy(world: &World) -> bool {
    world.plan.crashes_max > 0 || !world.plan.stops_ms.is_empty()
}
