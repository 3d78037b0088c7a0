//! The pages around the panels.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::format::time;
use super::market::{self, Query};
use super::refresh::Shown;
use super::snapshot::{Names, Snapshot};

/// What the script must know of a page.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Panels are replaced as they change.
    Status,
    /// The page is asked for again when a batch closes.
    Market,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Market => "market",
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is made for this call")]
fn page(kind: Kind, title: &str, body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" data-page=(kind.as_str()) {
            head {
                meta charset="utf-8";
                title { (title) }
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/style.css";
                script src="/script.js" defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                (body)
            }
        }
    }
}

fn head(is_home: bool) -> Markup {
    html! {
        header.top {
            h1 { @if is_home { "P2P market data" } @else { a href="/" { "P2P market data" } } }
            p.live id="live" { "Times are UTC. " a href="" { "Refresh" } }
        }
    }
}

/// How old what is shown is.
pub(super) fn as_of(snapshot: Option<&Snapshot>, is_away: bool) -> Markup {
    html! {
        p.as-of id="as-of" {
            @match snapshot {
                None => "Nothing was read yet.",
                Some(now) if is_away => { "What follows is old: it was read at " (time(now.read_at)) "." },
                Some(now) => { "As of " (time(now.read_at)) "." },
            }
        }
    }
}

/// The page with everything.
pub(super) fn status(shown: &Shown) -> Markup {
    let mut panels = shown.panels.iter();
    let names = names(shown);
    page(
        Kind::Status,
        "Status · P2P market data",
        html! {
            (head(true))
            main id="main" {
                // Headline and age stand over the whole width.
                @for (_, panel) in panels.by_ref().take(2) { (PreEscaped(panel)) }
                div.panels {
                    @for (id, panel) in panels {
                        (PreEscaped(panel))
                        @if *id == "slots" {
                            section.panel.market id="market" aria-labelledby="market-title" {
                                h2 id="market-title" { "Look at a market" }
                                (market::form(&names, &Query::default()))
                            }
                        }
                    }
                }
            }
            (foot("/api/status.json"))
        },
    )
}

/// The page of a market; `body` is the market, or why there is none.
pub(super) fn market(shown: &Shown, query: &Query, title: &str, body: &Markup) -> Markup {
    let title_text = format!("{title} · P2P market data");
    let json = market::href(&query.fiat, &query.asset, &query.side);
    page(
        Kind::Market,
        &title_text,
        html! {
            (head(false))
            main id="main" {
                h2.market-name { (title) }
                section.panel.market aria-label="Choose a market" { (market::form(&names(shown), query)) }
                div.panels.market-panels { (body) }
            }
            (foot(&json.replacen("/market", "/api/market.json", 1)))
        },
    )
}

fn names(shown: &Shown) -> Names {
    shown.snapshot.as_ref().map(|now| now.names.clone()).unwrap_or_default()
}

fn foot(json: &str) -> Markup {
    html! {
        footer.foot {
            p { "Read-only. The same as " a href=(json) { "JSON" } ". Version " (shared::build::version()) "." }
        }
    }
}
