//! The screen of `p2p watch`: what is known, drawn. Knows no server and no terminal.

use std::collections::VecDeque;

use chrono::TimeDelta;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Gauge, Paragraph, Row, Sparkline, Table};
use tokio::time::Instant;

use super::Look;
use crate::format::{self, count, count_or_unknown};
use crate::ops::Reading;
use crate::ops::broker::QueueState;
use crate::ops::facts::{Facts, Running, Worker};
use crate::ops::health::{self, Level, Problem};
use crate::ops::status::{self, Status};
use crate::timeline::Entry;

/// Looks whose rates are kept: more than a terminal has columns.
const KEPT_RATES: usize = 512;
/// Problems that are shown; `p2p status` has all.
const SHOWN_PROBLEMS: usize = 4;
/// The smallest terminal on which anything can be read.
const MIN_COLUMNS: u16 = 40;
const MIN_ROWS: u16 = 12;

/// All that is known, and how it went over time.
#[derive(Default)]
pub(super) struct Screen {
    status: Option<Status>,
    strip: Vec<Entry>,
    problems: Vec<Problem>,
    /// Jobs and ads per minute, the newest last.
    jobs: VecDeque<u64>,
    ads: VecDeque<u64>,
    /// Of the running batch at the last look.
    before: Option<Progress>,
}

#[derive(Clone, Copy)]
struct Progress {
    at: Instant,
    batch_id: i32,
    ended: i64,
    ads: i64,
}

impl Screen {
    /// Takes in a look.
    pub(super) fn take(&mut self, look: Look) {
        let running = look.status.facts.read().and_then(|facts| facts.running.first());
        let now = running.map(|running| Progress {
            at: look.at,
            batch_id: running.batch_id,
            ended: running.ended,
            ads: running.ads,
        });
        let (jobs, ads) = match (self.before, now) {
            (Some(before), Some(now)) if before.batch_id == now.batch_id => {
                let ms = now.at.saturating_duration_since(before.at).as_millis();
                (per_minute(now.ended - before.ended, ms), per_minute(now.ads - before.ads, ms))
            }
            // Between batches nothing is read, and of a new one nothing is known yet.
            _ => (0, 0),
        };
        for (rates, rate) in [(&mut self.jobs, jobs), (&mut self.ads, ads)] {
            if rates.len() == KEPT_RATES {
                rates.pop_front();
            }
            rates.push_back(rate);
        }
        self.before = now;
        self.problems = health::judge(&look.status);
        self.strip = look.strip;
        self.status = Some(look.status);
    }
}

