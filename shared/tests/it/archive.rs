//! Dictionaries on captured answers: what they learn from some helps with others.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shared::archive::{Dictionary, Packer, Samples, Transcript};

fn captures(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/binance"));
    let mut files: Vec<PathBuf> =
        fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Answers of the search, as sent. Every other teaches, the rest are measured.
#[test]
fn a_dictionary_helps_with_answers_it_has_not_seen() {
    let pages: Vec<Transcript> = captures("search")
        .into_iter()
        .map(|file| Transcript { body: fs::read(file).unwrap(), ..Default::default() })
        .collect();
    assert!(pages.len() > 20);
    let (learnt, held_back): (Vec<_>, Vec<_>) =
        pages.into_iter().enumerate().partition(|(index, _)| index % 2 == 0);
    let pages = |pages: Vec<(usize, Transcript)>| pages.into_iter().map(|(_, page)| page);
    let (learnt, held_back): (Vec<_>, Vec<_>) =
        (pages(learnt).collect(), pages(held_back).collect());
    let learnt: Samples = learnt.iter().collect();
    let dictionary = Arc::new(Dictionary::new(&learnt.train().unwrap()).unwrap());
    let packed_bytes = |dictionary| {
        let packer = Packer::new(dictionary).unwrap();
        held_back.iter().map(|page: &Transcript| packer.pack(page).unwrap().len()).sum::<usize>()
    };
    let (plain, trained) = (packed_bytes(None), packed_bytes(Some(dictionary)));
    assert!(trained * 100 < plain * 80, "{trained} bytes with it, {plain} without");
}
