//! The comparison that a bench prints at its end.

use std::fmt;

/// All samples of a bench, each with that of `raw` at the same time, by what was measured: one or
/// more columns of times.
#[derive(Debug)]
pub(crate) struct Report<const N: usize> {
    /// What a time is the time of.
    per: &'static str,
    /// What the middle one of a row's names is about.
    parameter: &'static str,
    columns: [&'static str; N],
    /// Beside whom.
    other: &'static str,
    rows: Vec<Row<N>>,
}

#[derive(Debug)]
struct Row<const N: usize> {
    /// Of the subject, the parameter, and the contender.
    names: [String; 3],
    samples: Vec<[Times; N]>,
}

/// What the contender took, and `raw`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) own_ns: f64,
    pub(crate) raw_ns: f64,
}

impl<const N: usize> Report<N> {
    pub(crate) fn new(
        per: &'static str,
        parameter: &'static str,
        columns: [&'static str; N],
        other: &'static str,
    ) -> Report<N> {
        Report { per, parameter, columns, other, rows: Vec::new() }
    }

    /// Adds a sample to the row of these names.
    pub(crate) fn add(&mut self, names: [&str; 3], times: [Times; N]) {
        let index = self.rows.iter().position(|row| row.names == names).unwrap_or_else(|| {
            self.rows.push(Row { names: names.map(String::from), samples: Vec::new() });
            self.rows.len() - 1
        });
        self.rows[index].samples.push(times);
    }
}

impl<const N: usize> fmt::Display for Report<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        let Report { per, parameter, other, .. } = self;
        writeln!(f, "\nper {per}, beside {other} at the same time (ratio: median, quartiles)\n")?;
        write!(f, "| bench | {parameter} | contender |")?;
        for column in self.columns {
            write!(f, " {column} | {other} | ratio |")?;
        }
        writeln!(f, "\n|---|---|---|{}", "---|---|---|".repeat(N))?;
        for Row { names: [subject, parameter, contender], samples } in &self.rows {
            write!(f, "| {subject} | {parameter} | {contender} |")?;
            for column in 0..N {
                let of = |time: fn(Times) -> f64| {
                    quartiles(samples.iter().map(|times| time(times[column])))
                };
                let [_, own, _] = of(|times| times.own_ns);
                let [_, raw, _] = of(|times| times.raw_ns);
                let [low, ratio, high] = of(|times| times.own_ns / times.raw_ns);
                write!(f, " {} | {} |", duration(own), duration(raw))?;
                write!(f, " **{ratio:.2}** {low:.2}–{high:.2} |")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn quartiles(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

fn duration(ns: f64) -> String {
    match ns {
        ..1e3 => format!("{ns:.0} ns"),
        ..1e7 => format!("{:.1} µs", ns / 1e3),
        _ => format!("{:.1} ms", ns / 1e6),
    }
}
