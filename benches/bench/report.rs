//! What was measured, as a table of ratios and as JSON.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

/// One quantity, measured for several contestants side by side. The first is what the others are compared with.
#[derive(Debug)]
pub struct Section {
    pub title: String,
    pub unit: &'static str,
    pub rows: Vec<Row>,
}

/// One contestant: a sample for each repetition, and what else was seen.
#[derive(Debug)]
pub struct Row {
    pub name: String,
    pub samples: Vec<f64>,
    /// Further figures, a sample for each repetition; only their medians are shown.
    pub also: Vec<(&'static str, Vec<f64>)>,
}

impl Section {
    pub fn new(title: impl Into<String>, unit: &'static str, names: &[&str]) -> Self {
        let row = |name: &&str| Row {
            name: (*name).to_owned(),
            samples: Vec::new(),
            also: Vec::new(),
        };
        Self {
            title: title.into(),
            unit,
            rows: names.iter().map(row).collect(),
        }
    }

    /// Ratios to the first row, repetition by repetition: what disturbs the machine disturbs both.
    fn ratios(&self, row: &Row) -> Vec<f64> {
        let base = &self.rows[0].samples;
        row.samples
            .iter()
            .zip(base)
            .map(|(sample, base)| sample / base)
            .collect()
    }

    fn text(&self) -> String {
        let mut lines = vec![[
            self.title.clone(),
            self.unit.to_owned(),
            "spread".into(),
            "ratio".into(),
            "spread".into(),
            String::new(),
        ]];
        for (index, row) in self.rows.iter().enumerate() {
            let ratios = self.ratios(row);
            let (ratio, spread) = if index == 0 {
                let noise = format!("noise {:.0}%", 100.0 * noise(&row.samples));
                ("1.00".to_owned(), noise)
            } else {
                (figure(median(&ratios)), range(&ratios))
            };
            let also: Vec<String> = row
                .also
                .iter()
                .map(|(name, samples)| format!("{name} {}", figure(median(samples))))
                .collect();
            lines.push([
                format!("  {}", row.name),
                figure(median(&row.samples)),
                range(&row.samples),
                ratio,
                spread,
                also.join(", "),
            ]);
        }
        aligned(&lines)
    }

    fn json(&self) -> Value {
        let row = |row: &Row| {
            let ratios = self.ratios(row);
            let also: serde_json::Map<String, Value> = row
                .also
                .iter()
                .map(|(name, samples)| ((*name).to_owned(), json!(samples)))
                .collect();
            json!({
                "name": row.name,
                "samples": row.samples,
                "median": median(&row.samples),
                "ratios": ratios,
                "ratio": median(&ratios),
                "also": also,
            })
        };
        let rows: Vec<Value> = self.rows.iter().map(row).collect();
        json!({
            "title": self.title,
            "unit": self.unit,
            "noise": noise(&self.rows[0].samples),
            "rows": rows,
        })
    }
}

impl Row {
    pub fn push(&mut self, sample: f64, also: &[(&'static str, f64)]) {
        self.samples.push(sample);
        for (name, value) in also {
            match self.also.iter_mut().find(|(known, _)| known == name) {
                Some((_, samples)) => samples.push(*value),
                None => self.also.push((name, vec![*value])),
            }
        }
    }
}

/// Prints all sections.
pub fn print(machine: &Value, sections: &[Section]) -> Result<()> {
    let mut text = format!(
        "\n{}, {} cores, Linux {}\n",
        machine["processor"].as_str().unwrap_or("unknown processor"),
        machine["cores"],
        machine["kernel"].as_str().unwrap_or("?"),
    );
    for section in sections {
        let _ = write!(text, "\n{}", section.text());
    }
    text.push_str(
        "\nMedians over the repetitions, with the least and the greatest. A ratio is to the section's first row in the same\n\
         repetition; the noise beside that row is how far apart its own repetitions are.\n",
    );
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// Writes everything, each sample included, to `file`.
pub fn save(file: &Path, machine: &Value, settings: &Value, sections: &[Section]) -> Result<()> {
    let sections: Vec<Value> = sections.iter().map(Section::json).collect();
    let report = json!({ "machine": machine, "settings": settings, "sections": sections });
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    Ok(())
}

/// `{processor, cores, kernel}`
pub fn machine() -> Value {
    let processor = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    json!({
        "processor": processor,
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
    })
}

pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// How far apart the samples are, as a part of their median.
fn noise(samples: &[f64]) -> f64 {
    let (least, most) = ends(samples);
    (most - least) / median(samples)
}

fn ends(samples: &[f64]) -> (f64, f64) {
    samples.iter().fold(
        (f64::INFINITY, f64::NEG_INFINITY),
        |(least, most), sample| (least.min(*sample), most.max(*sample)),
    )
}

fn range(samples: &[f64]) -> String {
    let (least, most) = ends(samples);
    format!("{}..{}", figure(least), figure(most))
}

/// Three digits that matter.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The first column to the left, figures to the right, the last as it comes.
fn aligned(lines: &[[String; 6]]) -> String {
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let [name, median, spread, ratio, ratio_spread, also] = line;
        let row = format!(
            "{name:<a$}  {median:>b$}  {spread:>c$}  {ratio:>d$}  {ratio_spread:>e$}  {also}",
            a = widths[0].max(58),
            b = widths[1],
            c = widths[2],
            d = widths[3].max(6),
            e = widths[4].max(12),
        );
        let _ = writeln!(text, "{}", row.trim_end());
    }
    text
}
