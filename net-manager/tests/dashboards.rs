//! The dashboard and the alerts in `scripts/` speak of what the net manager exports.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use net_common::{DropReason, Policy, ProgramCounter};
use net_manager::metrics::METRICS;
use serde::Deserialize;

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts")
}

#[derive(Deserialize)]
struct Dashboard {
    uid: String,
    panels: Vec<Panel>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Panel {
    id: u32,
    title: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    targets: Vec<Target>,
    grid_pos: Place,
}

#[derive(Clone, Copy, Deserialize)]
struct Place {
    h: u32,
    w: u32,
    x: u32,
    y: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    expr: String,
    legend_format: String,
}

fn dashboard() -> Dashboard {
    let text = fs::read_to_string(scripts().join("grafana/xylem-data-path.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn rules() -> String {
    let text = fs::read_to_string(scripts().join("prometheus/rules.yml")).unwrap();
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .fold(String::new(), |text, line| text + line + "\n")
}

/// Every query of the dashboard with its legend, and every rule.
fn queries() -> Vec<String> {
    let targets = dashboard().panels.into_iter().flat_map(|panel| panel.targets);
    let targets = targets.map(|target| format!("{}\n{}", target.expr, target.legend_format));
    let rules = rules();
    let rules = rules.split("- ").filter(|rule| rule.contains("expr:"));
    targets.chain(rules.map(str::to_owned)).collect()
}

/// The names of metrics in a text; of a histogram its own name.
fn names(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.match_indices("xylem_net_")
        .map(|(at, _)| {
            let rest = &text[at..];
            let name = &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())];
            let of_histogram =
                ["_bucket", "_count", "_sum"].iter().find_map(|part| name.strip_suffix(part));
            of_histogram.filter(|name| name.ends_with("_seconds")).unwrap_or(name)
        })
        .collect()
}

/// The values that labels are compared with, by label.
fn compared(text: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut values = BTreeMap::<&str, BTreeSet<&str>>::new();
    for operator in ["=~\"", "!~\"", "!=\"", "=\""] {
        for (at, _) in text.match_indices(operator) {
            let before = text[..at].trim_end_matches('!');
            let start = before.rfind(|c: char| !c.is_ascii_lowercase() && c != '_');
            let label = &before[start.map_or(0, |start| start + 1)..];
            let rest = &text[at + operator.len()..];
            let value = &rest[..rest.find('"').unwrap()];
            values.entry(label).or_default().extend(value.split('|'));
        }
    }
    values
}

/// The labels that a query speaks of, but for those of [`compared`].
fn mentioned(query: &str) -> BTreeSet<&str> {
    let between = |start: &'static str, end: &'static [char]| {
        query.match_indices(start).map(move |(at, _)| {
            let rest = &query[at + start.len()..];
            &rest[..rest.find(end).unwrap_or(rest.len())]
        })
    };
    let lists = between("by (", &[')']).chain(between("on (", &[')']));
    lists
        .flat_map(|list| list.split(", "))
        .chain(between("$labels.", &[' ', '}']))
        .chain(between("{{", &['}']).filter(|label| !label.contains(' ')))
        .collect()
}

/// The labels that what a query asks for has, as Prometheus stores it: it puts the node it
/// scraped into `instance`, and an instance of a service into `exported_instance`.
fn labels(query: &str, recorded: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let of = |name: &str| METRICS.into_iter().find(|(known, _)| *known == name);
    let exported = names(query).into_iter().filter_map(of).flat_map(|(_, labels)| labels);
    let stored = exported.map(|label| match *label {
        "instance" => "exported_instance".to_owned(),
        label => label.to_owned(),
    });
    let recorded = recorded.iter().filter(|(name, _)| query.contains(*name));
    let recorded = recorded.flat_map(|(_, labels)| labels.clone());
    stored.chain(recorded).chain(["instance".to_owned(), "job".to_owned()]).collect()
}

/// The labels of what the rules record, by its name.
fn recorded() -> BTreeMap<String, BTreeSet<String>> {
    let queries = queries();
    let rules = queries.iter().filter_map(|rule| rule.strip_prefix("record: "));
    let labels = |rule: &str| mentioned(rule).into_iter().map(str::to_owned).collect();
    rules.map(|rule| (rule.lines().next().unwrap().to_owned(), labels(rule))).collect()
}

#[test]
fn every_metric_that_is_shown_is_exported_and_the_other_way_round() {
    let queries = queries();
    let used: BTreeSet<&str> = queries.iter().flat_map(|query| names(query)).collect();
    let exported = BTreeSet::from(METRICS.map(|(name, _)| name));
    let unknown: Vec<_> = used.difference(&exported).collect();
    assert!(unknown.is_empty(), "not exported: {unknown:?}");
    let unused: Vec<_> = exported.difference(&used).collect();
    assert!(unused.is_empty(), "neither shown nor watched: {unused:?}");
}

#[test]
fn labels_exist_and_are_compared_with_what_they_can_be() {
    let reasons: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    let actions: BTreeSet<_> = ProgramCounter::ALL.iter().map(|counter| counter.name()).collect();
    let recorded = recorded();
    for query in queries() {
        let labels = labels(&query, &recorded);
        let compared = compared(&query);
        for label in mentioned(&query).into_iter().chain(compared.keys().copied()) {
            assert!(labels.contains(label), "nothing there has the label {label}: {query}");
        }
        for (label, values) in compared {
            let values = values.into_iter().filter(|value| !value.starts_with('$'));
            for value in values {
                let can_be = match label {
                    "reason" => reasons.contains(value),
                    "action" => actions.contains(value),
                    "policy" => (1..=5).any(|raw| {
                        Policy::from_raw(raw).is_some_and(|policy| policy.name() == value)
                    }),
                    "map" => net_maps::MAPS.contains(&value),
                    _ => true,
                };
                assert!(can_be, "{label} is never {value:?}: {query}");
            }
        }
    }
}

#[test]
fn the_dashboard_is_whole() {
    let Dashboard { uid, panels } = dashboard();
    assert_eq!(uid, "xylem-data-path");
    let ids: BTreeSet<u32> = panels.iter().map(|panel| panel.id).collect();
    assert_eq!(ids.len(), panels.len(), "ids are unique");
    for panel in &panels {
        assert!(panel.kind == "row" || !panel.targets.is_empty(), "{} shows nothing", panel.title);
        let Place { w, x, .. } = panel.grid_pos;
        assert!(x + w <= 24, "{} is wider than the dashboard", panel.title);
    }
    let overlap = |a: &Place, b: &Place| {
        a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h
    };
    for (index, panel) in panels.iter().enumerate() {
        for other in &panels[index + 1..] {
            let is_clear = !overlap(&panel.grid_pos, &other.grid_pos);
            assert!(is_clear, "{} lies over {}", panel.title, other.title);
        }
    }
}

#[test]
fn every_alert_says_what_to_do() {
    let rules = rules();
    for alert in rules.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        for part in ["expr:", "severity:", "summary:", "description:"] {
            assert!(alert.contains(part), "{name} has no {part}");
        }
    }
    assert!(rules.matches("- alert: ").count() >= 10);
}
