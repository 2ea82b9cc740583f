//! How far the copy of a slave's tables has come: a bar on a terminal, else a line in the log now and then.
//!
//! In: from each worker, rows and bytes as they go over. Out: what went over, the rate, the share that is done and the
//! time left. The total is what the master says of its tables, so share and time are estimates.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

const LOG_EVERY: Duration = Duration::from_secs(10);
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// What the master says of a table.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    pub bytes: u64,
    /// 0 when it was never analysed.
    pub rows: u64,
    /// Of its largest partition, if it has some; 0 where rows are not found by page.
    pub pages: u64,
}

pub(super) struct Progress {
    slave: String,
    tables: usize,
    total: u64,
    began: Instant,
    rows: AtomicU64,
    bytes: AtomicU64,
    /// Of `total`.
    done: AtomicU64,
    tables_done: AtomicU64,
    last: Mutex<Instant>,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub fn new(slave: &str, sizes: &[Size]) -> Progress {
        let total = sizes.iter().map(|size| size.bytes).sum();
        Progress {
            slave: slave.to_owned(),
            tables: sizes.len(),
            total,
            began: Instant::now(),
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            done: AtomicU64::new(0),
            tables_done: AtomicU64::new(0),
            last: Mutex::new(Instant::now()),
            bar: std::io::stderr().is_terminal().then(|| bar(total)),
        }
    }

    pub fn table(&self, size: Size) -> TableProgress<'_> {
        let (rows, bytes, credited) = Default::default();
        TableProgress { all: self, size, rows, bytes, credited, began: Instant::now() }
    }

    /// Shows it if that is due; whoever comes first does.
    fn show(&self) {
        let every = if self.bar.is_some() { DRAW_EVERY } else { LOG_EVERY };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() < every {
            return;
        }
        *last = Instant::now();
        drop(last);
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.done.load(Ordering::Relaxed).min(self.total));
                bar.set_message(self.short_line());
            }
            None => log::info!("{}", self.line()),
        }
    }

    fn line(&self) -> String {
        let took = self.began.elapsed();
        let mut line = format!(
            "slave \"{}\": copying, {} of {} tables, {}",
            self.slave,
            load(&self.tables_done),
            self.tables,
            summary(load(&self.rows), load(&self.bytes), took)
        );
        if let Some(share) = self.share_and_time_left(took) {
            line.push_str(&format!(", {share}"));
        }
        line
    }

    /// Beside the bar, in what 80 columns leave; what matters most comes first.
    fn short_line(&self) -> String {
        let took = self.began.elapsed();
        let seconds = took.as_secs_f64();
        format!(
            "{}: {}, {:.0} rows/s, {:.1} MB/s, {}/{} tables",
            self.slave,
            self.share_and_time_left(took).unwrap_or_else(|| "copying".to_owned()),
            load(&self.rows) as f64 / seconds,
            load(&self.bytes) as f64 / 1e6 / seconds,
            load(&self.tables_done),
            self.tables
        )
    }

    fn share_and_time_left(&self, took: Duration) -> Option<String> {
        let done = load(&self.done);
        let left = time_left(done, self.total, took)?;
        Some(format!("{} %, {} left", done * 100 / self.total.max(1), clock(left)))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// One table's part in it, which several workers may have.
pub(super) struct TableProgress<'a> {
    all: &'a Progress,
    size: Size,
    rows: AtomicU64,
    bytes: AtomicU64,
    credited: AtomicU64,
    began: Instant,
}

impl TableProgress<'_> {
    pub fn add(&self, rows: u64, bytes: u64) {
        let add = |to: &AtomicU64, count| to.fetch_add(count, Ordering::Relaxed) + count;
        add(&self.all.rows, rows);
        add(&self.all.bytes, bytes);
        self.credit(expected(self.size, add(&self.rows, rows), add(&self.bytes, bytes)));
        self.all.show();
    }

    /// All its rows went over: says how long that took.
    pub fn finish(self) -> String {
        self.credit(self.size.bytes);
        self.all.tables_done.fetch_add(1, Ordering::Relaxed);
        summary(load(&self.rows), load(&self.bytes), self.began.elapsed())
    }

    fn credit(&self, done: u64) {
        let before = self.credited.fetch_max(done, Ordering::Relaxed);
        self.all.done.fetch_add(done.saturating_sub(before), Ordering::Relaxed);
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// How much of a table's size has gone over: by its rows where they are estimated, else by bytes.
fn expected(size: Size, rows: u64, bytes: u64) -> u64 {
    let done = match size.rows {
        0 => bytes,
        all => (size.bytes as f64 * (rows as f64 / all as f64)) as u64,
    };
    done.min(size.bytes)
}

fn time_left(done: u64, total: u64, took: Duration) -> Option<Duration> {
    // The first moments say nothing.
    let known = took >= Duration::from_secs(2) && done > 0 && total > 0;
    known.then(|| took.mul_f64(total.saturating_sub(done) as f64 / done as f64))
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds / 3600 {
        0 => format!("{}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

fn summary(rows: u64, bytes: u64, took: Duration) -> String {
    let (megabytes, seconds) = (bytes as f64 / 1e6, took.as_secs_f64());
    // A rate over a moment says nothing.
    match seconds > 0.1 {
        true => format!(
            "{rows} rows, {megabytes:.1} MB in {seconds:.1} s ({:.0} rows/s, {:.1} MB/s)",
            rows as f64 / seconds,
            megabytes / seconds
        ),
        false => format!("{rows} rows, {megabytes:.1} MB"),
    }
}

/// A bar below those of the slaves that are copied at the same time.
fn bar(total: u64) -> ProgressBar {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    let style = ProgressStyle::with_template("[{bar:12}] {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    BARS.get_or_init(MultiProgress::new).add(ProgressBar::new(total).with_style(style))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_times() {
        let analysed = Size { bytes: 1000, rows: 10, pages: 1 };
        assert_eq!(expected(analysed, 5, 77), 500);
        assert_eq!(expected(analysed, 20, 77), 1000, "it grew since");
        assert_eq!(expected(Size { bytes: 1000, ..Size::default() }, 5, 77), 77);
        let s = Duration::from_secs;
        assert_eq!(time_left(250, 1000, s(10)), Some(s(30)));
        assert_eq!(time_left(1200, 1000, s(10)), Some(s(0)));
        assert_eq!(time_left(250, 1000, s(1)), None);
        assert_eq!(time_left(0, 1000, s(10)), None);
        assert_eq!((clock(s(75)), clock(s(3675))), ("1:15".into(), "1:01:15".into()));
    }

    #[test]
    fn what_several_workers_do_is_added_up() {
        let sizes = [Size { bytes: 1000, rows: 10, pages: 1 }, Size { bytes: 3000, ..Size::default() }];
        let progress = Progress::new("s", &sizes);
        let one = progress.table(sizes[0]);
        let two = progress.table(sizes[1]);
        one.add(5, 300);
        two.add(7, 1500);
        assert_eq!(progress.done.load(Ordering::Relaxed), 2000);
        one.finish();
        assert_eq!(progress.done.load(Ordering::Relaxed), 2500);
        assert!(progress.line().contains("1 of 2 tables, 12 rows"), "{}", progress.line());
        assert!(progress.short_line().ends_with("1/2 tables"), "{}", progress.short_line());
    }
}
