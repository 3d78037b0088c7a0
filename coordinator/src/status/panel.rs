//! The pieces that all panels are made of.

use maud::{Markup, Render, html};

/// A state as a sign: a shape and a letter besides the colour, and a word for those who hear it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Good,
    Warn,
    Bad,
}

impl Render for Mark {
    fn render(&self) -> Markup {
        let (class, sign, word) = match self {
            Self::Good => ("mark good", "✓", "good"),
            Self::Warn => ("mark warn", "!", "attention"),
            Self::Bad => ("mark bad", "✕", "bad"),
        };
        html! { span class=(class) { span aria-hidden="true" { (sign) } span.unseen { (word) } } }
    }
}

/// A part of the page that is sent anew when it changes, known by its `id`.
#[expect(clippy::needless_pass_by_value, reason = "it is made for this call")]
pub(super) fn panel(id: &str, title: &str, body: Markup) -> Markup {
    html! {
        section.panel id=(id) aria-labelledby={ (id) "-title" } {
            h2 id={ (id) "-title" } { (title) }
            (body)
        }
    }
}

/// What stands where there is nothing to show.
pub(super) fn empty(words: &str) -> Markup {
    html! { p.empty { (words) } }
}
