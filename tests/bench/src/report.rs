//! The report: every figure with its spread, for machines and for people.

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use serde_json::{Map, Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// A figure, once per run.
#[derive(Debug)]
pub(crate) struct Figure {
    name: &'static str,
    unit: &'static str,
    values: Vec<f64>,
}

impl Figure {
    /// Seconds.
    pub(crate) fn seconds(name: &'static str, values: &[Duration]) -> Self {
        let values = values.iter().map(Duration::as_secs_f64).collect();
        Self { name, unit: "s", values }
    }

    /// Milliseconds.
    pub(crate) fn milliseconds(name: &'static str, values: &[Duration]) -> Self {
        let values = values.iter().map(|value| value.saturating_mul(1_000).as_secs_f64()).collect();
        Self { name, unit: "ms", values }
    }

    /// Anything that is counted.
    pub(crate) fn count(name: &'static str, unit: &'static str, values: &[u32]) -> Self {
        Self { name, unit, values: values.iter().copied().map(f64::from).collect() }
    }

    /// How many times another's figure ours is: pairs of both.
    pub(crate) fn ratio(name: &'static str, values: &[(u32, u32)]) -> Self {
        let ratio = |(ours, theirs): &(u32, u32)| {
            let ours = Duration::from_secs(u64::from(*ours));
            ours.checked_div(*theirs).unwrap_or_default().as_secs_f64()
        };
        Self { name, unit: "times", values: values.iter().map(ratio).collect() }
    }

    fn json(&self) -> Value {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        let median = values.get(values.len().saturating_sub(1) / 2);
        json!({
            "median": median,
            "min": values.first(),
            "max": values.last(),
            "unit": self.unit,
            "runs": values.len(),
            "measured_at": chrono::Utc::now().to_rfc3339(),
        })
    }
}

/// The report. Figures of cases that are not run again stay as they are, with their date.
#[derive(Debug)]
pub(crate) struct Report {
    folder: PathBuf,
    figures: Map<String, Value>,
}

impl Report {
    /// The report in a folder, or an empty one.
    pub(crate) fn open(folder: &Path) -> eyre::Result<Self> {
        let figures = match fs::read(folder.join("report.json")) {
            Ok(text) => {
                let mut known: Value = serde_json::from_slice(&text)?;
                serde_json::from_value(known["figures"].take())?
            }
            Err(_) => Map::new(),
        };
        Ok(Self { folder: folder.to_owned(), figures })
    }

    /// Enters figures.
    pub(crate) fn add(&mut self, figures: &[Figure]) {
        for figure in figures {
            self.figures.insert(figure.name.to_owned(), figure.json());
        }
    }

    /// Writes both forms.
    pub(crate) fn write(&self) -> eyre::Result<()> {
        let json = json!({"figures": self.figures});
        fs::write(self.folder.join("report.json"), serde_json::to_vec_pretty(&json)?)?;
        fs::write(self.folder.join("report.md"), format!("{}\n", self.table()))?;
        Ok(())
    }

    /// For people.
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN);
        table.set_header(["figure", "median", "min", "max", "unit", "runs", "measured"]);
        for (name, figure) in &self.figures {
            let number = |key: &str| match figure[key].as_f64() {
                Some(value) => format!("{value:.3}"),
                None => "-".to_owned(),
            };
            let day = figure["measured_at"].as_str().and_then(|at| at.get(..10));
            table.add_row([
                name.clone(),
                number("median"),
                number("min"),
                number("max"),
                figure["unit"].as_str().unwrap_or_default().to_owned(),
                figure["runs"].to_string(),
                day.unwrap_or_default().to_owned(),
            ]);
        }
        for column in 1..=3 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

/// The value below which that many of a hundred lie.
pub(crate) fn percentile<T: Ord + Copy>(values: &mut [T], percent: usize) -> Option<T> {
    values.sort_unstable();
    let rank = values.len().saturating_mul(percent).div_ceil(100).saturating_sub(1);
    values.get(rank).copied()
}
