//! Figures, and how they are shown.

use serde::Serialize;
use serde_json::Value;

/// One figure with its floor and its target.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// The part: `a` to `g`.
    pub part: char,
    /// What was measured.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// What it is held against, with what that came to in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<Floor>,
    /// What it should come to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
}

/// What a figure is held against.
#[derive(Debug, Serialize)]
pub struct Floor {
    /// What does the same without what is measured.
    pub name: String,
    /// In the figure's unit.
    pub value: f64,
    /// The figure over the floor.
    pub ratio: f64,
}

/// What a figure should come to.
#[derive(Debug, Serialize)]
pub struct Target {
    /// `<=` or `>=`.
    pub bound: &'static str,
    /// In the figure's unit.
    pub value: f64,
    /// Whether it does.
    pub reached: bool,
}

/// Everything that was measured, and what was not.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Value,
    /// In the order of measuring.
    pub figures: Vec<Figure>,
    /// What was not measured, and why.
    pub left_out: Vec<String>,
}

impl Report {
    /// Adds a figure.
    pub fn figure(&mut self, part: char, name: impl Into<String>, value: f64, unit: &'static str) -> &mut Figure {
        let name = name.into();
        progress(&format!("   {name}: {value:.2} {unit}"));
        let place = self.figures.len();
        self.figures.push(Figure { part, name, value, unit, floor: None, target: None });
        &mut self.figures[place]
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut lines = vec![format!("{}", self.machine), String::new()];
        lines.push(format!("{:<2} {:<72} {:>12} {:<10} {:>18} {}", "", "figure", "value", "unit", "target", "floor"));
        for Figure { part, name, value, unit, floor, target } in &self.figures {
            let target = target.as_ref().map_or_else(String::new, |target| {
                format!("{} {} {}", target.bound, target.value, if target.reached { "ok" } else { "MISSED" })
            });
            let floor = floor.as_ref().map_or_else(String::new, |floor| {
                format!("{:.2}x of {} ({:.2})", floor.ratio, floor.name, floor.value)
            });
            lines.push(format!("{part:<2} {name:<72} {value:>12.2} {unit:<10} {target:>18} {floor}"));
        }
        lines.extend(self.left_out.iter().map(|why| format!("not measured: {why}")));
        lines.join("\n")
    }
}

impl Figure {
    /// Held against this.
    pub fn over(&mut self, name: impl Into<String>, floor: f64) -> &mut Self {
        self.floor = Some(Floor { name: name.into(), value: floor, ratio: self.value / floor });
        self
    }

    /// Should be at most this.
    pub fn at_most(&mut self, value: f64) -> &mut Self {
        self.target = Some(Target { bound: "<=", value, reached: self.value <= value });
        self
    }

    /// Should be at least this.
    pub fn at_least(&mut self, value: f64) -> &mut Self {
        self.target = Some(Target { bound: ">=", value, reached: self.value >= value });
        self
    }
}

/// A line for the person who waits.
pub fn progress(line: &str) {
    eprintln!("{line}");
}
