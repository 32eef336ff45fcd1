//! The comparison that is printed at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::server::{Contender, Task};

/// Samples of fewer connections are for warming up, or only show that it works.
const CONNECTIONS_MIN: u64 = 50;

/// What one contender did in one sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) connections: u64,
    /// The time of a connection: the median for [`Task::Stamp`], the average for [`Task::Close`].
    pub(crate) wall_ns: u64,
    /// What a connection cost the processes of the server, on average.
    pub(crate) cpu_ns: u64,
}

impl Sample {
    /// What it comes to for all connections, as criterion wants to know it.
    pub(crate) fn total(self) -> Duration {
        Duration::from_nanos(self.wall_ns * self.connections)
    }
}

/// All samples, each with that of the reference at the same time.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: BTreeMap<(Task, usize, Contender), Vec<(Sample, Sample)>>,
}

impl Report {
    pub(crate) fn add(
        &mut self,
        task: Task,
        workers: usize,
        contender: Contender,
        sample: Sample,
        reference: Sample,
    ) {
        if sample.connections >= CONNECTIONS_MIN {
            self.rows.entry((task, workers, contender)).or_default().push((sample, reference));
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nper connection, beside raw at the same time (ratio: median, quartiles)\n")?;
        writeln!(f, "| bench | workers | contender | wall | raw | ratio | CPU | raw | ratio |")?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|")?;
        for ((task, workers, contender), pairs) in &self.rows {
            write!(f, "| {} | {workers} | {} |", task.subject(), contender.name())?;
            for of in [|sample: &Sample| sample.wall_ns, |sample: &Sample| sample.cpu_ns] {
                let own = quartiles(pairs.iter().map(|(sample, _)| ns(of(sample))));
                let raw = quartiles(pairs.iter().map(|(_, raw)| ns(of(raw))));
                let ratio = quartiles(pairs.iter().map(|(own, raw)| ns(of(own)) / ns(of(raw))));
                write!(f, " {:.1} µs | {:.1} µs |", own[1] / 1e3, raw[1] / 1e3)?;
                write!(f, " **{:.2}** {:.2}–{:.2} |", ratio[1], ratio[0], ratio[2])?;
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

#[allow(clippy::cast_precision_loss, reason = "hours in nanoseconds are exact")]
fn ns(nanoseconds: u64) -> f64 {
    nanoseconds as f64
}