fn per_minute(more: i64, ms: u128) -> u64 {
    let more = u128::from(u64::try_from(more).unwrap_or(0));
    let rate = (more * 60_000).checked_div(ms).unwrap_or(0);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// Draws everything that fits.
pub(super) fn draw(frame: &mut Frame, screen: &Screen) {
    let area = frame.area();
    if area.width < MIN_COLUMNS || area.height < MIN_ROWS {
        let text = format!("p2p watch needs {MIN_COLUMNS} columns and {MIN_ROWS} rows; q quits");
        return frame.render_widget(Paragraph::new(text), area);
    }
    let Some(status) = &screen.status else {
        return frame.render_widget(Paragraph::new("looking …   q quits"), area);
    };
    let shown = screen.problems.len().min(SHOWN_PROBLEMS);
    let head = u16::try_from(shown).unwrap_or(0) + 1;
    let tables = u16::try_from(tables_rows(status)).unwrap_or(u16::MAX);
    let [head, batch, rates, tables, slots, foot] = Layout::vertical([
        Constraint::Length(head),
        Constraint::Length(4),
        Constraint::Length(5),
        Constraint::Max(tables),
        Constraint::Length(3),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_head(frame, head, screen, status);
    draw_batch(frame, batch, status);
    draw_rates(frame, rates, screen);
    draw_tables(frame, tables, status);
    draw_slots(frame, slots, &screen.strip);
    let hint =
        "q quit   slots: C complete  P partial  F failed  s skipped  u unrecorded  r running";
    frame.render_widget(Paragraph::new(hint).style(Style::new().add_modifier(Modifier::DIM)), foot);
}

fn color(level: Level) -> Color {
    match level {
        Level::Fail => Color::Red,
        Level::Warn => Color::Yellow,
    }
}

fn draw_head(frame: &mut Frame, area: Rect, screen: &Screen, status: &Status) {
    let worst = screen.problems.first().map(|problem| problem.level);
    let style = Style::new().fg(worst.map_or(Color::Green, color)).add_modifier(Modifier::BOLD);
    let mut first = vec![Span::styled(status::headline(&screen.problems), style)];
    if let Some(facts) = status.facts.read() {
        first.push(Span::raw(format!("   {}", facts.now.format("%Y-%m-%d %H:%M:%S UTC"))));
    }
    let mut lines = vec![Line::from(first)];
    for problem in screen.problems.iter().take(SHOWN_PROBLEMS) {
        lines.push(Line::from(vec![
            Span::styled(format!("  {}  ", problem.level), Style::new().fg(color(problem.level))),
            Span::raw(format!("{} → {}", problem.what, problem.todo)),
        ]));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

/// Jobs and time of the running batch, or the time until the next one.
fn draw_batch(frame: &mut Frame, area: Rect, status: &Status) {
    let block = Block::bordered();
    let Some(facts) = status.facts.read() else {
        return frame.render_widget(block.title("batch: not known"), area);
    };
    let Some(running) = facts.running.first() else {
        return draw_pause(frame, area, facts);
    };
    let block = block.title(format!(" {} ", status::running_line(running, facts.now)));
    let [jobs, time] = Layout::vertical([Constraint::Length(1); 2]).areas(block.inner(area));
    frame.render_widget(block, area);
    let label = format!("jobs {} of {}", count(running.ended), count(running.jobs));
    frame.render_widget(gauge(running.ended, running.jobs, Color::Green).label(label), jobs);
    let (whole, passed) = times(running, facts);
    let left = format!("{} until it is cut", format::span((whole - passed).num_seconds().max(0)));
    let time_gauge = gauge(passed.num_seconds(), whole.num_seconds(), Color::Blue);
    frame.render_widget(time_gauge.label(left), time);
}

fn times(running: &Running, facts: &Facts) -> (TimeDelta, TimeDelta) {
    (running.deadline_at - running.opened_at, facts.now - running.opened_at)
}

fn draw_pause(frame: &mut Frame, area: Rect, facts: &Facts) {
    let interval = facts.leader.as_ref().and_then(|leader| leader.interval_seconds);
    let (Some(next), Some(interval)) = (facts.next_slot, interval) else {
        let block = Block::bordered().title(" no batch runs, and no schedule was kept yet ");
        return frame.render_widget(block, area);
    };
    let left = (next - facts.now).num_seconds();
    let block = Block::bordered()
        .title(format!(" no batch runs; the next slot is {} UTC ", format::instant(next)));
    let [_, time] = Layout::vertical([Constraint::Length(1); 2]).areas(block.inner(area));
    frame.render_widget(block, area);
    let passed = gauge(i64::from(interval) - left, interval.into(), Color::Blue);
    frame.render_widget(passed.label(format!("next batch in {}", format::span(left))), time);
}

fn gauge<'a>(part: i64, whole: i64, color: Color) -> Gauge<'a> {
    let percent = (part.max(0) * 100).checked_div(whole).unwrap_or(0).clamp(0, 100);
    Gauge::default()
        .gauge_style(Style::new().fg(color))
        .percent(u16::try_from(percent).unwrap_or(100))
}

fn draw_rates(frame: &mut Frame, area: Rect, screen: &Screen) {
    let [jobs, ads] = Layout::horizontal([Constraint::Fill(1); 2]).areas(area);
    for (area, name, rates) in [(jobs, "jobs", &screen.jobs), (ads, "ads", &screen.ads)] {
        let now = rates.back().copied().unwrap_or(0);
        let most = rates.iter().max().copied().unwrap_or(0);
        let title = format!(" {name} a minute: {now}, at most {most} ");
        let block = Block::bordered().title(title);
        // The newest are at the right edge, as far as there is room.
        let room = usize::from(block.inner(area).width);
        let shown: Vec<u64> =
            rates.iter().skip(rates.len().saturating_sub(room)).copied().collect();
        let line = Sparkline::default().data(shown).style(Style::new().fg(Color::Cyan));
        frame.render_widget(line.block(block), area);
    }
}

/// Rows of the longer of the two tables, with heading and border.
fn tables_rows(status: &Status) -> usize {
    let queues = status.queues.read().map_or(1, Vec::len);
    let workers = status.facts.read().map_or(1, |facts| facts.workers.len());
    queues.max(workers) + 3
}

fn draw_tables(frame: &mut Frame, area: Rect, status: &Status) {
    let [queues, workers] =
        Layout::horizontal([Constraint::Percentage(45), Constraint::Fill(1)]).areas(area);
    let block = Block::bordered().title(" queues ");
    match &status.queues {
        Reading::Away { away } => {
            frame.render_widget(Paragraph::new(away.as_str()).block(block), queues);
        }
        Reading::Read(all) => frame.render_widget(queues_table(all).block(block), queues),
    }
    let Some(facts) = status.facts.read() else {
        return frame.render_widget(Block::bordered().title(" workers: not known "), workers);
    };
    let block = Block::bordered().title(format!(" workers: {} seen ", facts.seen().count()));
    frame.render_widget(workers_table(&facts.workers, facts).block(block), workers);
}

fn queues_table(queues: &[QueueState]) -> Table<'static> {
    let row = |queue: &QueueState| {
        let unacked = queue.unacked.map(|count| i64::try_from(count).unwrap_or(i64::MAX));
        Row::new([
            queue.queue.clone(),
            count_or_unknown(queue.ready),
            count_or_unknown(unacked),
            count_or_unknown(queue.consumers),
        ])
    };
    let widths =
        [Constraint::Fill(1), Constraint::Length(8), Constraint::Length(8), Constraint::Length(9)];
    let heading = Row::new(["queue", "ready", "unacked", "consumers"]);
    Table::new(queues.iter().map(row), widths).header(heading.style(Modifier::BOLD))
}

fn workers_table(workers: &[Worker], facts: &Facts) -> Table<'static> {
    let row = |worker: &Worker| {
        let seen = (facts.now - worker.seen_at).num_seconds().max(0);
        let row = Row::new([
            format::name(&worker.worker_id),
            format::name(&worker.egress_id),
            count(worker.requests_per_minute),
            count(worker.jobs),
            if worker.is_stale { "STALE ".to_owned() } else { String::new() } + &format::span(seen),
        ]);
        let is_bad = worker.is_stale || worker.breaker_open_until.is_some();
        row.style(if is_bad { Style::new().fg(Color::Yellow) } else { Style::new() })
    };
    let widths = [
        Constraint::Fill(2),
        Constraint::Fill(1),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(12),
    ];
    let heading = Row::new(["worker", "egress", "rate", "jobs", "seen ago"]);
    Table::new(workers.iter().map(row), widths).header(heading.style(Modifier::BOLD))
}

/// A letter for what became of a slot, so that colour is not all that tells.
fn mark(entry: &Entry) -> Span<'static> {
    let (letter, color) = match (entry.state.as_str(), entry.outcome.as_deref()) {
        ("open", _) => ("r", Color::Blue),
        ("closed", Some("complete")) => ("C", Color::Green),
        ("closed", Some("partial")) => ("P", Color::Yellow),
        ("closed", _) => ("F", Color::Red),
        ("skipped", _) => ("s", Color::Magenta),
        _ => ("u", Color::Red),
    };
    Span::styled(letter, Style::new().fg(color))
}

fn draw_slots(frame: &mut Frame, area: Rect, strip: &[Entry]) {
    let block = Block::bordered().title(" the last 24 hours, newest at the right ");
    let room = usize::from(block.inner(area).width);
    let shown = &strip[strip.len().saturating_sub(room)..];
    let line: Line = shown.iter().map(mark).collect();
    frame.render_widget(Paragraph::new(line).block(block), area);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::{DateTime, Utc};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::ops::facts::{Leader, Newest};

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-11-22T{text}Z").parse().unwrap()
    }

    fn facts(running: Option<(i64, i64)>) -> Facts {
        let running = running.map(|(ended, ads)| Running {
            batch_id: 7,
            slot_at: at("10:00:00"),
            opened_at: at("10:00:00"),
            deadline_at: at("10:08:00"),
            is_planned: true,
            jobs: 200,
            ended,
            lost: 1,
            shed: 0,
            ads,
            requests: ended,
            is_cancel_asked: false,
        });
        Facts {
            now: at("10:02:00"),
            leader: Some(Leader {
                coordinator_id: "c-1".into(),
                leading_since: at("09:00:00"),
                epoch: 3,
                interval_seconds: Some(600),
                is_leading: true,
            }),
            next_slot: Some(at("10:10:00")),
            last_slot: Some(at("10:00:00")),
            running: running.into_iter().collect(),
            batches: Vec::new(),
            workers: vec![Worker {
                worker_id: "w-\u{1b}[2J1".into(),
                egress_id: "default".into(),
                requests_per_minute: 100,
                started_at: at("09:00:00"),
                seen_at: at("10:01:57"),
                is_stale: false,
                breaker_open_until: None,
                breaker_openings: 0,
                jobs: 50,
                requests: 50,
                last_ended_at: None,
            }],
            newest: Newest {
                complete_at: Some(at("10:01:00")),
                complete_age_seconds: Some(60),
                batch_slot_at: None,
            },
            gaps_open: None,
            quarantine_open: 0,
            quality: None,
            requests_waiting: 0,
        }
    }

    fn look(at: Instant, facts: Reading<Facts>) -> Look {
        let entry = |state: &str, outcome: Option<&str>| Entry {
            state: state.into(),
            outcome: outcome.map(str::to_owned),
            ..Entry::default()
        };
        let strip = vec![
            entry("closed", Some("complete")),
            entry("skipped", None),
            entry("closed", Some("partial")),
            entry("closed", Some("failed")),
            entry("unrecorded", None),
            entry("open", None),
        ];
        let away = || Reading::away("not set");
        let (queues, limits) = (away(), Reading::away("not set"));
        let status = Status { facts, queues, limits, is_broker_told: false, is_redis_told: false };
        Look { at, status, strip }
    }

    fn drawn(screen: &Screen, columns: u16, rows: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
        terminal.draw(|frame| draw(frame, screen)).unwrap();
        terminal.backend().to_string()
    }

    #[tokio::test]
    async fn a_running_batch_is_drawn_with_progress_rates_and_slots() {
        let start = Instant::now();
        let mut screen = Screen::default();
        assert!(drawn(&screen, 100, 30).contains("looking"));
        screen.take(look(start, Reading::Read(facts(Some((50, 900))))));
        let later = start + Duration::from_secs(2);
        screen.take(look(later, Reading::Read(facts(Some((60, 1100))))));
        let shown = drawn(&screen, 100, 30);
        for part in [
            "healthy",
            "10:02:00 UTC",
            "batch 7: 60 of 200 jobs",
            "jobs 60 of 200",
            "6m until it is cut",
            "jobs a minute: 300, at most 300",
            "ads a minute: 6000",
            "CsPFur",
            "w-\u{fffd}[2J1",
            "q quit",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
    }

    #[tokio::test]
    async fn between_batches_the_next_slot_is_told() {
        let mut screen = Screen::default();
        screen.take(look(Instant::now(), Reading::Read(facts(None))));
        let shown = drawn(&screen, 100, 30);
        assert!(shown.contains("next batch in 8m") && shown.contains("at most 0"), "{shown}");
    }

    #[tokio::test]
    async fn a_database_that_is_away_is_told() {
        let mut screen = Screen::default();
        screen.take(look(Instant::now(), Reading::away("connection refused")));
        let shown = drawn(&screen, 100, 30);
        assert!(shown.contains("NOT HEALTHY") && shown.contains("connection refused"), "{shown}");
    }

    /// Whatever the terminal is made to, nothing panics.
    #[tokio::test]
    async fn every_size_can_be_drawn() {
        let mut screen = Screen::default();
        screen.take(look(Instant::now(), Reading::Read(facts(Some((200, 1))))));
        for columns in [1, 20, 39, 40, 80, 300] {
            for rows in [1, 5, 11, 12, 24, 100] {
                drawn(&screen, columns, rows);
            }
        }
        assert!(drawn(&screen, 39, 12).contains("p2p watch needs"));
    }
}
