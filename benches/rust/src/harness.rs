//! Two sides measured in turns, their medians and the spread.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// How long is measured.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Samples of each side.
    pub rounds: usize,
    /// About how long one sample takes.
    pub sample: Duration,
}

/// The goal of a comparison.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// The speed of the reference, this many times.
    Speed(f64),
    /// At most this many nanoseconds.
    Nanoseconds(f64),
    /// Only shown.
    None,
}

/// The samples of both sides, in nanoseconds an operation.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The work.
    pub name: String,
    /// Our samples.
    pub ours: Vec<f64>,
    /// The reference's, taken in turns with ours.
    pub reference: Vec<f64>,
    /// The expected result.
    pub goal: Goal,
}

impl Pace {
    /// For figures.
    pub const FULL: Self = Self { rounds: 41, sample: Duration::from_millis(5) };
    /// For a look whether all works.
    pub const QUICK: Self = Self { rounds: 7, sample: Duration::from_micros(200) };

    /// Measures two sides in turns; each does a number of operations and tells how long that took.
    pub fn in_turns(
        &self,
        name: String,
        goal: Goal,
        ours: &mut dyn FnMut(u32) -> Duration,
        reference: &mut dyn FnMut(u32) -> Duration,
    ) -> Comparison {
        let numbers = (self.operations(ours), self.operations(reference));
        self.samples_in_turns(name, goal, &mut || each(ours(numbers.0), numbers.0), &mut || {
            each(reference(numbers.1), numbers.1)
        })
    }

    /// Takes samples of two sides in turns; each gives nanoseconds an operation.
    pub fn samples_in_turns(
        &self,
        name: String,
        goal: Goal,
        ours: &mut dyn FnMut() -> f64,
        reference: &mut dyn FnMut() -> f64,
    ) -> Comparison {
        let samples: Vec<(f64, f64)> = (0..self.rounds).map(|_| (ours(), reference())).collect();
        let (ours, reference) = samples.into_iter().unzip();
        Comparison { name, ours, reference, goal }
    }

    /// How many operations fill a sample; counting them warms the side up.
    fn operations(&self, side: &mut dyn FnMut(u32) -> Duration) -> u32 {
        let mut number = 1;
        while side(number) < self.sample / 2 && number < 1 << 24 {
            number *= 2;
        }
        number
    }
}

impl Comparison {
    /// How many times faster than the reference we are.
    pub fn speed(&self) -> f64 {
        median(&self.reference) / median(&self.ours)
    }

    fn quartiles(&self) -> (f64, f64) {
        let rounds: Vec<f64> =
            self.ours.iter().zip(&self.reference).map(|(ours, reference)| reference / ours).collect();
        (quantile(&rounds, 0.25), quantile(&rounds, 0.75))
    }

    fn row(&self) -> [String; 7] {
        let ours = median(&self.ours);
        let (low, high) = self.quartiles();
        let (goal, met) = match self.goal {
            Goal::Speed(times) => (format!(">= {times} x"), answer(self.speed() >= times)),
            Goal::Nanoseconds(most) => (format!("< {most} ns"), answer(ours < most)),
            Goal::None => (String::from("-"), "-"),
        };
        let speed = format!("{:.2} x its speed", self.speed());
        [
            self.name.clone(),
            nanoseconds(ours),
            nanoseconds(median(&self.reference)),
            speed,
            format!("{low:.2} .. {high:.2}"),
            goal,
            met.to_owned(),
        ]
    }
}

/// How long `operation` takes, done `number` times, dropping of its results included.
pub fn timed<T>(number: u32, mut operation: impl FnMut(u32) -> T) -> Duration {
    let began = Instant::now();
    for turn in 0..number {
        drop(black_box(operation(turn)));
    }
    began.elapsed()
}

/// An aligned table, which is also one in Markdown.
pub fn table(comparisons: &[Comparison]) -> String {
    let mut rows = vec![["work", "ours", "reference", "ratio", "quartiles", "goal", "met"].map(String::from)];
    rows.extend(comparisons.iter().map(Comparison::row));
    let widths: [usize; 7] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or_default());
    let line = |row: &[String; 7]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("| {} |", cells.join(" | "))
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    lines.insert(1, format!("|-{}-|", widths.map(|width| "-".repeat(width)).join("-|-")));
    lines.join("\n")
}

fn each(taken: Duration, number: u32) -> f64 {
    taken.as_secs_f64() * 1e9 / f64::from(number)
}

fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * part).round() as usize]
}

fn nanoseconds(value: f64) -> String {
    match value {
        value if value < 100.0 => format!("{value:.1} ns"),
        value if value < 100_000.0 => format!("{value:.0} ns"),
        value => format!("{:.0} us", value / 1e3),
    }
}

fn answer(met: bool) -> &'static str {
    if met { "yes" } else { "NO" }
}
